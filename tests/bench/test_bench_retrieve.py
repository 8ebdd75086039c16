import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_bench.collection import Collection
from o1_bench.controls import empty_thoughts, filler_thoughts, shuffled_thoughts, thought_texts
from o1_bench.datasets.beir import load_beir
from o1_bench.running.retrieve import bm25, with_thoughts
from o1_bench.score import means, score
from o1_records import Document, InputError, Qrel, Query, Source, Thought

QUERIES = [Query(query_id="q1", text="open a file"), Query(query_id="q2", text="sort a list")]
CODE = Collection(
    name="code",
    documents=[
        Document(doc_id="open", text="def openFile(path): return io.open(path)"),
        Document(doc_id="sort", text="def sort_list(items): items.sort()"),
        Document(doc_id="none", text="def nothing(): pass"),
    ],
    queries=tuple(QUERIES),
    qrels=(
        Qrel(query_id="q1", doc_id="open", relevance=1),
        Qrel(query_id="q2", doc_id="sort", relevance=1),
    ),
)

needs_data = pytest.mark.skipif(
    not os.environ.get("O1_DATA"),
    reason="set O1_DATA to a folder with the BEIR folders scifact, cosqa, conala and mbpp",
)

ids = st.text(min_size=1, max_size=5)
words = st.text(alphabet="ab \n", max_size=12)
texts_by_query = st.dictionaries(ids, st.lists(words, max_size=4), max_size=12)


def thought(query_id, thought_id, text):
    return Thought(query_id=query_id, thought_id=thought_id, text=text, source=Source(model="docstring"))


def test_thoughts_stand_under_their_query_by_thought_id():
    thoughts = [thought("q2", "b", "late"), thought("q1", "a", "only"), thought("q2", "a", "early")]
    assert thought_texts(thoughts) == {"q1": ["only"], "q2": ["early", "late"]}


def test_every_thought_of_a_query_is_appended_to_it():
    queries = with_thoughts(QUERIES, {"q1": ["first", "second"], "q2": [""]})
    assert [query.text for query in queries] == ["open a file\nfirst\nsecond", "sort a list"]
    assert [query.query_id for query in queries] == ["q1", "q2"]


def test_a_query_without_a_thought_stays_as_it_is():
    assert with_thoughts(QUERIES, {"q1": ["only"]})[1] == QUERIES[1]


def test_thoughts_of_other_queries_are_refused():
    with pytest.raises(InputError, match="none of the 2 queries has a thought among 1"):
        with_thoughts(QUERIES, {"q9": ["lost"]})


@given(texts_by_query)
def test_empty_thoughts_keep_queries_and_numbers_and_change_no_query(texts):
    empty = empty_thoughts(texts)
    assert {query_id: len(some) for query_id, some in empty.items()} == {
        query_id: len(some) for query_id, some in texts.items()
    }
    queries = [Query(query_id=query_id, text="asked") for query_id in texts]
    assert with_thoughts(queries, empty) == queries


@given(texts_by_query)
def test_filler_thoughts_have_as_many_words_and_do_not_read_the_thoughts(texts):
    filler = filler_thoughts(texts)
    assert filler.keys() == texts.keys()
    for query_id, some in texts.items():
        assert [len(one.split()) for one in filler[query_id]] == [len(one.split()) for one in some]
    renamed = {query_id: [one.replace("a", "b") for one in some] for query_id, some in texts.items()}
    assert filler_thoughts(renamed) == filler


@given(st.sets(ids, min_size=2, max_size=20), st.integers(0, 5), st.randoms())
def test_a_shuffle_gives_every_thought_to_another_query_whatever_the_order(query_ids, seed, random):
    texts = {query_id: [f"of {query_id}"] for query_id in query_ids}
    shuffled = shuffled_thoughts(texts, seed)
    assert shuffled.keys() == texts.keys()
    assert all(shuffled[query_id] != texts[query_id] for query_id in texts)
    assert sorted(shuffled.values()) == sorted(texts.values())
    mixed = list(texts.items())
    random.shuffle(mixed)
    assert shuffled_thoughts(dict(mixed), seed) == shuffled


def test_another_seed_shuffles_otherwise():
    texts = {f"q{n}": [f"thought {n}"] for n in range(50)}
    assert shuffled_thoughts(texts, 1) != shuffled_thoughts(texts, 2)


def test_one_query_alone_cannot_be_shuffled():
    with pytest.raises(InputError, match="two queries or more, got \\['q1'\\]"):
        shuffled_thoughts({"q1": ["own"]})


def test_bm25_without_its_extra_says_what_to_install():
    code = "import sys; sys.modules['bm25s'] = None; from o1_bench.running.retrieve import bm25; bm25(None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("o1_records.files.MissingExtraError: ")
    assert last.endswith("pip install 'o1-bench[bm25]'")


@pytest.mark.extra
def test_bm25_finds_identifiers_when_it_splits_them():
    queries = [Query(query_id="q1", text="file"), Query(query_id="q2", text="sorted lists")]
    hits = list(bm25(CODE, split_identifiers=True)(queries, 10))
    assert [(hit.query_id, hit.doc_id, hit.rank) for hit in hits] == [
        ("q1", "open", 1),
        ("q2", "sort", 1),
    ]
    assert [hit.query_id for hit in bm25(CODE)(queries, 10)] == ["q2"]


@pytest.mark.extra
def test_bm25_never_returns_an_excluded_document():
    parts = {"documents": CODE.documents, "queries": CODE.queries, "qrels": CODE.qrels}
    strict = Collection(name="strict", excluded={"q1": {"open"}}, **parts)
    found = {(hit.query_id, hit.doc_id) for hit in bm25(strict, split_identifiers=True)(QUERIES, 10)}
    assert ("q1", "open") not in found
    assert ("q2", "sort") in found


@pytest.mark.extra
def test_a_filler_thought_changes_no_bm25_hit():
    filler = filler_thoughts({"q1": ["a thought of some length " * 9], "q2": ["short"]})
    retrieve = bm25(CODE, split_identifiers=True)
    assert list(retrieve(with_thoughts(QUERIES, filler), 10)) == list(retrieve(QUERIES, 10))


# In 91 of mbpp's 500 queries the judged document ties with others, and the figure depends on who
# wins: 0.1070 in file order (its test documents stand first in the file), 0.1046 on average over
# random orders, 0.1024 in trec_eval's order, doc_id descending, which is the one we score.
@pytest.mark.extra
@needs_data
@pytest.mark.parametrize(
    ("name", "ndcg"), [("scifact", 0.6762), ("cosqa", 0.3200), ("conala", 0.4784), ("mbpp", 0.1024)]
)
def test_bm25_gives_the_known_figures(name, ndcg):
    """Skipped unless O1_DATA names a folder with the BEIR folders scifact, cosqa, conala and mbpp."""
    collection = load_beir(Path(os.environ["O1_DATA"], name))
    metrics = score(collection.qrels, bm25(collection)(collection.queries, 100))
    assert means(metrics)["nDCG@10"] == pytest.approx(ndcg, abs=5e-5)
