import json

import torch

from cache_store.store import Store
from service.engine.weights import load_model
from service.postcard import evaluate
from service.postcard.evaluate import Generator, edit_by_engine, main
from service.postcard.model import MODEL_DIRECTORY
from service.postcard.pairs import EditPair


def test_the_engine_edits_a_pair():
    pair = EditPair("add", "a sea under a clear sky", "a sea under a clear sky with a boat", seed=0)
    source, edited = edit_by_engine(load_model(), Store(1 << 30), pair)
    assert source.shape == edited.shape == (1, 3, 256, 256)
    assert source.dtype == edited.dtype == torch.uint8
    unchanged = (source == edited).all(1)
    assert 0.2 < unchanged.float().mean() < 1.0  # most of the picture is the source's own


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(monkeypatch):
    monkeypatch.setattr(evaluate, "BATCH", 2)
    generator = Generator(MODEL_DIRECTORY, "cpu")
    generator.settings["num_inference_steps"] = 2
    prompts = ["a sea under a clear sky"] * 3
    together, alone = generator.generate(prompts, [1, 2, 1]), generator.generate(prompts[:1], [2])
    # one level of 255: a batch is summed in another order
    assert (together[1].int() - alone[0].int()).abs().max() <= 1
    assert (together[0].int() - together[2].int()).abs().max() <= 1
    assert not torch.equal(together[0], together[1])


def test_the_program_prints_gates_and_tells_whether_all_are_passed(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "NUM_PICTURES", 10)
    status = main(["--parts", "pictures", "--json", "--device", "cpu"])
    gates = json.loads(capsys.readouterr().out)
    assert len(gates) == 5
    assert status == (0 if all(gate["is_passed"] for gate in gates) else 1)
