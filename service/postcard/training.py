"""One stage of training: its optimiser, schedule, averaged weights and checkpoints."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

LONGEST_STEP_SECONDS = 20.0  # a step that took longer was paused (SIGSTOP); so much of it counts
SECONDS_BETWEEN_CHECKPOINTS = 180.0
STEPS_BETWEEN_REPORTS = 50


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: until `steps` or `minutes` of training are done, whichever comes first."""

    steps: int
    minutes: float = math.inf


class Training:
    """Trains `module` with AdamW under a cosine schedule, and keeps an exponential average of its weights.

    Steps and trained seconds are counted, not the clock, so a run may be paused, killed and resumed from `checkpoint`.
    """

    def __init__(self, module: nn.Module, *, learning_rate: float, budget: Budget, checkpoint: Path) -> None:
        self.module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.learning_rate = learning_rate
        self.budget = budget
        self.checkpoint = checkpoint
        self.optimizer = torch.optim.AdamW(self.parameters, learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0
        self.seconds = 0.0
        if checkpoint.exists():
            self.load()

    @property
    def progress(self) -> float:
        """The part of the budget that is spent; 1 or more when the stage is done."""
        return max(self.step / self.budget.steps, self.seconds / 60 / self.budget.minutes)

    def run(self, loss_of_batch: Callable[[], Tensor]) -> None:
        """Trains until the budget is spent; `loss_of_batch` draws a batch and returns its loss."""
        losses: list[float] = []
        since_checkpoint = self.seconds
        self.module.train()
        while self.progress < 1:
            began = time.perf_counter()
            losses.append(self.advance(loss_of_batch))
            self.seconds += min(time.perf_counter() - began, LONGEST_STEP_SECONDS)
            if self.step % STEPS_BETWEEN_REPORTS == 0:
                recent = sum(losses[-STEPS_BETWEEN_REPORTS:]) / len(losses[-STEPS_BETWEEN_REPORTS:])
                print(f"step {self.step}  loss {recent:.4f}  {self.seconds / 60:.1f} min", flush=True)  # noqa: T201  # a program
            if self.seconds - since_checkpoint > SECONDS_BETWEEN_CHECKPOINTS:
                self.save()
                since_checkpoint = self.seconds
        self.save()
        self.module.eval()

    def advance(self, loss_of_batch: Callable[[], Tensor]) -> float:
        """One optimiser step; returns the loss."""
        rate = self.learning_rate * min(1.0, (self.step + 1) / 100) * (1 + math.cos(math.pi * self.progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of_batch()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return loss.item()

    @torch.no_grad()
    def use_average(self) -> None:
        """The module takes the averaged weights; training is over."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.copy_(average)

    def save(self) -> None:
        """Writes the checkpoint; a reader never sees half of one."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def load(self) -> None:
        """Goes on from the checkpoint."""
        state = torch.load(self.checkpoint, map_location=self.parameters[0].device)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]
        torch.set_rng_state(state["random"].cpu())
