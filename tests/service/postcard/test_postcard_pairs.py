from collections import Counter

from service.postcard.pairs import EDITS, PAIRS_PER_KIND, EditPair, draw_pairs, load_pairs, save_pairs
from service.postcard.scenes import HOUSES, LANDS, OBJECTS, SKIES, WORDS


def test_there_are_ten_frozen_pairs_of_each_kind():
    assert Counter(pair.kind for pair in load_pairs()) == dict.fromkeys(EDITS, PAIRS_PER_KIND)


def test_all_pairs_and_seeds_differ():
    pairs = load_pairs()
    assert len({(pair.source_prompt, pair.prompt) for pair in pairs}) == len(pairs)
    assert [pair.seed for pair in pairs] == list(range(len(pairs)))


def test_prompts_use_known_words_only():
    words = {word for pair in load_pairs() for word in f"{pair.source_prompt} {pair.prompt}".split()}
    assert words <= set(WORDS)


def test_each_kind_changes_what_its_name_says():
    skies = {f"{sky} sky" for sky in SKIES}
    for pair in load_pairs():
        asked_for, removed = pair.asked_for, pair.removed
        assert (len(asked_for), len(removed)) == {"add": (1, 0), "remove": (0, 1)}.get(pair.kind, (1, 1))
        changed = asked_for | removed
        kinds = {"recolour": set(HOUSES), "sky": skies, "land": set(LANDS)}
        assert changed <= kinds.get(pair.kind, set(OBJECTS))


def test_an_edit_succeeds_with_the_new_and_without_the_old():
    pair = EditPair("replace", "a sea under a clear sky with a sun", "a sea under a clear sky with a boat", 0)
    assert pair.kept == {"sea", "clear sky"}
    assert pair.is_success(frozenset({"sea", "clear sky", "boat"}))
    assert not pair.is_success(frozenset({"sea", "clear sky", "boat", "sun"}))
    assert not pair.is_success(frozenset({"sea", "clear sky"}))


def test_pairs_are_drawn_anew_from_a_seed_and_read_as_written(tmp_path):
    pairs = draw_pairs(seed=5)
    assert draw_pairs(seed=5) == pairs
    save_pairs(pairs, tmp_path / "pairs.json")
    assert load_pairs(tmp_path / "pairs.json") == pairs
