"""Who makes vectors of prompts: the model itself, or a tiny sentence model; what of one is refused."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer

from cache_store.index import Space
from cache_store.index.memory import MemoryIndex
from cache_store.store import Store
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.engine.catalog import Catalog, Nearness
from service.engine.editor import start
from service.engine.embedder import Pooled, check_embedder, open_embedder, similarity
from service.engine.weights import load_model
from service.errors import InputError
from service.jobs import EditJob, GenerateJob, Outcome, SamplingRequest
from service.workers.stores import open_catalog

WORDS = ["a", "green", "hill", "under", "clear", "sky", "with", "tree", "Tree"]
HILL, TREE = "a green hill under a clear sky", "a green hill under a clear sky with a tree"
STEPS = SamplingRequest(seed=3, num_inference_steps=1)
FULL = {
    "modules.json": [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
    ],
    "1_Pooling/config.json": {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
    "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None},
    "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": False},
}


def write(directory, files):
    for name, told in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(told if isinstance(told, str) else json.dumps(told))


def make(directory, seed=0):
    """A BERT of two layers that tells small letters from capitals."""
    torch.manual_seed(seed)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    cut = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}, do_lower_case=False)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=20, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(directory)
    cut.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A directory as sentence-transformers writes it."""
    directory = make(tmp_path_factory.mktemp("whole"))
    write(directory, FULL)
    return directory


@pytest.fixture
def directory(whole, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(whole, tmp_path / "sentences")


@pytest.fixture(scope="module")
def model():
    return load_model()


def outcome(model, store, job, catalog):
    runner, events = Runner(model, store, Limits(), start=partial(start, catalog=catalog)), []
    runner.add("job", job)
    while not runner.idle:
        events += [event for _, event in runner.step()]
    return Outcome.of(events)


@torch.no_grad()
def expected(directory, words):
    """Token by token."""
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    ids = [vocabulary[word] for word in ("[CLS]", *words, "[SEP]")]
    hidden = BertModel.from_pretrained(directory)(torch.tensor([ids])).last_hidden_state[0].double().numpy()
    mean = sum(hidden) / len(ids)
    return mean / np.sqrt((mean**2).sum())


def test_by_default_it_is_the_models_own_pooled_text(model):
    embedder = open_embedder("")
    assert embedder.name == Space("", "", 1, 1, "").embedding == "pooled"
    assert Catalog(MemoryIndex(), "here", 1).embedder == open_catalog("here", Nearness()).embedder == embedder
    ids = model.tokenizers[0](HILL, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        pooled = model.text_encoders[0](ids).pooler_output[0]
    np.testing.assert_array_equal(embedder.embed(model, HILL), pooled.numpy())


def test_no_prompt_is_nearer_to_itself_than_1(model):
    prompts = [" ".join(WORDS[:number]) for number in range(1, len(WORDS))] + ["a hill", "a green hill"]
    told = [similarity(Pooled(), model, prompt, prompt) for prompt in prompts]
    assert 0.999 < min(told) <= max(told) <= 1


def test_a_sentence_is_the_mean_of_its_tokens_of_length_one(whole, model):
    embedder = open_embedder(str(whole))
    vector = embedder.embed(model, HILL)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, expected(whole, HILL.split()), atol=1e-6)  # float32 against float64
    assert similarity(embedder, model, HILL, TREE) == pytest.approx(vector @ embedder.embed(model, TREE), abs=1e-6)
    assert similarity(embedder, model, HILL, TREE) < similarity(embedder, model, HILL, HILL) == pytest.approx(1)


def test_a_plain_network_is_used_likewise(whole, tmp_path, model):
    plain = open_embedder(str(make(tmp_path / "plain")))
    np.testing.assert_array_equal(plain.embed(model, HILL), open_embedder(str(whole)).embed(model, HILL))


def test_what_is_too_long_is_cut_off_where_the_directory_says(whole, directory, model):
    words = ["hill"] * 30
    kept = open_embedder(str(whole)).embed(model, " ".join(words))
    np.testing.assert_allclose(kept, expected(whole, words[:10]), atol=1e-6)
    (directory / "sentence_bert_config.json").unlink()
    kept = open_embedder(str(directory)).embed(model, " ".join(words))
    np.testing.assert_allclose(kept, expected(whole, words[:18]), atol=1e-6)  # of 20 positions


def test_capitals_are_read_as_the_directory_says(whole, directory, model):
    write(directory, {"sentence_bert_config.json": {"do_lower_case": True}})
    as_told, lower = open_embedder(str(whole)), open_embedder(str(directory))
    assert similarity(as_told, model, "a tree", "a Tree") < 0.99
    np.testing.assert_array_equal(lower.embed(model, "a Tree"), as_told.embed(model, "a tree"))


def test_the_network_may_lie_in_a_folder_of_its_own(directory, whole, tmp_path, model):
    outer = tmp_path / "outer"
    shutil.copytree(directory, outer / "0_Transformer")
    modules = [{**FULL["modules.json"][0], "path": "0_Transformer"}, *FULL["modules.json"][1:]]
    write(outer, {**FULL, "modules.json": modules})
    inner, flat = open_embedder(str(outer)), open_embedder(str(whole))
    assert inner.name == flat.name
    np.testing.assert_array_equal(inner.embed(model, HILL), flat.embed(model, HILL))


def test_a_name_tells_weights_and_usage_but_not_the_place(whole, directory, tmp_path):
    name = open_embedder(str(whole)).name
    assert open_embedder(str(directory)).name == name
    write(directory, {"sentence_bert_config.json": {"max_seq_length": 6}})
    other = make(tmp_path / "other", seed=1)
    write(other, FULL)
    assert len({name, open_embedder(str(directory)).name, open_embedder(str(other)).name}) == 3


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"modules.json": [*FULL["modules.json"], {"type": "x.models.Dense", "path": "3"}]}, "modules.json .*'Dense'"),
        ({"modules.json": FULL["modules.json"][:1]}, "modules.json must name Transformer, Pooling"),
        ({"modules.json": "{"}, "sentences cannot be read: JSONDecodeError"),
        ({"modules.json": [{}]}, "sentences cannot be read: KeyError"),
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True}}, "mean_tokens alone, got .*cls_token"),
        (
            {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
            "mean_tokens alone, got .*max_tokens",
        ),
        ({"config_sentence_transformers.json": {"default_prompt_name": "query"}}, "'query' before each text"),
        ({"sentence_bert_config.json": {"max_seq_length": 9, "whiten": True}}, "whiten is not known"),
    ],
)
def test_what_is_to_be_used_in_another_way_is_refused_before_it_is_loaded(directory, files, named):
    write(directory, files)
    for use in (check_embedder, open_embedder):
        with pytest.raises(InputError, match=named) as refused:
            use(str(directory))
        assert refused.value.field == "embedding_model"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_directory_without_a_network_or_words_is_refused(directory, name):
    (directory / name).unlink()
    with pytest.raises(InputError, match=r"must hold config.json and one of tokenizer.json, vocab.json, vocab.txt"):
        check_embedder(str(directory))


def test_a_place_that_is_none_is_refused_by_the_settings_name(tmp_path):
    with pytest.raises(InputError, match=r"embedding_model: there is no directory '/.*nowhere'"):
        check_embedder(str(tmp_path / "nowhere"))


def test_a_network_without_all_its_weights_is_refused(directory):
    path = directory / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights are missing, the first is encoder.layer.1.output.dense.weight"):
        open_embedder(str(directory))
    path.write_bytes(b"cut off")
    with pytest.raises(InputError, match="sentences cannot be used: SafetensorError"):
        open_embedder(str(directory))


def test_vectors_of_two_makers_never_meet_and_a_receipt_tells_by_which_its_source_was_found(model, whole):
    index, nearness, store = MemoryIndex(), Nearness(min_similarity=-1), Store(1 << 28)
    pooled, sentence = (Catalog(index, "here", 1, nearness, one) for one in (Pooled(), open_embedder(str(whole))))
    drawn = outcome(model, store, GenerateJob(HILL, STEPS), pooled)
    asked = EditJob(TREE, sampling=STEPS, cache="read_only")
    assert outcome(model, store, asked, sentence).receipt.source_id is None
    by_pooled = outcome(model, store, asked, pooled).receipt
    for each in store.ids():
        sentence.announce_kept(model, store, each)
    by_sentence = outcome(model, store, asked, sentence).receipt
    assert by_pooled.source_id == by_sentence.source_id == drawn.receipt.image_id
    assert by_pooled.similarity == pytest.approx(similarity(Pooled(), model, HILL, TREE))
    assert by_sentence.similarity == pytest.approx(similarity(sentence.embedder, model, HILL, TREE))
    assert by_pooled.similarity != pytest.approx(by_sentence.similarity, abs=1e-3)
