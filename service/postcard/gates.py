"""The gates a model must pass, computed from what the judge sees; nothing here draws or generates."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from service.postcard.judge import recall_and_specificity
from service.postcard.pairs import EDITS, EditPair
from service.postcard.scenes import LANDS, SKIES, Scene

LAND_AND_SKY = frozenset((*LANDS, *(f"{sky} sky" for sky in SKIES)))


@dataclass(frozen=True)
class Gate:
    """One measured figure and the least it must be."""

    name: str
    measured: float
    least: float

    @property
    def is_passed(self) -> bool:
        """Whether the figure reaches its bound."""
        return self.measured >= self.least


def judge_gates(name: str, judged: Sequence[frozenset[str]], shown: Sequence[frozenset[str]]) -> list[Gate]:
    """The worst recall and the worst specificity over all attributes, on pictures called `name`."""
    recalls, specificities = recall_and_specificity(judged, shown)
    return [
        Gate(f"judge on {name}: {figure}, worst: {(worst := min(ratios, key=ratios.__getitem__))}", ratios[worst], 0.97)
        for figure, ratios in (("recall", recalls), ("specificity", specificities))
    ]


def reconstruction_gate(
    pixels: Tensor,  # uint8 [pictures, 3, H, W]
    reconstructed: Tensor,  # uint8 [pictures, 3, H, W]
) -> Gate:
    """The VAE's PSNR, mean over the pictures."""
    error = ((pixels.float() - reconstructed.float()) / 255).square().mean((1, 2, 3))
    return Gate(f"VAE: PSNR on {len(pixels)} held-out pictures, dB", (-10 * error.log10()).mean().item(), 28.0)


def generation_gates(scenes: Sequence[Scene], seen: Sequence[frozenset[str]]) -> list[Gate]:
    """Pictures with just the land and the sky that were named, and the named objects that are seen."""
    right = [(scene.attributes ^ shown).isdisjoint(LAND_AND_SKY) for scene, shown in zip(scenes, seen, strict=True)]
    present = [thing in shown for scene, shown in zip(scenes, seen, strict=True) for thing in scene.objects]
    return [
        Gate(f"generation: land and sky right, {len(right)} held-out combinations", _mean(right), 0.90),
        Gate(f"generation: present, of {len(present)} named objects", _mean(present), 0.75),
    ]


def edit_gates(
    pairs: Sequence[EditPair],
    sources: Sequence[frozenset[str]],
    edited: Sequence[frozenset[str]],
    regenerated: Sequence[frozenset[str]],
) -> list[Gate]:
    """What the edits reach, from what is seen in the sources, the edits and the dense regenerations."""
    of_edits, of_dense = successes(pairs, edited), successes(pairs, regenerated)
    ratio = sum(of_edits.values()) / sum(of_dense.values())
    by_kind = ", ".join(f"{kind} {of_edits[kind]}/{of_dense[kind]}" for kind in EDITS)
    kept = [
        name in after for pair, before, after in zip(pairs, sources, edited, strict=True) for name in pair.kept & before
    ]
    return [
        Gate(f"edits: successes as a part of dense regeneration's: {by_kind}", ratio, 0.80),
        Gate(f"edits: kept, of {len(kept)} attributes in both prompts", _mean(kept), 0.90),
    ]


def successes(pairs: Sequence[EditPair], seen: Sequence[frozenset[str]]) -> dict[str, int]:
    """Successful edits of each kind."""
    return {
        kind: sum(pair.is_success(shown) for pair, shown in zip(pairs, seen, strict=True) if pair.kind == kind)
        for kind in EDITS
    }


def _mean(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)
