"""Texts of like length go together: little is padded, and no batch is too large."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from o1_vote.members.batches import by_length, tokens_of

LENGTHS = st.lists(st.integers(0, 50), max_size=30)


@given(lengths=LENGTHS, limit=st.integers(1, 200))
def test_every_place_comes_once_by_length_and_no_batch_is_beyond_the_limit(lengths, limit):
    batches = list(by_length(lengths, limit))
    places = [place for batch in batches for place in batch]
    assert sorted(places) == list(range(len(lengths)))
    assert [lengths[place] for place in places] == sorted(lengths)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch[-1]] <= limit
    for batch, following in itertools.pairwise(batches):  # and none could have taken the next text
        assert (len(batch) + 1) * lengths[following[0]] > limit


class Words:
    """What is asked of a sentence-transformers model: a tokenizer and a limit."""

    max_seq_length = 3

    @staticmethod
    def tokenizer(texts, *, truncation, max_length, return_attention_mask):
        return {"input_ids": [text.split()[: max_length if truncation else None] for text in texts]}


def test_tokens_are_those_that_the_model_reads():
    assert tokens_of(Words, ["a b", "", "a b c d e"]) == [2, 0, 3]
    Words.max_seq_length = None
    assert tokens_of(Words, ["a b c d e"]) == [5]


def test_a_model_without_a_tokenizer_is_estimated_by_characters():
    class Images:
        max_seq_length = None

    assert tokens_of(Images, ["", "abcd", "abcde"]) == [0, 1, 2]
