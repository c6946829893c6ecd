"""The choice of the nearness thresholds: decisions are the catalog's, sums are right, and the program runs."""

from __future__ import annotations

import json
import random

import pytest

from cache_store.index.memory import MemoryIndex
from cache_store.store import Store
from loadtests import similarity
from loadtests.prompt_stream import prompts_asked
from loadtests.similarity_curve import CHANGED_WORDS, SIMILARITIES, Found, Measured, chosen, curve, default_of
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.engine.catalog import Catalog, Nearness
from service.engine.editor import start
from service.engine.embedder import Pooled
from service.engine.weights import load_model
from service.jobs import EditJob, Outcome, SamplingRequest

NEAR = Found("a sea under a clear sky", "a sea under a night sky", 0.96, 2)
FAR = Found("a sea under a clear sky", "a forest under a night sky", 0.7, 4)
SAME = Found("a sea under a clear sky", "a sea under a clear sky", 1.0, 0)


@pytest.fixture(scope="module")
def model():
    return load_model()


def test_a_source_is_in_the_cell_of_the_strictest_thresholds_that_admit_it():
    assert NEAR.cell == (0.95, 2)
    assert FAR.cell == (0.6, 4)
    assert Found("a", "b", 0.5, 2).cell is None
    assert Found("a", "b", 0.9, 99).cell is None


def test_the_nearest_that_is_within_both_thresholds_is_chosen():
    many = Found("a", "b", 0.99, 8)
    assert chosen([many, NEAR, FAR], Nearness(0.6, 4)) == NEAR
    assert chosen([many, NEAR, FAR], Nearness(0.97, 4)) is None


def test_decisions_are_those_of_the_service(model):
    asked = prompts_asked(random.Random(2), 7)
    nearness = Nearness(0.8, 4)
    expected = [chosen(found, nearness) for found in similarity.sources_of(model, asked, Pooled())]
    store, catalog = Store(1 << 30), Catalog(MemoryIndex(), "here", 1, nearness)
    ids, sources = {}, []
    for prompt in asked:
        runner = Runner(model, store, Limits(), start=lambda *job: start(*job, catalog))
        runner.add("job", EditJob(prompt, sampling=SamplingRequest(num_inference_steps=1)))
        events = []
        while not runner.idle:
            events += [event for _, event in runner.step()]
        receipt = Outcome.of(events).receipt
        sources.append(ids.get(receipt.source_id))
        ids[receipt.image_id] = ids.get(receipt.image_id, prompt)
    assert 0 < sum(source is not None for source in sources) < len(asked)
    assert sources == [found and found.source_prompt for found in expected]


def test_the_stream_has_sessions_of_popular_prompts():
    asked = prompts_asked(random.Random(0), 500)
    assert asked == prompts_asked(random.Random(0), 500)
    assert len(asked) == 500
    assert 200 < len(set(asked)) < 400


def test_every_cell_has_a_pair_before_any_has_a_second():
    near = [Found("a", str(number), 0.99, 1) for number in range(9)]
    pairs = similarity.sample(random.Random(0), [[found] for found in [*near, FAR, SAME]], 4)
    assert len(set(pairs)) == 4
    assert FAR in pairs
    assert SAME not in pairs


def test_sums_weigh_cells_as_the_stream_hits_them():
    stream = [[], [SAME], [NEAR], [NEAR], [FAR]]
    measured = [Measured(NEAR, 1.0, 1.0, 1.0, 4.0), Measured(FAR, 0.0, 1.0, 3.0, 4.0)]
    rows = curve(stream, measured)
    strict, loose = rows[0], rows[-1]
    assert (strict["repeats"], strict["edits"], strict["success"], strict["edge"]) == (1, 2, 1, 1)
    assert (loose["repeats"], loose["edits"], loose["sampled"], loose["edge"]) == (1, 3, 2, 0)
    assert strict["hit_ratio"] == pytest.approx(3 / 5)
    assert strict["saved"] == pytest.approx((1 + 2 * 0.75) / 5)
    assert loose["success"] == pytest.approx(2 / 3)
    assert loose["saved"] == pytest.approx((1 + 2 * 0.75 + 0.25) / 5)
    assert loose["net"] == pytest.approx((1 + 2 * 0.75 + 0.25 - 1) / 5)
    assert loose["saved_seconds"] == pytest.approx(5 * 4 * loose["saved"])
    assert default_of(rows)["min_similarity"] > 0.6


def test_errors_are_of_pairs_within_cells():
    measured = [Measured(NEAR, success, 1.0, 1.0, 4.0) for success in (0.0, 1.0)]
    row = curve([[NEAR]], measured)[0]
    assert row["success"] == 0.5
    assert row["success_error"] == pytest.approx(0.5)  # deviation sqrt(1/2), of two pairs


def test_the_program_prints_and_keeps_one_object_and_reads_its_sample_again(monkeypatch, capsys, tmp_path):
    words = ["similarity", "--requests", "15", "--json"]
    monkeypatch.setattr("sys.argv", [*words, "--pairs", "1", "--steps", "1", "--save", str(tmp_path / "results")])
    similarity.main()
    result = json.loads(capsys.readouterr().out)
    kept = tmp_path / "results" / "similarity.json"
    assert result == json.loads(kept.read_text())
    assert result["pairs"] == 1
    assert result["embedder"] == "pooled"
    assert len(result["curve"]) == len(SIMILARITIES) * len(CHANGED_WORDS)
    assert all(0 <= row["success"] <= 1 for row in result["curve"])
    monkeypatch.setattr("sys.argv", [*words, "--sample", str(kept)])
    similarity.main()
    again = json.loads(capsys.readouterr().out)
    assert again["sample"] == result["sample"]
    assert again["default"] == pytest.approx(result["default"], abs=0.01)  # of rounded seconds
    assert "default" in similarity.table(result)


def test_a_sample_of_another_makers_likenesses_is_refused(monkeypatch, capsys, tmp_path):
    path = tmp_path / "similarity.json"
    path.write_text(json.dumps({"conditions": {}, "embedder": "sentence:1", "sample": []}))
    monkeypatch.setattr("sys.argv", ["similarity", "--requests", "2", "--sample", str(path)])
    with pytest.raises(SystemExit):
        similarity.main()
    assert "by 'sentence:1', not by 'pooled'" in capsys.readouterr().err
