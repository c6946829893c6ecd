import json
import random

import pytest
from transformers import CLIPTokenizer

from service.postcard.pictures import scene_of
from service.postcard.scenes import WORDS, caption
from service.postcard.tokenizer import MAX_LENGTH, token_ids, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, WORDS)
    return CLIPTokenizer.from_pretrained(directory)


def test_each_known_word_is_one_token(tokenizer):
    assert [tokenizer.tokenize(word) for word in WORDS] == [[f"{word}</w>"] for word in WORDS]


def test_case_does_not_matter(tokenizer):
    assert tokenizer("A Snow Mountain").input_ids == tokenizer("a snow mountain").input_ids


def test_commas_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("a sea, a boat") == ["a</w>", "sea</w>", ",</w>", "a</w>", "boat</w>"]


@pytest.mark.parametrize("text", ["zebra", "éa", "雪山", "7 + 3!", "🙂"])
def test_unknown_text_still_tokenises(tokenizer, text):
    tokens = tokenizer.tokenize(text)
    assert tokens
    assert tokenizer.eos_token not in tokens


def test_captions_survive_the_round_trip(tokenizer):
    for number in range(100):
        text = caption(scene_of(number), random.Random(number))
        decoded = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
        assert decoded.replace(" ,", ",").strip() == text


def test_every_caption_fits_without_being_cut(tokenizer):
    captions = [caption(scene_of(number), random.Random(number)) for number in range(3000)]
    assert max(len(ids) for ids in tokenizer(captions).input_ids) <= MAX_LENGTH


def test_ids_begin_with_the_start_and_are_padded_with_the_end(tokenizer):
    (ids,) = token_ids(tokenizer, ["a sea"])
    assert len(ids) == MAX_LENGTH == tokenizer.model_max_length
    assert ids[0] == tokenizer.bos_token_id
    assert set(ids[3:]) == {tokenizer.eos_token_id} == {tokenizer.pad_token_id}


def test_the_vocabulary_has_every_byte_and_no_token_twice(tmp_path):
    write_tokenizer(tmp_path, ("a", "sea"))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) == 2 * 256 + len("sea") - 1 + 2  # bytes, bytes that end a word, merges, two marks


def test_files_are_the_same_each_time(tmp_path):
    for name in ("first", "second"):
        write_tokenizer(tmp_path / name, WORDS)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
