"""Thoughts without content: they are measured, they set the tolerance of a member, and none is elected."""

import json
import zlib

import numpy as np
import pytest

from o1_records import Document, InputError, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records import Example as Record
from o1_vote import BM25Member, elect
from o1_vote.election import controls
from o1_vote.members.cosine import CosineMember
from o1_vote.members.scores import read_score_file
from o1_vote.tally import Counting, majority

RANDOM = np.random.default_rng(0)
WORDS = [f"word{n}" for n in range(60)]
DOCUMENTS = [
    Document(doc_id=f"d{n}", text=" ".join(RANDOM.choice(WORDS, size=12, replace=False))) for n in range(80)
]
# so little of the positive that any word more moves a cosine up or down
QUERIES = [
    Query(query_id=f"q{n}", text=f"{document.text.split()[0]} asked{n} unheard{n}")
    for n, document in enumerate(DOCUMENTS)
]
QRELS = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(len(DOCUMENTS))]
GIVEN = {"qrels": QRELS, "documents": DOCUMENTS}


def noisy(texts):
    """A dense model to which every text that is added says something: a vector of each word, known or not."""
    rows = []
    for text in texts:
        seeds = [zlib.crc32(word.encode()) for word in text.lower().split()]
        rows.append(sum((np.random.default_rng(seed).normal(size=24) for seed in seeds), np.zeros(24)))
    return np.array(rows, dtype=np.float32)


def committee():
    return [BM25Member(DOCUMENTS), CosineMember("noisy", noisy, DOCUMENTS)]


def written(kind, text_of):
    return [
        Thought(
            query_id=query.query_id, thought_id=kind, text=text_of(number, query), source=Source(model="m")
        )
        for number, query in enumerate(QUERIES)
    ]


EMPTY = {
    "copy": lambda number, query: query.text,
    "ok": lambda number, query: "ok.",
    "refusal": lambda number, query: "I am sorry, but I cannot help with that.",
    "another's": lambda number, query: QUERIES[(number + 7) % len(QUERIES)].text,
}


def elected(thoughts, **options):
    election = elect(QUERIES, thoughts, members=committee(), **GIVEN, **options)
    return sum(example.thought is not None for example in election.examples)


@pytest.mark.parametrize("kind", EMPTY)
def test_a_thought_without_content_is_hardly_ever_elected_and_would_be_without_controls(kind):
    thoughts = written(kind, EMPTY[kind])
    # 99 of 100 of a kind are level; of 80 one or two may not be
    assert elected(thoughts) <= 2
    if kind != "copy":  # a copy moves neither member: BM25 counts a word once, and a cosine knows no length
        assert elected(thoughts, controls=False) > 5


def test_a_thought_with_content_is_elected_as_before():
    good = written("good", lambda number, query: " ".join(DOCUMENTS[number].text.split()[3:8]))
    assert elected(good) >= 0.9 * len(QUERIES)


def test_a_copy_of_the_query_gains_nothing_with_bm25():
    election = elect(QUERIES, written("copy", EMPTY["copy"]), members=[BM25Member(DOCUMENTS)], **GIVEN)
    scores = {(ballot.query_id, ballot.thought_id): ballot.score for ballot in election.ballots}
    assert all(scores[query.query_id, "copy"] == scores[query.query_id, None] for query in QUERIES)
    assert election.controls["the query again"].won == election.controls["the query again"].without == 0


def test_an_election_says_how_often_each_kind_would_have_won():
    election = elect(QUERIES, written("ok", EMPTY["ok"]), members=committee(), **GIVEN)
    assert set(election.controls) == set(controls.KINDS)
    for outcome in election.controls.values():
        assert outcome.queries == len(QUERIES)
        assert outcome.won <= 2
    assert election.controls["another query's thought"].without > 0
    assert set(election.counting.tolerance) == {"bm25", "noisy"}
    assert election.counting.tolerance["noisy"] > 0


def test_a_tolerance_is_what_99_of_100_controls_of_a_kind_gain_at_most():
    gains = [n / 100 for n in range(101)]
    told = {f"q{n}": {None: 1.0, "a": 1.0 + gain, "b": 0.5} for n, gain in enumerate(gains)}
    assert controls.tolerance_of(told) == pytest.approx(0.99)
    assert controls.tolerance_of({"q": {None: 1.0, "a": 0.2}}) == 0
    assert controls.tolerance_of({}) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 199, 200, 201, 5000])
def test_controls_are_measured_on_at_most_200_queries_spread_over_all(count):
    places = controls.places(count)
    assert len(places) == min(200, count)
    assert all(0 <= place < count for place in places)
    if count > 1:
        assert (places[0], places[-1]) == (0, count - 1)


def test_scores_within_the_tolerance_are_level_with_the_query_and_others_keep_their_values():
    sheets = {"m": {None: 1.0, "a": 1.2, "b": 0.9, "c": 2.0}}
    verdict = Counting("z-scores", tolerance={"m": 0.25}).decide(sheets)
    assert verdict.winner == "c"
    assert verdict.points["a"] == verdict.points["b"] == verdict.points[None]
    assert Counting(tolerance={"m": 1.0}).decide(sheets).winner is None
    # nothing is level where the query alone cannot be elected
    assert Counting(abstain=False, tolerance={"m": 1.0}).decide(sheets).winner == "c"


def test_controls_where_they_would_have_no_effect_are_refused():
    for rule in (Counting(abstain=False), majority, Counting(tolerance={"bm25": 0.1})):
        with pytest.raises(
            InputError, match="controls need a Counting that abstains and has no tolerance yet"
        ):
            elect(QUERIES, [], members=committee(), rule=rule, controls=True, **GIVEN)


@pytest.fixture
def recorded(tmp_path):
    """A member with the scores of an earlier election of BM25."""
    earlier = elect(QUERIES, written("ok", EMPTY["ok"]), members=[BM25Member(DOCUMENTS)], **GIVEN)
    write_jsonl(tmp_path / "scores.jsonl", earlier.ballots)
    (member,) = read_score_file(tmp_path / "scores.jsonl", "recorded")
    return member


def test_controls_that_no_member_can_measure_are_refused(recorded):
    thoughts = written("ok", EMPTY["ok"])
    with pytest.raises(InputError, match="no effect where the scores of all members are recorded"):
        elect(QUERIES, thoughts, members=[recorded], controls=True, **GIVEN)
    assert elect(QUERIES, thoughts, members=[recorded], **GIVEN).controls == {}
    # one who measures them is enough
    assert elect(
        QUERIES, thoughts, members=[recorded, *committee()], controls=True, **GIVEN
    ).counting.tolerance


@pytest.mark.parametrize("weights", [{}, {"noisy": 0.0, "recorded": 1.0}], ids=str)
def test_nobody_says_how_controls_fared_with_a_member_that_did_not_measure_them(recorded, weights, tmp_path):
    members = [committee()[1], recorded]
    given = {**GIVEN, "members": members, "rule": Counting(weights=weights)}
    election = elect(QUERIES, written("ok", EMPTY["ok"]), **given)
    assert len(election.examples) == len(QUERIES)
    assert election.controls == {}
    assert election.counting.tolerance["noisy"] > 0
    done = elect(QUERIES, written("ok", EMPTY["ok"]), out=tmp_path / "e.jsonl", **given)
    told = "how often thoughts without content would have won is not known: recorded measured none"
    assert done.told == [told]


def test_the_command_says_how_controls_fared_and_leaves_them_out_on_request(tmp_path, vote):
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "thoughts.jsonl", written("ok", EMPTY["ok"]))
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    write_jsonl(tmp_path / "qrels.jsonl", QRELS)
    files = [f"--{name}={name}.jsonl" for name in ("queries", "thoughts", "corpus", "qrels")]
    done = vote(tmp_path, "elect", *files, "--member", "bm25", "--out", "e.jsonl", "--ballots", "b.jsonl")
    assert done.returncode == 0, done.stderr
    assert "the query again, as the only thought, would have won 0 of 80 queries (0 without" in done.stderr
    settings = json.loads((tmp_path / "b.jsonl.settings.json").read_text())
    assert settings["controls"]["filler"]["queries"] == 80
    without = vote(tmp_path, "elect", *files, "--member", "bm25", "--out", "n.jsonl", "--no-controls")
    assert without.returncode == 0
    assert "as the only thought" not in without.stderr
    assert len(list(read_jsonl(tmp_path / "n.jsonl", Record))) == len(QUERIES)
    refused = vote(tmp_path, "elect", *files, "--member=bm25", "--out=x.jsonl", "--controls", "--no-abstain")
    assert refused.returncode == 4
    assert "--controls has no effect with --no-abstain" in refused.stderr


def test_a_copy_of_the_positive_in_the_corpus_is_no_competitor():
    corpus = [
        Document(doc_id="d1", text="Read the members of a ZIP archive."),
        Document(doc_id="d2", text="Sort a list in ascending order."),
        Document(doc_id="d3", text="Convert a date to a string."),
        Document(doc_id="copy", text="read the members of a zip archive"),
        Document(doc_id="blank", text="..."),
    ]
    thoughts = [
        Thought(query_id="q", thought_id=name, text=text, source=Source(model="m"))
        for name, text in (("a", "a folder on the desk"), ("b", "a zip archive has members"))
    ]
    given = [Query(query_id="q", text="open a compressed folder")], thoughts
    qrels = [Qrel(query_id="q", doc_id="d1", relevance=1)]

    def ballots(documents, make, measure):
        options = {"qrels": qrels, "documents": documents, "measure": measure, "controls": False}
        return [ballot.score for ballot in elect(*given, members=[make(documents)], **options).ballots]

    for measure in ("reciprocal-rank", "corpus-margin"):
        alone, poor, good = ballots(corpus, BM25Member, measure)
        assert good > max(alone, poor)
        found, without = (
            ballots(documents, lambda documents: CosineMember("noisy", noisy, documents), measure)
            for documents in (corpus, corpus[:3])
        )
        assert found == pytest.approx(without, abs=1e-6)
