"""What a job will ask of the network, told from the job and what is recorded, before it runs.

Any thread may ask; what is recorded may change before the job runs, and then it was wrong, which does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from cache_store.rows import Tier
from cache_store.store import Store
from service.batching.costs import Outlook
from service.engine.core import Told, edit_id, generation_id
from service.engine.given_mask import user_mask
from service.engine.macs import MacModel
from service.engine.masks import num_detection_steps
from service.engine.probe import probe_steps
from service.engine.recording import is_readable
from service.engine.region import BREAK_EVEN_RATIO
from service.engine.revision import MOST_DEPTH, reads_rows
from service.engine.sampling import beside, num_branches, resolve
from service.engine.weights import Model
from service.errors import RetouchError, UnknownImageError
from service.jobs import EditJob, GenerateJob, Job, Sampling


@dataclass(frozen=True)
class _Source:
    """What an edit begins with, as far as a look at the store tells."""

    image_id: str
    prompt: str
    sampling: Sampling  # its own
    tier: Tier | None  # None: nothing of it can be read
    has_rows: bool = True
    is_edit: bool = False


@dataclass(frozen=True, eq=False)
class Foresight:
    """Of the jobs of one model over one store."""

    model: Model
    store: Store

    @property
    def device(self) -> str:
        """Its type: cpu, cuda."""
        return self.model.device.type

    @cached_property
    def _macs(self) -> MacModel:
        """The network summed up; of any size."""
        return MacModel.of(self.model.unet.cfg, 1, 1, self.model.tokenizers[0].model_max_length)

    def reads_disk(self, job: Job) -> bool:
        """Whether the call below reads rows from the disk, to check them. This one waits for nothing."""
        if isinstance(job, GenerateJob):
            return False
        image_id = job.image_id
        if image_id is None and job.source_prompt is not None:
            try:
                sampling = resolve(self.model, job.sampling)
            except RetouchError:  # it will fail before it reads anything
                return False
            image_id = generation_id(self.model, _worded(job.source_prompt), sampling, job.tenant)
        return image_id is not None and not self.store.is_at_hand(image_id)

    def __call__(self, job: Job) -> Outlook:
        """The job's calls; of a dry run those of the whole edit. RetouchErrors: what it will fail for.

        An edit that names no source is taken to find none: then its picture is drawn.
        """
        job = replace(job, prompt=_worded(job.prompt))
        if isinstance(job, GenerateJob):
            return self._drawing(job, job.prompt)
        if job.image_id is not None:
            return self._edit(job, self._recorded(job, job.image_id))
        if job.source_prompt is None:
            return self._drawing(job, job.prompt)
        return self._edit_by_words(replace(job, source_prompt=_worded(job.source_prompt)))

    def _edit_by_words(self, job: EditJob) -> Outlook:
        """The source is drawn first if it is not recorded, or its rows are not and would be read."""
        prompt, sampling = str(job.source_prompt), resolve(self.model, job.sampling)
        source_id = generation_id(self.model, prompt, sampling, job.tenant)
        if self._has(job, source_id):
            source = self._recorded(job, source_id)
            outlook = self._edit(job, source)
            records = job.cache == "read_write" and self.store.budget_bytes > 0
            reads = records and reads_rows(self.model, job, self._given_ratio(job, sampling))
            if source.has_rows or not reads or not outlook.num_calls:
                return outlook
        outlook = self._edit(job, _Source(source_id, prompt, sampling, tier="host" if job.cache != "off" else None))
        return replace(outlook, dense_calls=sampling.num_inference_steps + outlook.dense_calls)

    def _drawing(self, job: Job, prompt: str) -> Outlook:
        """A picture by its prompt; no call where it is recorded."""
        sampling = resolve(self.model, job.sampling)
        if self._has(job, generation_id(self.model, prompt, sampling, job.tenant)):
            return Outlook()
        return Outlook(sampling.num_inference_steps, self._dense_macs(sampling))

    def _edit(self, job: EditJob, source: _Source) -> Outlook:
        sampling = beside(source.sampling, job.sampling)
        given = self._given_ratio(job, sampling)
        if self._has(job, edit_id(self.model, source.image_id, sampling, job)):
            return Outlook()
        detect_calls = self._detect_calls(job, source, sampling)
        num_steps = sampling.num_inference_steps if given or detect_calls else 0  # else nothing changes
        drawn = num_detection_steps(num_steps) if num_steps and detect_calls and not job.rules.keep_background else 0
        is_dense = given > BREAK_EVEN_RATIO[self.device]
        return Outlook(
            dense_calls=detect_calls,
            dense_macs=self._dense_macs(sampling),
            edit_calls=num_steps - drawn,
            edited_ratio=given,
            detects=detect_calls > 0,
            tier=None if is_dense else source.tier,
        )

    def _detect_calls(self, job: EditJob, source: _Source, sampling: Sampling) -> int:
        if job.mask_mode == "given" or (job.prompt, sampling) == (source.prompt, source.sampling):
            return 0
        knows_old = not source.is_edit and (job.rules.detection == "steps" or source.tier is not None)
        num_steps = sampling.num_inference_steps
        num_calls = num_detection_steps(num_steps) if job.rules.detection == "steps" else len(probe_steps(num_steps))
        return num_calls if knows_old else 2 * num_calls

    def _given_ratio(self, job: EditJob, sampling: Sampling) -> float:
        """Of latent positions, that the user masked."""
        if job.edit_mask is None or job.mask_mode == "detect":
            return 0.0
        scale = self.model.latent_scale
        return float(user_mask(job.edit_mask, (sampling.height // scale, sampling.width // scale), scale).mean())

    def _recorded(self, job: EditJob, image_id: str) -> _Source:
        """A recording. Rows on the disk are checked here, where the device need not wait for it."""
        recording = self.store.open(image_id, uses=False) if image_id in self.store.ids() else None
        if recording is None:
            raise UnknownImageError(image_id)
        with recording:
            told, activations = Told.load(recording), recording.activations
            if (told.tenant, told.model) != (job.tenant, self.model.fingerprint):
                raise UnknownImageError(image_id)
            reads = job.cache != "off" and is_readable(recording, self.model.format)
            tier = activations.tier if activations and reads and activations.depth < MOST_DEPTH else None
        has_rows, is_edit = activations is not None, told.source_id is not None
        return _Source(image_id, told.prompt, told.sampling, tier, has_rows, is_edit)

    def _has(self, job: Job, image_id: str) -> bool:
        """Whether it is recorded, and may be taken from there. That a look finds nothing is no miss to be counted."""
        return job.cache != "off" and image_id in self.store.ids()

    def _dense_macs(self, sampling: Sampling) -> int:
        """Of one dense call, all guidance branches."""
        scale = self.model.latent_scale
        sized = replace(self._macs, height=sampling.height // scale, width=sampling.width // scale)
        return sized.dense(num_branches(sampling))


def _worded(prompt: str) -> str:
    """As the engine names pictures by it."""
    return " ".join(prompt.split())
