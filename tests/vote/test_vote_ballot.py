"""Joining what belongs together, and what a member measures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import Document, InputError, Qrel, Query, Source, Thought
from o1_vote import BM25Member, cast, nominate
from o1_vote.ballot import Nomination
from o1_vote.cosine import CosineMember
from o1_vote.measure import margin_to_corpus, query_thought_similarity, thought_similarity

QUERIES = [
    Query(query_id="q1", text="open an archive"),
    Query(query_id="q2", text="sort numbers"),
    Query(query_id="q3", text="nothing fits this"),
]
DOCUMENTS = [
    Document(doc_id="d1", text="read the members of a zip archive file"),
    Document(doc_id="d2", text="arrange a list of numbers in ascending order"),
    Document(doc_id="d3", text="bisect keeps a list in order"),
    Document(doc_id="d4", text="send a mail"),
]
QRELS = [
    Qrel(query_id="q1", doc_id="d1", relevance=1),
    Qrel(query_id="q2", doc_id="d3", relevance=1),
    Qrel(query_id="q2", doc_id="d2", relevance=2),
    Qrel(query_id="q2", doc_id="d4", relevance=0),
]


def thought(query_id, thought_id, text):
    return Thought(query_id=query_id, thought_id=thought_id, text=text, source=Source(model="test"))


THOUGHTS = [
    thought("q2", "t2", "ascending order of a list"),
    thought("q1", "t1", "zip file members"),
    thought("q2", "t1", "bisect"),
]


def letters(texts):
    """A real embedding function: counts of letters."""
    rows = [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 26)


def test_every_query_is_nominated_or_has_a_reason():
    nominations, reasons = nominate(QUERIES, THOUGHTS, QRELS, DOCUMENTS)
    assert [n.query.query_id for n in nominations] == ["q1", "q2"]
    assert [r.query_id for r in reasons] == ["q3"]
    assert [[t.thought_id for t in n.thoughts] for n in nominations] == [["t1"], ["t1", "t2"]]


def test_positives_come_by_relevance_and_irrelevant_documents_do_not():
    nominations, _ = nominate(QUERIES, THOUGHTS, QRELS, DOCUMENTS)
    assert [d.doc_id for d in nominations[1].positives] == ["d2", "d3"]


@given(order=st.permutations(THOUGHTS))
def test_the_order_of_thoughts_in_a_file_does_not_matter(order):
    assert nominate(QUERIES, order, QRELS, DOCUMENTS) == nominate(QUERIES, THOUGHTS, QRELS, DOCUMENTS)


def test_judgements_of_other_queries_are_passed_over():
    nominations, reasons = nominate(QUERIES[:1], THOUGHTS[1:2], QRELS, DOCUMENTS)
    assert len(nominations) == 1
    assert not reasons


def test_a_thought_cannot_join_another_query():
    with pytest.raises(InputError, match="belongs to query 'q2', not to 'q1'"):
        Nomination(QUERIES[0], (THOUGHTS[0],), (DOCUMENTS[0],))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thoughts": [thought("q9", "t1", "x")]}, "about query 'q9', which is not among"),
        ({"thoughts": [THOUGHTS[0], THOUGHTS[0]]}, "thought 't2' of query 'q2' stands twice"),
        ({"queries": [QUERIES[0], QUERIES[0]]}, "query 'q1' stands twice"),
        ({"documents": [DOCUMENTS[0]] * 2}, "document 'd1' stands twice"),
        ({"documents": DOCUMENTS[:2]}, "'d3', a positive of query 'q2', is not in the corpus"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    given = {"queries": QUERIES, "thoughts": THOUGHTS, "qrels": QRELS, "documents": DOCUMENTS}
    with pytest.raises(InputError, match=message):
        nominate(**{**given, **change})


def test_every_candidate_and_the_query_alone_get_one_ballot():
    nominations, _ = nominate(QUERIES, THOUGHTS, QRELS, DOCUMENTS)
    ballots = list(cast(nominations, BM25Member(DOCUMENTS)))
    assert [(b.query_id, b.thought_id) for b in ballots] == [
        ("q1", None),
        ("q1", "t1"),
        ("q2", None),
        ("q2", "t1"),
        ("q2", "t2"),
    ]
    assert {b.retriever for b in ballots} == {"bm25"}


def test_the_best_of_several_positives_counts():
    nominations, _ = nominate(QUERIES, THOUGHTS, QRELS, DOCUMENTS)
    member = BM25Member(DOCUMENTS)
    ballots = cast(nominations, member, measure=thought_similarity)
    scores = {(b.query_id, b.thought_id): b.score for b in ballots}
    for thought_id, text in (("t1", "bisect"), ("t2", "ascending order of a list")):
        pairs = [(text, "d2"), (text, "d3")]
        assert scores["q2", thought_id] == max(member.similarities(pairs).tolist())


def test_query_and_thought_are_measured_as_one_text():
    nominations, _ = nominate(QUERIES, THOUGHTS, QRELS, DOCUMENTS)
    member = CosineMember("letters", letters, DOCUMENTS)
    ballots = list(cast(nominations, member, measure=query_thought_similarity))
    texts = ["open an archive", "open an archive zip file members"]
    expected = member.similarities([(text, "d1") for text in texts])
    assert [b.score for b in ballots[:2]] == expected.tolist()


def test_blocks_of_queries_change_nothing():
    queries = [Query(query_id=f"q{i}", text=f"text {i} abc"[: 3 + i % 9]) for i in range(600)]
    qrels = [Qrel(query_id=q.query_id, doc_id="d1", relevance=1) for q in queries]
    nominations, _ = nominate(queries, [], qrels, DOCUMENTS)
    for measure in (thought_similarity, margin_to_corpus):
        member = CosineMember("letters", letters, DOCUMENTS)
        ballots = list(cast(nominations, member, measure=measure))
        alone = [next(cast([n], member, measure=measure)) for n in nominations]
        assert [b.query_id for b in ballots] == [b.query_id for b in alone]
        # the width of a matrix product moves a cosine by rounding
        assert [b.score for b in ballots] == pytest.approx([b.score for b in alone], abs=1e-6)


def test_a_score_that_is_not_finite_is_refused_by_name():
    class Broken:
        name = "broken"

        def similarities(self, pairs):
            return np.full(len(pairs), np.nan, dtype=np.float32)

    nominations, _ = nominate(QUERIES, THOUGHTS, QRELS, DOCUMENTS)
    with pytest.raises(InputError, match="member 'broken': score nan for query 'q1', thought None"):
        list(cast(nominations, Broken(), measure=thought_similarity))
