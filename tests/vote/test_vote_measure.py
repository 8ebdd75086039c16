"""What a ballot says: similarities, margins and ranks, against slow references over the corpus."""

import functools

import numpy as np
import pytest

from o1_records import Ballot, Document, Hit, InputError, Query, Source, Thought, trec, write_jsonl
from o1_records.kit.text import jaccard, shingles
from o1_vote import BM25Member, cast
from o1_vote.election.nominate import Nomination
from o1_vote.measure import (
    Candidate,
    margin_to_corpus,
    margin_to_negatives,
    mean,
    query_thought_similarity,
    reciprocal_rank,
    thought_similarity,
)
from o1_vote.members.cosine import CosineMember
from o1_vote.members.scores import read_score_file

WORDS = ["zip", "archive", "member", "sort", "list", "number", "mail", "order", "read", "send"]
RANDOM = np.random.default_rng(3)
CORPUS = [
    Document(doc_id=f"d{i}", text=" ".join(RANDOM.choice(WORDS, size=6)), title=f"title {i}")
    for i in range(40)
]
QUERY = Query(query_id="q", text="read a zip archive")
THOUGHTS = tuple(
    Thought(query_id="q", thought_id=name, text=text, source=Source(model="test"))
    for name, text in [("a", "member of an archive"), ("b", "send mail in order")]
)
POSITIVES, NEGATIVES = (CORPUS[3], CORPUS[5]), (CORPUS[7], CORPUS[8], CORPUS[9])
CANDIDATES = [Candidate(QUERY, thought, POSITIVES, NEGATIVES) for thought in (None, *THOUGHTS)]
TEXTS = [QUERY.text, *(f"{QUERY.text} {thought.text}" for thought in THOUGHTS)]


def letters(texts):
    rows = [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 26)


@pytest.fixture(params=["bm25", "letters"])
def member(request):
    return BM25Member(CORPUS) if request.param == "bm25" else CosineMember("letters", letters, CORPUS)


def scores(member, text, documents):
    return member.similarities([(text, document.doc_id) for document in documents])


@pytest.mark.parametrize(("several", "reduce"), [(None, np.max), (mean, np.mean)])
def test_each_measure_is_what_it_says(member, several, reduce):
    options = {"several": several} if several else {}
    others = [
        document
        for document in CORPUS
        if not any(jaccard(shingles(document.full_text), shingles(p.full_text)) >= 0.8 for p in POSITIVES)
    ]
    for measure, slow in [
        (query_thought_similarity, lambda text: reduce(scores(member, text, POSITIVES))),
        (
            margin_to_negatives,
            lambda text: reduce(scores(member, text, POSITIVES)) - max(scores(member, text, NEGATIVES)),
        ),
        (
            margin_to_corpus,
            lambda text: reduce(scores(member, text, POSITIVES)) - max(scores(member, text, others)),
        ),
        (
            reciprocal_rank,
            lambda text: reduce(
                [
                    1 / (1 + sum(other >= score for other in scores(member, text, others))) if score else 0
                    for score in scores(member, text, POSITIVES)
                ]
            ),
        ),
    ]:
        values = measure(member, CANDIDATES, **options)
        assert values.tolist() == pytest.approx([slow(text) for text in TEXTS], abs=1e-5)


def test_a_thought_that_raises_a_hard_negative_as_much_gains_nothing():
    documents = [
        Document(doc_id="p", text="abc"),
        Document(doc_id="n", text="abd"),
        Document(doc_id="o", text="xyz"),
    ]
    member = CosineMember("letters", letters, documents)
    thoughts = [
        Thought(query_id="q", thought_id=name, text=text, source=Source(model="t"))
        for name, text in [("both", "ab"), ("right", "c")]
    ]
    query = Query(query_id="q", text="ab")
    candidates = [Candidate(query, t, (documents[0],), (documents[1],)) for t in (None, *thoughts)]
    alone, both, right = margin_to_negatives(member, candidates)
    assert both == pytest.approx(alone, abs=1e-6)
    assert right > both
    raised = thought_similarity(member, candidates)
    assert raised[1] > raised[2]  # similarity alone prefers the thought that does not help


def test_a_margin_needs_negatives_and_a_rank_needs_a_searcher():
    candidate = Candidate(QUERY, None, POSITIVES)
    with pytest.raises(InputError, match="query 'q' has no hard negatives"):
        margin_to_negatives(BM25Member(CORPUS), [candidate])

    class Pairs:
        name = "pairs"

        def similarities(self, pairs):
            return np.zeros(len(pairs), dtype=np.float32)

    with pytest.raises(InputError, match="'pairs' cannot search a corpus"):
        reciprocal_rank(Pairs(), [candidate])
    with pytest.raises(InputError, match=r"2 documents are not in its corpus: .'d3', 'd5'."):
        reciprocal_rank(BM25Member(CORPUS[:2]), [candidate])


def test_several_positives_are_chosen_by_a_function():
    measure = functools.partial(thought_similarity, several=mean)
    ballots = list(cast([Nomination(QUERY, THOUGHTS, POSITIVES)], BM25Member(CORPUS), measure=measure))
    expected = scores(BM25Member(CORPUS), THOUGHTS[0].text, POSITIVES).mean()
    assert ballots[1].score == pytest.approx(expected)


def test_ballots_of_another_system_are_a_member(tmp_path):
    nominations = [Nomination(QUERY, THOUGHTS, POSITIVES)]
    ballots = [
        Ballot(query_id="q", thought_id=name, retriever=member, score=score)
        for member, start in (("x", 0.5), ("y", 2.5))
        for score, name in enumerate([None, "a", "b"], int(start))
    ]
    write_jsonl(tmp_path / "ballots.jsonl", ballots)
    members = read_score_file(tmp_path / "ballots.jsonl")
    assert [ballot for member in members for ballot in cast(nominations, member)] == ballots
    with pytest.raises(InputError, match=r"has the members .'x', 'y'.; leave 'z' out"):
        read_score_file(tmp_path / "ballots.jsonl", "z")
    write_jsonl(tmp_path / "fewer.jsonl", ballots[:2])
    (fewer,) = read_score_file(tmp_path / "fewer.jsonl", "renamed")
    assert fewer.name == "renamed"
    with pytest.raises(InputError, match=r"fewer.jsonl: no ballot of 'x' for query 'q', thought 'b'"):
        list(cast(nominations, fewer))


def test_a_run_of_another_system_is_a_member(tmp_path):
    rows = [("q", "d1", 3.0), ("q", "d2", 1.5), ("q#a", "d3", 9.0), ("q#a", "d5", 8.0), ("q#b", "d5", 4.0)]
    hits = [Hit(query_id=query, doc_id=doc_id, score=score, rank=1) for query, doc_id, score in rows]
    trec.write_run(tmp_path / "other.trec", hits)
    (member,) = read_score_file(tmp_path / "other.trec")
    assert member.name == "other.trec"
    # the query alone found no positive: its last hit bounds the score
    assert member.scores(CANDIDATES) == [1.5, 9.0, 4.0]
    trec.write_run(tmp_path / "other.trec", hits[:2])
    with pytest.raises(InputError, match="no hits under 'q#a'"):
        read_score_file(tmp_path / "other.trec")[0].scores(CANDIDATES)
