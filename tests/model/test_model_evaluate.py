"""Retrieval measured while training: the part of a collection, nDCG@10, the thoughts in the log."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_model import Thinking
from o1_model.ndcg import ndcg
from o1_model.training.arguments import EvalArguments
from o1_model.training.evaluate import measure, open_collection
from o1_records import Document, InputError, Qrel, Query
from o1_records.beir import write_beir
from o1_records.mixture import Mixture

WORDS = ["open", "zip", "file", "read", "write", "list", "sort", "keys", "close", "text", "bytes", "the"]


@pytest.fixture
def folder(tmp_path):
    """A BEIR folder: 12 queries, 30 documents, the document of a query has its words."""
    queries = [Query(query_id=f"q{n}", text=f"{word} {WORDS[n - 1]}") for n, word in enumerate(WORDS)]
    texts = [" ".join([*(WORDS[m % 12] for m in (n, n - 1, n * 5)), *["the"] * (n // 12)]) for n in range(30)]
    documents = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(texts)]
    qrels = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1 + n % 2) for n in range(12)]
    qrels += [Qrel(query_id=f"q{n}", doc_id=f"d{n + 12}", relevance=n % 2) for n in range(12)]
    write_beir(tmp_path / "beir", documents=documents, queries=queries, qrels={"dev": qrels})
    return tmp_path / "beir"


def arguments(folder, **settings):
    return EvalArguments(eval_collection=str(folder), **settings)


def test_ndcg_of_a_worked_example():
    judged = {"a": 3, "b": 1, "c": 0, "d": -1}
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    assert ndcg(["a", "b"], judged) == 1
    assert ndcg(["x", "b", "d", "a"], judged) == pytest.approx((1 / math.log2(3) + 3 / math.log2(5)) / ideal)
    assert ndcg(["x"] * 10 + ["a"], judged) == 0
    assert ndcg(["c"], {"c": 0}) == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=15), st.randoms())
def test_no_order_beats_the_ideal_one(relevances, random):
    judged = {str(n): value for n, value in enumerate(relevances)}
    found = list(judged)
    random.shuffle(found)
    best = sorted(judged, key=judged.__getitem__, reverse=True)
    assert 0 <= ndcg(found, judged) <= ndcg(best, judged) <= 1
    assert ndcg(best, judged) in (0, 1)


def test_a_part_keeps_every_relevant_document_and_tells_its_size(folder):
    part = open_collection(arguments(folder, eval_queries=3, eval_documents=8))
    relevant = {
        doc for query in part.queries for doc, value in part.judged[query.query_id].items() if value > 0
    }
    assert len(part.queries) == 3
    assert len(part.documents) == 8
    assert relevant <= {document.doc_id for document in part.documents}
    assert str(part) == (
        "3 of 12 queries (dev), 8 of 30 documents of beir; fewer documents make higher figures"
    )
    whole = open_collection(arguments(folder))
    assert str(whole) == "12 of 12 queries (dev), 30 of 30 documents of beir"


def test_the_relevant_documents_stay_when_the_limit_is_smaller(folder):
    part = open_collection(arguments(folder, eval_queries=3, eval_documents=1))
    relevant = {
        doc for query in part.queries for doc, value in part.judged[query.query_id].items() if value > 0
    }
    assert {document.doc_id for document in part.documents} == relevant


def test_the_same_part_is_chosen_whatever_the_order_of_the_files(folder):
    first = open_collection(arguments(folder, eval_queries=3, eval_documents=8))
    for name in ("queries.jsonl", "corpus.jsonl"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(reversed(lines)))
    second = open_collection(arguments(folder, eval_queries=3, eval_documents=8))
    assert {q.query_id for q in first.queries} == {q.query_id for q in second.queries}
    assert {d.doc_id for d in first.documents} == {d.doc_id for d in second.documents}


def test_a_split_without_relevant_documents_is_refused(folder):
    (folder / "qrels" / "dev.tsv").write_text("q1\td1\t0\n")
    with pytest.raises(InputError, match="split 'dev' have no relevant document"):
        open_collection(arguments(folder))
    with pytest.raises(OSError, match=r"test\.tsv"):
        open_collection(arguments(folder, eval_split="test"))
    assert open_collection(EvalArguments()) is None
    assert open_collection(EvalArguments(eval_collection="")) is None


def test_measuring_equals_ranking_by_hand(folder, llama, caplog):
    part = open_collection(arguments(folder))
    thinking = Thinking(samples=2, max_tokens=llama.layout.thought_length)
    with caplog.at_level(logging.INFO, "o1_model"):
        found = measure(llama, part, samples=2)
    documents = llama.encode_document(part.documents)
    for name, vectors in {
        "nDCG@10": llama.encode_query(part.queries),
        "nDCG@10_thoughts": llama.encode_query(part.queries, think=thinking),
    }.items():
        values = []
        for query, scores in zip(part.queries, vectors @ documents.T, strict=True):
            best = [part.documents[row].doc_id for row in np.argsort(-scores)[:10]]
            values.append(ndcg(best, part.judged[query.query_id]))
        assert found[name] == pytest.approx(np.mean(values), abs=1e-6), name
    assert [record.getMessage()[:15] for record in caplog.records] == ["thought about '"] * 3
    assert measure(llama, part, samples=0).keys() == {"nDCG@10"}


@pytest.mark.parametrize("reading", ["joint", "query", "document"])
def test_the_mixture_is_measured_with_the_thoughts_that_v_t_has(folder, llama, reading):
    part = open_collection(arguments(folder, eval_queries=5))
    thinking = Thinking(samples=2, max_tokens=llama.layout.thought_length)
    found = measure(llama, part, samples=2, mixture=Mixture(weight=0.4, reading=reading))
    written = llama.think(part.queries, thinking)
    documents, v_q = llama.encode_document(part.documents), llama.encode_query(part.queries)
    values = []
    for number, query in enumerate(part.queries):
        texts = [thought.text for thought in written if thought.query_id == query.query_id]
        if reading == "joint":
            own = llama.encode_query([query] * len(texts), thoughts=[[text] for text in texts])
        else:
            own = llama.encode_document(texts) if reading == "document" else llama.encode_query(texts)
        mixed = 0.6 * v_q[number] + 0.4 * own.mean(axis=0)
        best = [part.documents[row].doc_id for row in np.argsort(-(documents @ mixed))[:10]]
        values.append(ndcg(best, part.judged[query.query_id]))
    assert found["nDCG@10_mixture"] == pytest.approx(np.mean(values), abs=1e-6)


def test_a_document_that_is_the_query_itself_is_left_out_unless_it_is_judged(folder, llama):
    part = open_collection(arguments(folder))
    alone = measure(llama, part, samples=0)["nDCG@10"]
    # ArguAna's corpus has every query as a document of the same id
    itself = [Document(doc_id=query.query_id, text=query.text) for query in part.queries]
    wider = replace(part, documents=[*part.documents, *itself])
    with_itself = mean_ndcg_of(llama, wider, judged=False)
    assert measure(llama, wider, samples=0)["nDCG@10"] == pytest.approx(with_itself, abs=1e-6)
    assert with_itself <= alone
    judged = {name: {**own, name: 1} for name, own in part.judged.items()}
    found = measure(llama, replace(wider, judged=judged), samples=0)["nDCG@10"]
    assert found == pytest.approx(mean_ndcg_of(llama, replace(wider, judged=judged), judged=True), abs=1e-6)


def mean_ndcg_of(model, part, *, judged):
    """nDCG@10 by hand; the document with the query's id counts if it is judged."""
    documents, values = model.encode_document(part.documents), []
    for query, scores in zip(part.queries, model.encode_query(part.queries) @ documents.T, strict=True):
        order = [part.documents[row].doc_id for row in np.argsort(-scores)]
        best = [name for name in order if judged or name != query.query_id][:10]
        values.append(ndcg(best, part.judged[query.query_id]))
    return np.mean(values)
