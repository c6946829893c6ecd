"""What worker, store and index count themselves, as Prometheus finds it at a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cache_store.counts import Labels
from service.workers.numbers import WorkerNumbers

Counted = Mapping[str, Mapping[Labels, float]]  # by name and labels
Ask = Callable[[], WorkerNumbers]

NAMESPACE = "retouch"
STEP_IMAGES = (1, 2, 4, 8, 16, 32, 64)  # upper bounds of the histogram's buckets


@dataclass(frozen=True)
class Source:
    """One metric, and which numbers it shows."""

    numbers: str
    kind: Literal["counter", "gauge"]
    name: str  # without its prefix and `_total`
    help: str
    labels: tuple[str, ...] = ()
    always: tuple[Labels, ...] = ((),)  # shown as 0 while there are none: a rate needs the zero before the first


SOURCES = (
    Source("queued_jobs", "gauge", "queue_jobs", "Jobs that wait for their first step"),
    Source("running_jobs", "gauge", "jobs_running", "Jobs that share the device"),
    Source("queue_seconds", "gauge", "queue_predicted_seconds", "Until all jobs that are there have ended"),
    Source("predictions", "counter", "predictions", "Jobs whose seconds were predicted, and that are done"),
    Source("error_seconds", "counter", "prediction_error_seconds", "By which those were wrong, either way"),
    Source("up", "gauge", "worker_up", "1: the model is loaded, and the thread that owns the device lives"),
    Source("restarts", "counter", "worker_restarts", "Times that this thread was begun anew"),
    Source("device_bytes", "gauge", "device_memory_bytes", "Of GPUs, allocated by torch; on a CPU 0"),
    Source(
        "reads", "counter", "cache_reads", "Recordings that were opened to be read, by where their rows were",
        ("tier", "outcome"), (("host", "hit"), ("none", "miss"), ("none", "core")),
    ),
    Source("used_bytes", "gauge", "cache_bytes", "Rows of recordings", ("tier",), (("host",),)),
    Source("budget_bytes", "gauge", "cache_budget_bytes", "Room for them", ("tier",), (("host",),)),
    Source(
        "evictions", "counter", "cache_evictions", "Rows that left a tier; demoted: another one has them",
        ("tier", "reason"), (("host", "room"), ("host", "demoted")),
    ),
    Source("shed", "counter", "cache_shed", "Rows for which there was no room", ("tier",), (("host",),)),
    Source("damaged", "counter", "cache_damaged", "Files that were not as they were written", ("reason",), ()),
    Source("recordings", "gauge", "cache_recordings", "Pictures that are kept, with rows or without"),
    Source("index_lookups", "counter", "index_lookups", "Searches for a source", ("outcome",), (("hit",), ("miss",))),
    Source("index_stale_hits", "counter", "index_stale_hits", "Found recordings that were gone from their worker"),
    Source("index_up", "gauge", "index_up", "1: other workers' recordings can be asked for", always=()),
)  # fmt: skip


class Scrape(Collector):
    """A collector of `SOURCES`, of the steps' histogram, and of `moved` beside the tiers' own transfers."""

    def __init__(self, ask: Ask, moved: Counter) -> None:
        self._ask = ask
        self._moved = moved

    def describe(self) -> list[Metric]:
        """Nothing: who registers this must not be made to ask."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of them, of one moment."""
        counted = _by_name(self._ask())
        for source in SOURCES:
            yield _family(source, counted.get(source.numbers, {}))
        yield _steps(counted.get("steps", {}))
        yield self._transfers(counted.get("transfer_bytes", {}))

    def _transfers(self, counted: Mapping[Labels, float]) -> Metric:
        """Bytes between tiers, and of tiers into the steps that read them."""
        help_text = "Rows of recordings: between tiers, and into the steps of edits"
        family = CounterMetricFamily(f"{NAMESPACE}_transfer_bytes", help_text, labels=["direction"])
        for (origin, tier), num_bytes in counted.items():
            family.add_metric([f"{origin}_to_{tier}"], num_bytes)
        for sample in next(iter(self._moved.collect())).samples:
            if sample.name.endswith("_total"):
                family.add_metric([sample.labels["direction"]], sample.value)
        return family


def _by_name(numbers: WorkerNumbers) -> Counted:
    """All of a worker's numbers in the store's own form."""
    batching = numbers.batching
    single: dict[str, float] = {
        "up": numbers.state in {"ready", "draining"},
        "queued_jobs": batching.queued_jobs,
        "running_jobs": batching.running_jobs,
        "queue_seconds": batching.queue_seconds,
        "predictions": batching.num_predicted,
        "error_seconds": batching.error_seconds,
        "restarts": batching.num_restarts,
        "device_bytes": numbers.device_bytes,
    }
    counted: dict[str, Mapping[Labels, float]] = {name: {(): value} for name, value in single.items()}
    counted["steps"] = {(str(images),): calls for images, calls in batching.steps_by_images.items()}
    if (index := numbers.index) is not None:
        counted["index_lookups"] = {(outcome,): lookups for outcome, lookups in index.lookups.items()}
        counted["index_stale_hits"] = {(): index.num_stale_hits}
        counted["index_up"] = {(): bool(numbers.index_up)}
    return {**numbers.store, **counted}


def _family(source: Source, counted: Mapping[Labels, float]) -> Metric:
    make = CounterMetricFamily if source.kind == "counter" else GaugeMetricFamily
    family = make(f"{NAMESPACE}_{source.name}", source.help, labels=source.labels)
    for labels, value in (dict.fromkeys(source.always, 0.0) | dict(counted)).items():
        family.add_metric(labels, value)
    return family


def _steps(counted: Mapping[Labels, float]) -> Metric:
    """How many images a network call had: {(number,): calls}."""
    num_calls = {int(label): calls for (label,), calls in counted.items()}
    bounds = [(str(float(bound)), _up_to(bound, num_calls)) for bound in STEP_IMAGES]
    buckets = [*bounds, ("+Inf", sum(num_calls.values()))]
    total = sum(images * calls for images, calls in num_calls.items())
    family = HistogramMetricFamily(f"{NAMESPACE}_step_batch_images", "Images of one network call")
    family.add_metric([], buckets, total)
    return family


def _up_to(bound: int, num_calls: Mapping[int, float]) -> float:
    return sum(calls for images, calls in num_calls.items() if images <= bound)
