import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine import prompts

BEGIN, END = 900, 901
SPECIAL = {BEGIN, END}
LENGTH = 12
WORDS = ["a", "red", "blue", "house", "tree", "and", "snow", "mountain", "under", "sky"]

sentences = st.lists(st.sampled_from(WORDS[:6]), max_size=LENGTH - 2).map(" ".join)


def ids(prompt, length=LENGTH):
    """Token ids of a word-level tokenizer: begin, words, padded with end."""
    words = [WORDS.index(word) for word in prompt.split()]
    return ([BEGIN, *words] + [END] * length)[:length]


def align(source, edited, **options):
    return prompts.align(ids(source), ids(edited), special=SPECIAL, **options)


def words_at(prompt, tokens):
    return [prompt.split()[token - 1] for token in tokens]


def attention(seed, num_tokens=LENGTH):
    return torch.rand(2, 5, num_tokens, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def is_replaced(source, edited):
    mix = prompts.mixing(ids(source), ids(edited), special=SPECIAL)
    words = [len(prompt.split()) for prompt in (source, edited)]
    return [int(mix.mapper.sum()), int(mix.alpha.sum())] == words  # all attention is passed on, to every word


@given(sentences)
def test_a_prompt_is_aligned_with_itself_token_by_token(prompt):
    alignment = align(prompt, prompt)
    assert alignment.unchanged
    assert alignment.mapper.tolist() == list(range(LENGTH))
    num_words = len(prompt.split())
    assert alignment.alpha.tolist() == [0] + [1] * num_words + [0] * (LENGTH - 1 - num_words)
    assert alignment.kept == tuple((token, token) for token in range(1, num_words + 1))


@given(sentences, sentences)
def test_as_many_words_are_kept_in_either_direction(source, edited):
    assert len(align(source, edited).kept) == len(align(edited, source).kept)


@given(sentences, sentences)
def test_every_real_word_is_kept_or_changed(source, edited):
    alignment = align(source, edited)
    olds, news = [old for old, _ in alignment.kept], [new for _, new in alignment.kept]
    assert sorted([*olds, *alignment.removed]) == list(range(1, len(source.split()) + 1))
    assert sorted([*news, *alignment.added]) == list(range(1, len(edited.split()) + 1))
    assert olds == sorted(olds)
    assert words_at(source, olds) == words_at(edited, news)
    assert alignment.alpha.nonzero()[:, 0].tolist() == news
    assert alignment.mapper[news].tolist() == olds
    assert alignment.unchanged == (source.split() == edited.split())


@given(sentences, sentences)
def test_as_many_words_are_kept_as_can_be(source, edited):
    old, new = source.split(), edited.split()
    best = [0] * (len(new) + 1)  # the longest common subsequence, row by row
    for word in old:
        row = [0]
        for j, other in enumerate(new):
            row.append(best[j] + 1 if word == other else max(row[j], best[j + 1]))
        best = row
    assert len(align(source, edited).kept) == best[-1]


def test_an_inserted_word_is_new_and_all_others_stay():
    alignment = align("a mountain under a sky", "a snow mountain under a sky")
    assert alignment.kept == ((1, 1), (2, 3), (3, 4), (4, 5), (5, 6))
    assert (alignment.removed, alignment.added) == ((), (2,))
    assert alignment.mapper[:7].tolist() == [0, 1, 2, 2, 3, 4, 5]
    assert alignment.alpha[:8].tolist() == [0, 1, 0, 1, 1, 1, 1, 0]


def test_an_exchanged_word_is_removed_and_added():
    alignment = align("a red house", "a blue house")
    assert (alignment.removed, alignment.added) == ((2,), (2,))


def test_a_word_in_doubt_stays_with_its_noun():
    source = "a red house and a red tree"
    assert align(source, "a red tree").removed == (1, 2, 3, 4)
    assert align(source, "a red house").removed == (4, 5, 6, 7)


def test_padding_and_end_are_left_alone_for_prompts_of_different_length():
    alignment = prompts.align(ids("a house", 5), ids("a house and a tree", 9), special=SPECIAL)
    assert alignment.kept == ((1, 1), (2, 2))
    assert alignment.alpha.tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert alignment.mapper.max() < 5


def test_a_word_of_several_tokens_is_kept_as_a_whole_or_not_at_all():
    source, edited = [BEGIN, 1, 2, 3, END], [BEGIN, 1, 4, 3, END]
    groups = [None, 0, 0, 1, None]
    split = prompts.align(source, edited, special=SPECIAL)
    whole = prompts.align(source, edited, special=SPECIAL, words=(groups, groups))
    assert split.kept == ((1, 1), (3, 3))
    assert whole.kept == ((3, 3),)
    assert (whole.removed, whole.added) == ((1, 2), (1, 2))


def test_special_tokens_are_special_whatever_word_they_are_given():
    tokens = [BEGIN, 1, END]
    assert prompts.align(tokens, tokens, special=SPECIAL, words=([0, 1, 2], [0, 1, 2])).kept == ((1, 1),)


def test_words_for_another_number_of_tokens_are_refused():
    with pytest.raises(ValueError, match="a word for each of the 3 tokens, are 2"):
        prompts.align([BEGIN, 1, END], [BEGIN, 1, END], special=SPECIAL, words=([None, 0], [None, 0, None]))


def test_refine_without_kept_words_is_the_fresh_map():
    recorded, fresh = attention(0), attention(1)
    assert torch.equal(prompts.refinement(align("house", "tree"), LENGTH)(recorded, fresh), fresh)


def test_refine_with_everything_kept_is_the_recorded_map():
    recorded, fresh = attention(0), attention(1)
    everything = prompts.Alignment(torch.arange(LENGTH), torch.ones(LENGTH), kept=(), removed=(), added=())
    assert torch.equal(prompts.refinement(everything, LENGTH)(recorded, fresh), recorded)


def test_refine_takes_kept_words_from_the_recording_and_the_rest_from_the_edit():
    recorded, fresh = attention(0, num_tokens=8), attention(1)
    alignment = prompts.align(ids("a tree", 8), ids("a red tree"), special=SPECIAL)
    mixed = prompts.refinement(alignment, 8)(recorded, fresh)
    assert torch.equal(mixed[..., [1, 3]], recorded[..., [1, 2]])
    assert torch.equal(mixed[..., [0, 2, *range(4, LENGTH)]], fresh[..., [0, 2, *range(4, LENGTH)]])


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=5))
def test_replace_passes_on_all_attention_of_real_words(lengths):
    source, edited = (
        [None, *(k for k, pair in enumerate(lengths) for _ in range(pair[side])), None] for side in (0, 1)
    )
    mix = prompts.replacement(source, edited)
    assert mix.mapper.shape == (len(source), len(edited))
    real = torch.tensor([word is not None for word in source])
    # shares of 1/3 add up to 1 but for the last bit
    torch.testing.assert_close(mix.mapper.sum(1), real.float())
    recorded, fresh = attention(0, len(source)), attention(1, len(edited))
    mixed = mix(recorded, fresh)
    torch.testing.assert_close(mixed[..., 1:-1].sum(-1), recorded[..., 1:-1].sum(-1))
    assert torch.equal(mixed[..., [0, -1]], fresh[..., [0, -1]])


def test_replaced_words_of_equal_length_pass_attention_on_token_by_token():
    words = [None, 0, 1, 1, None]
    assert torch.equal(prompts.replacement(words, words).mapper, torch.diag(torch.tensor([0.0, 1, 1, 1, 0])))


def test_tokens_of_a_longer_word_share_the_attention_of_the_old_one():
    mapper = prompts.replacement([None, 0, 0, None], [None, 0, 0, 0, 0, None]).mapper
    assert torch.equal(mapper[1:3, 1:5], torch.full((2, 4), 0.25))
    assert mapper.sum() == 2


def test_replacement_needs_as_many_words():
    with pytest.raises(ValueError, match="edited_words must be 2 words like source_words, are 1"):
        prompts.replacement([None, 0, 1], [None, 0])


def test_words_exchanged_in_place_are_replaced():
    assert is_replaced("a red house", "a blue house")
    assert is_replaced("a red house", "a red house")


@pytest.mark.parametrize(
    "edited",
    [
        "a red house and a tree",  # more words
        "a house",  # fewer words
        "red a house",  # other places
        "blue tree house",  # most words are new
    ],
)
def test_other_edits_are_refined(edited):
    assert not is_replaced("a red house", edited)


def test_mixing_is_replace_for_an_exchange():
    recorded, fresh = attention(0), attention(1)
    mixed = prompts.mixing(ids("a red house"), ids("a blue house"), special=SPECIAL)(recorded, fresh)
    assert torch.equal(mixed[..., 1:4], recorded[..., 1:4])
    assert torch.equal(mixed[..., 4:], fresh[..., 4:])
    assert torch.equal(mixed[..., 0], fresh[..., 0])


def test_mixing_is_refine_for_an_insertion():
    recorded, fresh = attention(0), attention(1)
    mixed = prompts.mixing(ids("a house"), ids("a red house"), special=SPECIAL)(recorded, fresh)
    assert torch.equal(mixed, prompts.refinement(align("a house", "a red house"), LENGTH)(recorded, fresh))


@pytest.mark.parametrize("edited", ["a blue house", "a red house and a tree"])
def test_mixing_keeps_the_precision_of_the_fresh_map(edited):
    mix = prompts.mixing(ids("a red house"), ids(edited), special=SPECIAL)
    mixed = mix(attention(0).half(), attention(1).half())
    assert mixed.dtype == torch.float16
    assert torch.equal(mixed[..., 1], attention(0).half()[..., 1])


def test_mixing_knows_words_of_several_tokens():
    source, edited = [BEGIN, 1, 2, 3, END, END], [BEGIN, 4, 5, 6, 3, END]
    words = ([None, 0, 0, 1, None, None], [None, 0, 0, 0, 1, None])
    recorded, fresh = attention(0, 6), attention(1, 6)
    mixed = prompts.mixing(source, edited, special=SPECIAL, words=words)(recorded, fresh)
    refined = prompts.refinement(prompts.align(source, edited, special=SPECIAL, words=words), 6)
    assert torch.equal(mixed, refined(recorded, fresh))  # fewer tokens are kept (1) than removed (2)


def test_changed_words_are_listed_in_order_without_case_and_punctuation():
    removed, added = prompts.changed_words(
        "A red house, under a clear sky.", "a blue house under a sunset sky with a boat"
    )
    assert removed == ["red", "clear"]
    assert added == ["blue", "sunset", "with", "a", "boat"]


def test_a_prompt_differs_from_itself_in_no_word():
    assert prompts.changed_words("A sea, a boat", "a sea a boat!") == ([], [])


def test_unknown_words_come_once_in_order_of_appearance():
    prompt = "A Castle, with a dragon's hot-air balloon; the castle (old)"
    assert prompts.unknown_words(prompt, {"a", "With", "the", "hot", "AIR", "balloon"}) == ["castle", "dragon's", "old"]


def test_a_curved_apostrophe_is_inside_its_word():
    assert prompts.unknown_words("a dragon\u2019s egg", {"a", "egg"}) == ["dragon\u2019s"]


def test_an_empty_prompt_has_no_words():
    assert prompts.unknown_words(" ... ", set()) == []
    assert prompts.changed_words("", "a tree") == ([], ["a", "tree"])
