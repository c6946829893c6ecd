"""Captured passes without a GPU: a tape of all that a pass enqueues, played again for other masks of the bucket.

The tape holds torch's operators and our kernels' launches, each with the tensors of the first pass, as a CUDA graph
holds addresses: what the host knew then is baked in, and would show as a wrong prediction.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode

from cache_store.activations import Activations
from cache_store.store import Store
from service.engine import gather
from service.engine.call import Active, Call, plans_of
from service.engine.deep import Deep
from service.engine.feed import Feed
from service.engine.gather import ByHost, ByKernel
from service.engine.graphs import Graphs
from service.engine.maps import KeepMaps, Words
from service.engine.predict import predict
from service.engine.recording import Format, columns_of, kept_positions, layout_of
from service.engine.rooms import Rooms
from service.engine.unet import UNet, UNetConfig
from service.engine.writing import Target
from sparse_ops import launch, ops
from sparse_ops.plan import active_positions

SIZE, LEVELS, BRANCHES, TOKENS = 8, 2, 2, 5
SMALL = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (64, 64), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 24,
    "attention_head_dim": 2,
}  # fmt: skip
FORMATS = {
    "inputs": Format("float16"), "keys and values": Format("float16", keep_inputs=False), "int8": Format("int8"),
    "fp8": Format("fp8"), "float32": Format("float32"),
}  # fmt: skip


class Tape(TorchDispatchMode):
    """Remembers operators with their tensors, and launches among them."""

    def __init__(self):
        super().__init__()
        self.items = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        out = func(*args, **(kwargs or {}))
        self.items.append(lambda: put(out, func(*args, **(kwargs or {}))))
        return out


def put(old, new):
    """The result into the memory of the first one; views and in-place operators are there already."""
    pairs = [(old, new)] if isinstance(old, torch.Tensor) else zip(old or (), new or (), strict=True)
    for first, again in pairs:
        if isinstance(first, torch.Tensor) and first.untyped_storage().data_ptr() != again.untyped_storage().data_ptr():
            first.copy_(again)


class TapeRecorder:
    """What `CudaRecorder` does, on a CPU."""

    def __init__(self):
        self.bytes = 0

    def record(self, run):
        run()
        tape, real = Tape(), launch.launch

        def noted(*arguments):
            tape.items.append(lambda: real(*arguments))
            real(*arguments)

        launch.launch = noted
        try:
            with tape:
                run()
        finally:
            launch.launch = real
        self.bytes += 1000
        return lambda: [item() for item in tape.items] and None

    def num_bytes(self):
        return self.bytes

    def forget(self):
        self.bytes = 0


@pytest.fixture(autouse=True)
def kernels(make_bridge, monkeypatch):
    """Kernels on the CPU, for the network and for gathers."""
    made = make_bridge("bridge")
    monkeypatch.setattr(launch, "launch", made.launch)
    monkeypatch.setattr(launch, "num_multiprocessors", lambda _: 8)
    monkeypatch.setattr(launch, "current_stream", lambda _: 0)
    monkeypatch.setattr(ops, "why_not", lambda _: None)
    return made


@pytest.fixture
def unet():
    torch.manual_seed(0)
    made = UNet(UNetConfig.from_diffusers(UNet2DConditionModel(**SMALL).config)).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif "norm" not in name:
            parameter.normal_(0, 0.2)
    return made.half()


def active(edit_mask):
    return Active(tuple(active_positions(edit_mask.expand(BRANCHES, -1, -1), LEVELS)))


def mask(*positions):
    made = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    for y, x in positions:
        made[0, y : y + 2, x : x + 3] = True
    return made


EVERYTHING = active(torch.ones(1, SIZE, SIZE, dtype=torch.bool))


def call(unet, seed, form, where=EVERYTHING, source=None, target=None):
    torch.manual_seed(seed)
    text = unet.read(torch.randn(BRANCHES, TOKENS, 24).half())
    return Call(
        sample=torch.randn(BRANCHES, 4, SIZE, SIZE).half(), timestep=torch.tensor([300] * BRANCHES), text=text,
        active=where, source=source, target=target, format=form, stage="denoise", step=0, num_steps=1,
    )  # fmt: skip


def record(unet, store, name, form, where=EVERYTHING, source=None, parent=None, graphs=None, num_steps=1):
    """A recording of one step, drawn by one call; or of more, each another drawing."""
    layout = layout_of(columns_of(unet, SIZE, SIZE, TOKENS, form.keep_inputs), form, num_steps, 0, BRANCHES)
    layout = {plane: held for plane, held in layout.items() if held.num_steps}
    kept = kept_positions(layout, where.levels) if parent else None
    with store.create(name, layout, parent, kept) as draft:
        for step in range(num_steps):
            predict(unet, [call(unet, 1 + step, form, where, source, Target(draft, step, form))], graphs)
        draft.commit()
    return store.open(name)


def feed(recording, where, form, num_steps=1, period=1):
    like = torch.empty(0, dtype=torch.float16)
    return Feed(recording, plans_of((where,), torch.device("cpu")), form, like, num_steps, period)


@pytest.mark.parametrize("name", ["inputs", "keys and values", "int8"])
def test_a_pass_captured_for_one_mask_serves_another(unet, name):
    form, store, graphs = FORMATS[name], Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    source = record(unet, store, "source", form)
    for number, edit_mask in enumerate([mask((2, 3)), mask((0, 0), (6, 5)), mask((7, 7)), mask((2, 3))]):
        where = active(edit_mask)
        one = call(unet, number, form, where, feed(source, where, form).step(0))
        (captured,), (plain,) = predict(unet, [one], graphs), predict(unet, [one])
        # other lengths are other tiles and splits: fp16 sums in another order
        torch.testing.assert_close(captured, plain, atol=4e-3, rtol=4e-3)
        assert len(graphs) == 1


def test_two_jobs_share_a_captured_pass(unet):
    form, store, graphs = FORMATS["inputs"], Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    source = record(unet, store, "source", form)
    for pair in [(mask((2, 3)), mask((5, 1))), (mask((5, 1)), mask((2, 3)))]:
        calls = [call(unet, 5, form, active(one), feed(source, active(one), form).step(0)) for one in pair]
        for captured, plain in zip(predict(unet, calls, graphs), predict(unet, calls), strict=True):
            torch.testing.assert_close(captured, plain, atol=4e-3, rtol=4e-3)
    assert len(graphs) == 1


def test_a_dense_pass_is_captured_and_what_it_keeps_is_kept(unet):
    form, store, graphs = FORMATS["inputs"], Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    plain, captured = record(unet, store, "plain", form), record(unet, store, "captured", form, graphs=graphs)
    again = record(unet, store, "again", form, graphs=graphs)
    assert len(graphs) == 1
    for plane, lies in plain.activations.layout.items():
        rows = [one.rows(0, plane, torch.arange(lies.num_rows)) for one in (plain, captured, again)]
        assert torch.equal(rows[0], rows[1])
        assert torch.equal(rows[0], rows[2])


def test_an_edit_keeps_the_rows_of_its_own_mask(unet):
    form, store, graphs = FORMATS["inputs"], Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    source = record(unet, store, "source", form)
    for number, edit_mask in enumerate([mask((2, 3)), mask((0, 0), (6, 5))]):
        where, kept = active(edit_mask), []
        for name, passes in (("plain", None), ("captured", graphs)):
            reads = feed(source, where, form).step(0)
            kept.append(record(unet, store, f"{name} {number}", form, where, reads, source, passes))
        for plane, lies in source.activations.layout.items():
            plain, captured = (one.rows(0, plane, torch.arange(lies.num_rows)) for one in kept)
            torch.testing.assert_close(captured, plain, atol=4e-3, rtol=4e-3)
    assert len(graphs) == 1


def test_what_watches_cross_attention_sees_it_after_each_replay(unet):
    form, store, graphs = FORMATS["inputs"], Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    source, level = record(unet, store, "source", form), 0
    for edit_mask in (mask((2, 3)), mask((0, 0), (6, 5))):
        where, seen = active(edit_mask), []
        for passes in (None, graphs, graphs):
            words = Words(level, (SIZE, SIZE), TOKENS)
            one = call(unet, 4, form, where, feed(source, where, form).step(0))
            kept = KeepMaps(Target(store.create("core alone", {}), 0, form), words)
            predict(unet, [replace(one, keep_maps=kept)], passes)
            seen.append(words.mean())
        torch.testing.assert_close(seen[1], seen[0], atol=2e-3, rtol=2e-3)
        assert torch.equal(seen[2], seen[1])
        here = where.levels[level][-1]
        assert (seen[0][:, here] > 0).all()
        assert (seen[0][:, ~here] == 0).all()
    assert len(graphs) == 1


def test_a_shallow_pass_is_captured_and_given_what_a_complete_one_kept(unet):
    """Of each job its own, whichever mask of the bucket was captured; alone and two jobs in one pass."""
    form, store, graphs = FORMATS["inputs"], Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    source = record(unet, store, "source", form)
    for company in ([mask((2, 3))], [mask((0, 0), (6, 5))], [mask((2, 3)), mask((5, 1))], [mask((5, 1)), mask((2, 3))]):
        wheres, noise = [active(one) for one in company], []
        for passes in (None, graphs):
            deeps, made = [Deep() for _ in company], []
            for step, shallow in enumerate((False, True, True, False, True)):
                calls = [
                    call(unet, step, form, replace(where, shallow=shallow), feed(source, where, form).step(0))
                    for where in wheres
                ]
                calls = [replace(one, deep=deep) for one, deep in zip(calls, deeps, strict=True)]
                made += predict(unet, calls, passes)
            noise.append(torch.stack(made))
        torch.testing.assert_close(noise[1], noise[0], atol=4e-3, rtol=4e-3)
    assert len(graphs) == 4  # complete and shallow, of one job and of two


def test_passes_leave_when_their_memory_is_needed(unet):
    """A pool of memory lives as long as any pass in it: all go, and begin anew."""
    form, recorder = FORMATS["inputs"], TapeRecorder()
    graphs = Graphs(recorder, 1500)
    for count in (
        1,
        2,
    ):  # two sizes of a batch; the second is captured while 1000 bytes and the first's buffers are held
        assert graphs.num_bytes < 1500 or len(graphs) == 1
        predict(unet, [call(unet, 0, form) for _ in range(count)], graphs)
        assert len(graphs) == 1
        assert recorder.bytes == 1000


def test_what_passes_read_from_is_counted_and_leaves_with_them(unet):
    form, store, recorder = FORMATS["inputs"], Store(1 << 30), TapeRecorder()
    source, where = record(unet, store, "source", form), active(mask((2, 3)))

    def predicted(graphs, num_jobs):
        calls = [call(unet, 0, form, where, feed(source, where, form).step(0)) for _ in range(num_jobs)]
        predict(unet, calls, graphs)
        return sum(one.num_bytes_read for one in calls)

    unbounded = Graphs(TapeRecorder(), 1 << 30)
    num_read = predicted(unbounded, 8)
    assert unbounded.num_bytes > num_read
    graphs = Graphs(recorder, num_read // 2)
    predicted(graphs, 8)  # beyond what may be held
    predicted(graphs, 1)
    assert len(graphs) == 1
    assert graphs.num_bytes < num_read // 2
    predicted(graphs, 2)
    assert len(graphs) == 2  # what the eight had is not held against others


@pytest.mark.parametrize("name", ["inputs", "keys and values", "int8"])
def test_what_lies_in_shared_memory_is_read_by_nobody(unet, name, monkeypatch):
    """Passes of several sizes and companies share it, and padding is what another left: here a NaN."""

    def room(self, use, num_rows, width, like):
        made = right(self, use, num_rows, width, like)
        made.view(torch.uint8).fill_(0xFF)  # a NaN in each type
        rooms.append(made)
        return made

    right, rooms = Rooms.room, []
    monkeypatch.setattr(Rooms, "room", room)
    form, store, graphs = FORMATS[name], Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    source = record(unet, store, "source", form)
    masks = [active(mask(*where)) for where in ([(2, 3)], [(0, 0), (6, 5)], [(0, 0), (0, 3), (3, 0), (5, 5)])]
    for company in ([0], [1, 2], [2], [0, 1, 2], [0], [2, 1], [1], [2, 0, 1]):
        for made in rooms:
            made.view(torch.uint8).fill_(0xFF)
        calls = [
            [call(unet, job, form, masks[job], feed(source, masks[job], form).step(0)) for job in company] for _ in "ab"
        ]
        for captured, plain in zip(predict(unet, calls[0], graphs), predict(unet, calls[1]), strict=True):
            torch.testing.assert_close(captured, plain, atol=4e-3, rtol=4e-3)


def test_what_needs_the_host_is_not_captured(unet, monkeypatch, caplog):
    """Without kernels an operator asks for the counts of the mask, and is refused; the pass runs as it is."""
    monkeypatch.setattr(ops, "why_not", lambda _: "there are none")
    form, graphs = FORMATS["float32"], Graphs(TapeRecorder(), 1 << 30)
    unet.float()
    one = replace(call(unet.half(), 0, form))
    one = replace(one, sample=one.sample.float(), text=unet.float().read(torch.randn(BRANCHES, TOKENS, 24)))
    for _ in range(2):
        assert torch.equal(predict(unet, [one], graphs)[0], predict(unet, [one])[0])
    assert len(graphs) == 0
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_rows_gathered_by_a_kernel_are_the_hosts(unet, monkeypatch, name):
    """Of a drawn picture, and of an edit of an edit, whose rows have three owners."""
    form, store = FORMATS[name], Store(1 << 30)
    source = record(unet, store, "source", form)
    edits = [source]
    for number, edit_mask in enumerate([mask((2, 3)), mask((3, 4), (6, 5))]):
        where, parent = active(edit_mask), edits[-1]
        edits.append(record(unet, store, f"edit {number}", form, where, feed(parent, where, form).step(0), parent))
    where = active(mask((3, 3), (6, 1)))
    asked = feed(edits[0], where, form).step(0)
    predict(unet, [call(unet, 3, form, where, asked)])
    monkeypatch.setattr(gather, "why_not", lambda _: None)
    monkeypatch.setattr(Activations, "in_reach", True)
    for recording in edits:
        by_kernel = feed(recording, where, form)
        monkeypatch.setattr(gather, "why_not", lambda _: "asked for")
        by_host = feed(recording, where, form)
        monkeypatch.setattr(gather, "why_not", lambda _: None)
        assert isinstance(by_kernel.gather, ByKernel)
        assert isinstance(by_host.gather, ByHost)
        reads, expected = by_kernel.step(0), by_host.step(0)
        for slot in asked.gathered:
            there = gather.listed(plans_of((where,), torch.device("cpu")), slot) >= 0
            assert torch.equal(reads.read(slot)[there], expected.read(slot)[there])
        assert reads.num_bytes == expected.num_bytes


THINNED = [Format("float16", attention_every=3, rows_every=2), Format("int8", attention_every=2, rows_every=5)]


@pytest.mark.parametrize("form", THINNED)
def test_a_captured_pass_keeps_what_each_step_is_to_keep(unet, form):
    """All planes are put side by side at every replay; of each step those leave that it keeps."""
    store, graphs = Store(1 << 30), Graphs(TapeRecorder(), 1 << 30)
    plain = record(unet, store, "plain", form, num_steps=5)
    captured = record(unet, store, "captured", form, num_steps=5, graphs=graphs)
    each = record(unet, store, "each step", replace(form, attention_every=1, rows_every=1), num_steps=5)
    assert len(graphs) == 1
    for plane, lies in plain.activations.layout.items():
        everything = torch.arange(lies.num_rows)
        for place in range(lies.num_steps):
            rows = plain.rows(place, plane, everything)
            assert torch.equal(captured.rows(place, plane, everything), rows)
            kept = next(step for step in range(5) if form.place(plane, step) == place and form.keeps(plane, step, 5))
            assert torch.equal(each.rows(kept, plane, everything), rows)


class SideStream:
    """A stream that is always ahead: what is enqueued on it has happened when the host goes on."""

    def wait_event(self, event):
        pass

    def record_event(self):
        return self

    def wait(self):
        pass


@pytest.fixture
def side_stream(monkeypatch):
    """`torch.cuda`'s streams on a CPU: each is ahead of all others as far as events let it be."""
    stream = SideStream()
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(SideStream, "device", torch.device("cpu"), raising=False)
    return stream


@pytest.mark.parametrize("form", [FORMATS["inputs"], *THINNED])
@pytest.mark.parametrize("period", [1, 2])
def test_rows_gathered_ahead_overwrite_none_that_a_step_still_reads(unet, monkeypatch, side_stream, form, period):
    """The next step's are gathered before this one has read its own; of planes kept more rarely each once."""
    store, num_steps, where = Store(1 << 30), 8, active(mask((2, 3)))
    source = record(unet, store, "source", form, num_steps=num_steps)
    monkeypatch.setattr(Activations, "in_reach", True)
    monkeypatch.setattr(gather, "why_not", lambda _: "asked for")
    by_host = feed(source, where, form, num_steps)
    asked = by_host.step(0)
    predict(unet, [call(unet, 3, form, where, asked)])
    slots = list(asked.gathered)
    few = [slot for slot in slots if slot.level == 0]  # a shallow step's
    monkeypatch.setattr(gather, "why_not", lambda _: None)
    ahead = feed(source, where, form, num_steps, period)
    assert isinstance(ahead.gather, ByKernel)
    ahead._side = side_stream
    for step in range(num_steps):
        reads, expected = ahead.step(step), feed(source, where, form, num_steps).step(step)
        assert (reads.ready is None) == (step == 0)
        rows = {slot: reads.read(slot) for slot in (few if step % period else slots)}
        reads.prefetch_next()
        for slot, here in rows.items():
            there = gather.listed(plans_of((where,), torch.device("cpu")), slot) >= 0
            assert torch.equal(here[there], expected.read(slot)[there])
            here[~there] = step  # the network writes fresh rows among them
