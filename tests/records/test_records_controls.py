"""Controls keep the queries and the numbers of thoughts, and have nothing of a query's own thoughts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import Document, InputError, Query
from o1_records.bm25 import BM25
from o1_records.kit.controls import copied_thoughts, empty_thoughts, filler_thoughts, shuffled_thoughts

ids = st.text("abcdef", min_size=1, max_size=3)
some = st.dictionaries(ids, st.lists(st.text("xyz ", min_size=1), max_size=3), min_size=2, max_size=6)


@given(some, st.integers(0, 5))
def test_every_control_keeps_queries_and_is_independent_of_their_order(texts, seed):
    queries = [Query(query_id=query_id, text=f"text of {query_id}") for query_id in texts]
    turned = dict(reversed(texts.items()))
    for control in (
        empty_thoughts,
        filler_thoughts,
        lambda given: shuffled_thoughts(given, seed),
        lambda given: copied_thoughts(given, queries),
    ):
        assert control(texts) == control(turned)
        assert control(texts).keys() == texts.keys()
    for same_number in (empty_thoughts(texts), filler_thoughts(texts), copied_thoughts(texts, queries)):
        assert {name: len(own) for name, own in same_number.items()} == {
            name: len(own) for name, own in texts.items()
        }


@given(some, st.integers(0, 5))
def test_shuffled_thoughts_are_all_thoughts_in_one_circle_and_nobodys_own(texts, seed):
    marked = {name: [f"{name} {n}" for n in range(len(own))] for name, own in texts.items()}
    shuffled = shuffled_thoughts(marked, seed)
    assert sorted(map(tuple, shuffled.values())) == sorted(map(tuple, marked.values()))
    assert all(not own or own != marked[name] for name, own in shuffled.items())


def test_a_filler_has_as_many_words_and_a_copy_says_the_query_again():
    texts = {"q1": ["three small words", ""], "q2": []}
    assert [len(text.split()) for text in filler_thoughts(texts)["q1"]] == [3, 0]
    queries = [Query(query_id="q1", text="why"), Query(query_id="q2", text="how")]
    assert copied_thoughts(texts, queries) == {"q1": ["why", "why"], "q2": []}


def test_what_cannot_be_a_control_is_named():
    with pytest.raises(InputError, match=r"two queries or more, got \['q1'\]"):
        shuffled_thoughts({"q1": ["own"]})
    with pytest.raises(InputError, match="no text of query 'q1', which has thoughts; give all queries"):
        copied_thoughts({"q1": ["own"]}, [])


def test_bm25_reads_nothing_in_filler():
    documents = [Document(doc_id="d", text="and so it is how it was then, and not a thing more")]
    filler = filler_thoughts({"q": ["word " * 40]})["q"][0]
    assert not BM25(documents).scores(filler).any()
