"""How many seconds of the device a job will take, learned from those before it.

    Outlook   how many calls of which size, as far as is known before it runs, or when its mask is known
    Work      what that amounts to: multiplications, calls, bytes
    Costs     what work takes here, and how large masks usually are; each job that is done makes them better

Seconds are those that the device's thread spent for a job; of a network call that served several jobs, its part
(`usage.parts`). So the seconds of jobs sum up to those of the device, and what is left of all jobs is how long the
device will be busy, whoever shares calls with whom. A receipt's seconds are others: those that the job waited, calls of
others included. Under load calls are shared, which makes them cheaper, and the rates become those of such calls.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

import numpy as np

from cache_store.rows import Tier
from service.batching.fitting import Array, fit
from service.batching.usage import Usage
from service.jobs import MaskFound, Receipt

NUM_REMEMBERED = 64  # jobs; what was seen before those counts for nothing
NEWEST = 0.2  # weight of the newest value in a running mean
LEAST_LEFT = 0.1  # of the mean, of a job of which nothing is known, however long it takes
FIRST_JOB_SECONDS = 10.0  # of a job of which nothing is known
FIRST_RATIO = 0.25  # of a mask that is not found yet
FIRST_SHARE = (0.05, 1.0)  # of dense multiplications: of a sparse call of no rows, and what all rows add


@dataclass(frozen=True)
class Work:
    """What a job asks of the device; or seconds for one of each."""

    jobs: float = 0.0  # what each does once: encode, decode, keep
    calls: float = 0.0
    macs: float = 0.0
    device_bytes: float = 0.0  # read of a recording that lies there
    host_bytes: float = 0.0
    disk_bytes: float = 0.0

    @classmethod
    def of(cls, calls: float, macs: float, num_bytes: float, tier: str | None) -> Work:
        """A job's. One that calls no network is answered from what is recorded, and asks nothing."""
        read = {f"{tier}_bytes": num_bytes} if tier else {}
        return cls(jobs=float(calls > 0), calls=calls, macs=macs, **read)

    def times(self, rates: Work) -> float:
        """Seconds, at so many for one of each."""
        return float(sum(amount * rate for amount, rate in zip(astuple(self), astuple(rates), strict=True)))

    def without(self, other: Work) -> Work:
        """What is left of it beside another."""
        return Work(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def row(self) -> Array:
        """For the fit."""
        return np.array(astuple(self))


GUESSES: dict[str, Work] = {  # by the device's type
    "cpu": Work(jobs=0.1, calls=5e-3, macs=2e-11, device_bytes=2e-10, host_bytes=2e-10, disk_bytes=1e-9),
    "cuda": Work(jobs=0.05, calls=5e-3, macs=2e-14, device_bytes=1e-12, host_bytes=4e-11, disk_bytes=1e-9),
}


@dataclass(frozen=True)
class Outlook:
    """The network calls of a job, the dense ones first. An edit's sparse ones are as large as its mask."""

    dense_calls: int = 0  # they draw a picture, or detect
    dense_macs: int = 0  # of one of them
    edit_calls: int = 0
    edited_ratio: float = 0.0  # of the picture, as far as it is known: what the user masked
    detects: bool = False  # more is to be found
    tier: Tier | None = None  # where the source's rows are; None: they are not read, all is dense
    edit_macs: float | None = None  # of all edit calls; known with the mask

    @property
    def num_calls(self) -> int:
        """All of them."""
        return self.dense_calls + self.edit_calls

    def after(self, num_calls: int) -> Outlook:
        """What is left after so many calls."""
        dense = max(0, self.dense_calls - num_calls)
        edit = max(0, self.edit_calls - max(0, num_calls - self.dense_calls))
        macs = self.edit_macs and self.edit_macs * edit / max(1, self.edit_calls)
        return replace(self, dense_calls=dense, edit_calls=edit, edit_macs=macs)

    def found(self, mask: MaskFound, num_calls: int) -> Outlook:
        """The same, with the mask known after so many calls: those have found it."""
        known = replace(self, dense_calls=num_calls, edited_ratio=mask.edited_ratio, detects=False)
        return replace(known, edit_calls=mask.num_calls, edit_macs=mask.macs)

    @property
    def detection(self) -> Outlook:
        """A dry run of it."""
        return replace(self, edit_calls=0, edit_macs=0)


@dataclass(frozen=True)
class Costs:
    """What work takes. A value: learning makes another one."""

    guess: Work = GUESSES["cpu"]
    rates: Work = GUESSES["cpu"]  # seconds for one of each
    job_seconds: float = FIRST_JOB_SECONDS  # mean of jobs
    detected_ratio: float = FIRST_RATIO  # mean of detected masks
    bytes_per_mac: float = 0.0  # mean of what edits read, over multiplications of as many dense calls
    shares: tuple[float, float] = FIRST_SHARE
    works: tuple[tuple[Work, float], ...] = ()  # of jobs, and their seconds; the newest last
    masks: tuple[tuple[float, float], ...] = ()  # ratios of masks, and of multiplications; the newest last

    def on(self, device: str) -> Costs:
        """The same; as long as nothing was seen, the guess for this type of device."""
        guess = GUESSES.get(device, GUESSES["cpu"])
        return self if self.works else replace(self, guess=guess, rates=guess)

    def seconds(self, outlook: Outlook | None, spent_seconds: float = 0.0) -> float:
        """Of the device, that a job will take from now on; of a job of which nothing is known, the mean's rest."""
        if outlook is None:
            return max(LEAST_LEFT * self.job_seconds, self.job_seconds - spent_seconds)
        seconds = self.work(outlook).times(self.rates)
        return seconds if math.isfinite(seconds) else self.job_seconds

    def work(self, outlook: Outlook) -> Work:
        """What its calls amount to."""
        macs = outlook.dense_calls * outlook.dense_macs + self._edit_macs(outlook)
        num_bytes = self.bytes_per_mac * outlook.edit_calls * outlook.dense_macs
        return Work.of(outlook.num_calls, macs, num_bytes, outlook.tier)

    def learned(self, outlook: Outlook | None, mask: MaskFound | None, receipt: Receipt, usage: Usage) -> Costs:
        """What a job that is done has shown; `outlook` is what was known of it at first."""
        if not usage.num_calls or usage.seconds <= 0:  # it was answered from what is recorded
            return self
        costs = _with_mask(self, outlook, mask, receipt) if outlook and mask else self
        costs = replace(costs, job_seconds=_nearer(costs.job_seconds, usage.seconds))
        return _with_work(costs, _observed(receipt, usage), usage.seconds)

    def learned_from_part(self, outlook: Outlook | None, usage: Usage) -> Costs:
        """What one has shown that was stopped, with what was known of it at last.

        Those that are late are stopped, too: who learned only from jobs that are done would take them for the usual.
        """
        if not usage.num_calls or usage.seconds <= 0:
            return self
        costs = replace(self, job_seconds=_nearer(self.job_seconds, max(self.job_seconds, usage.seconds)))
        if outlook is None:
            return costs
        done = self.work(outlook).without(self.work(outlook.after(usage.num_calls)))
        return _with_work(costs, done, usage.seconds)

    def _edit_macs(self, outlook: Outlook) -> float:
        """Of all sparse calls together."""
        if outlook.edit_macs is not None:
            return outlook.edit_macs
        if outlook.tier is None:
            return outlook.edit_calls * outlook.dense_macs
        ratio = outlook.edited_ratio + (self.detected_ratio if outlook.detects else 0)
        base, slope = self.shares
        return outlook.edit_calls * outlook.dense_macs * min(1.0, base + slope * ratio)


def _with_work(costs: Costs, work: Work, seconds: float) -> Costs:
    """Rates that hold for this, too. What amounts to nothing tells nothing."""
    if not any(astuple(work)):
        return costs
    works = (*costs.works, (work, seconds))[-NUM_REMEMBERED:]
    rows, all_seconds = np.stack([one.row() for one, _ in works]), np.array([seconds for _, seconds in works])
    rates = Work(*fit(rows, all_seconds, costs.guess.row(), costs.rates.row()).tolist())
    return replace(costs, works=works, rates=rates)


def _with_mask(costs: Costs, outlook: Outlook, mask: MaskFound, receipt: Receipt) -> Costs:
    """How large masks are, what an edit of such a mask multiplies, and what it reads."""
    if outlook.detects:
        costs = replace(costs, detected_ratio=_nearer(costs.detected_ratio, mask.edited_ratio))
    dense = outlook.edit_calls * outlook.dense_macs
    if not dense or not mask.macs or receipt.tier is None:
        return costs
    masks = (*costs.masks, (mask.edited_ratio, mask.macs / dense))[-NUM_REMEMBERED:]
    ratios, shares = np.array(masks).T
    base, slope = fit(np.stack([np.ones(len(masks)), ratios], 1), shares, np.array(FIRST_SHARE))
    num_bytes = _nearer(costs.bytes_per_mac, receipt.bytes_moved / dense)
    return replace(costs, masks=masks, shares=(float(base), float(slope)), bytes_per_mac=num_bytes)


def _observed(receipt: Receipt, usage: Usage) -> Work:
    """What a job has done. A receipt does not count the multiplications that drew the source."""
    source_macs = receipt.macs_dense if "source" in receipt.seconds else 0
    return Work.of(usage.num_calls, receipt.macs_computed + source_macs, receipt.bytes_moved, receipt.tier)


def _nearer(mean: float, value: float) -> float:
    return mean + NEWEST * (value - mean)
