"""Joining what belongs together, and the ballots that a member casts about it."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_records import Document, InputError, Qrel, Query, Source, Thought
from o1_vote import BM25Member, cast, nominate
from o1_vote.election.nominate import Nomination, Nominations
from o1_vote.measure import margin_to_corpus, query_thought_similarity, thought_similarity
from o1_vote.members.cosine import CosineMember

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
        ({"thoughts": [thought("q9", "t1", "x")]}, "thought 't1' of query 'q9': there is no such query"),
        ({"thoughts": [THOUGHTS[0], THOUGHTS[0]]}, "duplicate thought_id 't2' of query 'q2'"),
        ({"thoughts": [thought("q1", "t1", " ")]}, "thought 't1' of query 'q1': .*str.* matching regex"),
        ({"queries": [QUERIES[0], QUERIES[0]]}, "duplicate query_id 'q1'"),
        ({"documents": [DOCUMENTS[0]] * 2}, "duplicate doc_id 'd1'"),
        ({"documents": [*DOCUMENTS, DOCUMENTS[3]]}, "duplicate doc_id 'd4'"),
        (
            {"qrels": [QRELS[0], Qrel(query_id="q1", doc_id="d1", relevance=2)]},
            "document 'd1' has two relevances for query 'q1', 1 and 2",
        ),
        ({"documents": DOCUMENTS[:2]}, "'d3', a positive of query 'q2', is not in the corpus"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    given = {"queries": QUERIES, "thoughts": THOUGHTS, "qrels": QRELS, "documents": DOCUMENTS}
    with pytest.raises(InputError, match=message):
        nominate(**{**given, **change})


NAMES = st.sampled_from(["a", "b", "c", "d"])
SOME_QUERIES = st.lists(NAMES, max_size=4).map(
    lambda names: [Query(query_id=name, text=f"about {name}") for name in names]
)
SOME_THOUGHTS = st.lists(st.tuples(NAMES, NAMES), max_size=5).map(
    lambda pairs: [thought(query_id, thought_id, "x") for query_id, thought_id in pairs]
)
SOME_QRELS = st.lists(st.tuples(NAMES, NAMES, st.integers(-1, 2)), max_size=6, unique_by=lambda q: q[:2]).map(
    lambda rows: [Qrel(query_id=q, doc_id=d, relevance=r) for q, d, r in rows]
)
SOME_DOCUMENTS = st.lists(NAMES, max_size=4, unique=True).map(
    lambda names: [Document(doc_id=name, text=f"document {name}") for name in names]
)


def nominate_in_memory(queries, thoughts, qrels, documents):
    """A slow and plain join: nominations and the query_ids left out, or what the error says."""
    asked = {query.query_id: query for query in queries}
    found = {document.doc_id: document for document in documents}
    candidates, positives = defaultdict(dict), defaultdict(list)
    if len(asked) < len(queries):
        return "duplicate query_id"
    for each in thoughts:
        if each.query_id not in asked:
            return "there is no such query"
        if each.thought_id in candidates[each.query_id]:
            return "duplicate thought_id"
        candidates[each.query_id][each.thought_id] = each
    for qrel in qrels:
        if qrel.relevance > 0 and qrel.query_id in asked:
            if qrel.doc_id not in found:
                return "is not in the corpus"
            positives[qrel.query_id].append(qrel)
    nominations = [
        Nomination(
            query,
            tuple(candidates[name][key] for key in sorted(candidates[name])),
            tuple(found[q.doc_id] for q in sorted(positives[name], key=lambda q: -q.relevance)),
        )
        for name, query in asked.items()
        if positives[name]
    ]
    return nominations, [name for name in asked if not positives[name]]


@settings(max_examples=80)
@given(queries=SOME_QUERIES, thoughts=SOME_THOUGHTS, qrels=SOME_QRELS, documents=SOME_DOCUMENTS)
def test_the_join_on_the_disk_is_the_join_in_memory(queries, thoughts, qrels, documents):
    expected = nominate_in_memory(queries, thoughts, qrels, documents)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            nominate(queries, thoughts, qrels, documents)
        return
    with Nominations(queries, thoughts, qrels, documents) as found:
        nominations = list(found)
        assert (nominations, [reason.query_id for reason in found.reasons()]) == expected
        assert len(found) == len(nominations)
        counts = [sum(1 + len(n.thoughts) for n in nominations[:k]) for k in range(len(nominations) + 1)]
        assert [found.candidates(k) for k in range(len(counts))] == counts
        assert list(found.block(1, 2)) == nominations[1:3]
        assert dict(found.documents) == {d.doc_id: d for n in nominations for d in n.positives}
    with Nominations(queries, thoughts, qrels, documents, every_document=True) as found:
        assert dict(found.documents) == {document.doc_id: document for document in documents}


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
