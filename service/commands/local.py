"""A job that is run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

from tqdm import tqdm

from cache_store.store import Store
from service.batching import runner
from service.commands.files import Made
from service.engine.call import Call
from service.engine.core import png_of
from service.jobs import Job, Outcome
from service.settings import read_settings
from service.workers.models import open_model
from service.workers.stores import open_store


@contextmanager
def made_here(job: Job, model: str | None, device: str | None) -> Iterator[Made]:
    """What came of the job, by this model on this device; None is the environment's.

    Raises:
        RetouchError: a setting cannot be, or the job failed.
    """
    settings = read_settings(model=model, device=device)
    opened = open_model(settings.model, **settings.model_options)
    on_disk = settings.disk_path, settings.disk_bytes
    store = open_store(settings.device, settings.cache_bytes, *on_disk, core_bytes=settings.core_bytes)
    with closing(store):
        with _progress() as on_call:
            outcome = Outcome.of(runner.run(opened, store, job, on_call))
        yield Made(outcome, lambda image_id: _png(store, image_id))


def _png(store: Store, image_id: str) -> bytes | None:
    recording = store.open(image_id)
    if recording is None:
        return None
    with recording:
        return png_of(recording, "image")


@contextmanager
def _progress() -> Iterator[Callable[[Call], None]]:
    """A bar for each stage on stderr, nothing where that is no terminal."""
    bars: dict[str, tqdm] = {}
    with ExitStack() as stack:

        def on_call(call: Call) -> None:
            if call.stage not in bars:
                bar = tqdm(total=call.num_steps, desc=call.stage, leave=False, disable=None)
                bars[call.stage] = stack.enter_context(bar)
            bars[call.stage].update()

        yield on_call
