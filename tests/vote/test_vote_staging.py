"""The disk's way to nominate is memory's way; a journal goes on only with what it was begun with."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_records import (
    Ballot,
    Document,
    Example,
    InputError,
    Qrel,
    Query,
    Source,
    Thought,
    read_jsonl,
    write_jsonl,
)
from o1_vote import nominate
from o1_vote.journal import Journal
from o1_vote.staging import Staging

NAMES = st.sampled_from(["a", "b", "c", "d"])
QUERIES = st.lists(NAMES, max_size=4).map(lambda names: [Query(query_id=n, text=f"about {n}") for n in names])
THOUGHTS = st.lists(st.tuples(NAMES, NAMES), max_size=5).map(
    lambda pairs: [Thought(query_id=q, thought_id=t, text="x", source=Source(model="m")) for q, t in pairs]
)
QRELS = st.lists(st.tuples(NAMES, NAMES, st.integers(-1, 2)), max_size=6, unique_by=lambda q: q[:2]).map(
    lambda rows: [Qrel(query_id=q, doc_id=d, relevance=r) for q, d, r in rows]
)
DOCUMENTS = st.lists(NAMES, max_size=4, unique=True).map(
    lambda names: [Document(doc_id=n, text=f"document {n}") for n in names]
)


def outcome(call):
    try:
        return call()
    except InputError as error:
        return str(error)


@settings(deadline=None, max_examples=80)
@given(queries=QUERIES, thoughts=THOUGHTS, qrels=QRELS, documents=DOCUMENTS)
def test_what_is_staged_is_what_is_nominated(tmp_path_factory, queries, thoughts, qrels, documents):
    def staged():
        with Journal(tmp_path_factory.mktemp("job") / "out", {}) as journal:
            staging = Staging(journal)
            staging.fill(queries, thoughts, qrels, documents)
            nominations = list(staging.nominations())
            assert len(staging) == len(nominations)
            counts = [sum(1 + len(n.thoughts) for n in nominations[:k]) for k in range(len(nominations) + 1)]
            assert [staging.ballots(k) for k in range(len(counts))] == counts
            assert dict(staging.documents) == {d.doc_id: d for n in nominations for d in n.positives}
            return nominations, list(staging.reasons())

    expected = outcome(lambda: nominate(queries, thoughts, qrels, documents))
    found = outcome(staged)
    if isinstance(expected, str) and "a positive of query" in expected:
        assert "is not in the corpus" in found
    else:
        assert found == expected


def test_a_journal_keeps_the_order_of_each_part_and_goes_when_it_is_done(tmp_path):
    made_from = {"input": "abc"}
    with Journal(tmp_path / "out.jsonl", made_from) as journal:
        journal.append("one", [b"1", b"2"])
        journal.append("two", [b"x"])
        journal.append("one", [b"3"])
    with Journal(tmp_path / "out.jsonl", made_from) as journal:
        assert not journal.began_anew
        assert list(journal.read("one")) == [b"1", b"2", b"3"]
        assert list(journal.read("one", 1, 1)) == [b"2"]
        assert (journal.count("one"), journal.count("two"), journal.count("three")) == (3, 1, 0)
        journal.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_of_another_input_begins_anew_and_one_without_work_leaves_nothing(tmp_path):
    with Journal(tmp_path / "out.jsonl", {"input": "abc"}) as journal:
        journal.append("one", [b"1"])
    with Journal(tmp_path / "out.jsonl", {"input": "other"}) as journal:
        assert journal.began_anew
        assert journal.count("one") == 0
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_a_job_that_was_interrupted_stay(tmp_path):
    with Journal(tmp_path / "out.jsonl", {}) as journal:
        (journal.folder / "vectors.sqlite").write_bytes(b"hours of work")
    assert (tmp_path / "out.jsonl.job" / "vectors.sqlite").exists()


CORPUS = [
    Document(doc_id="p", text="a zip archive has members"),
    Document(doc_id="n", text="a tar archive has members"),
    Document(doc_id="x", text="sort a list of numbers"),
]
QUERY = Query(query_id="q", text="open archive")
WRITTEN = [
    Thought(query_id="q", thought_id=name, text=text, source=Source(model="m"))
    for name, text in [("both", "archive members archive members"), ("right", "zip")]
]


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", [QUERY])
    write_jsonl(tmp_path / "thoughts.jsonl", WRITTEN)
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    write_jsonl(tmp_path / "qrels.jsonl", [Qrel(query_id="q", doc_id="p", relevance=1)])
    negatives = Example(query=QUERY, positives=(CORPUS[0],), negatives=(CORPUS[1],))
    write_jsonl(tmp_path / "mined.jsonl", [negatives])
    return tmp_path


PAPER = ("--measure", "thought", "--rule", "majority", "--no-abstain")


def elect(folder, *extra):
    files = [f"--{name}={name}.jsonl" for name in ("queries", "thoughts", "corpus", "qrels")]
    command = [sys.executable, "-m", "o1_vote", "elect", *files, "--out", "out.jsonl", *extra]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (example,) = read_jsonl(folder / "out.jsonl", Example)
    return example.thought and example.thought.thought_id


def test_what_a_ballot_measures_is_chosen_on_the_command_line(folder):
    bm25 = ["--member", "bm25"]
    assert elect(folder, *bm25, *PAPER) == "both"
    assert elect(folder, *bm25, "--measure", "margin", "--negatives", "mined.jsonl") == "right"
    assert elect(folder, *bm25, "--measure", "corpus-margin") == "right"
    assert elect(folder, *bm25, "--measure", "reciprocal-rank", "--several", "mean") == "right"
    assert elect(folder, *bm25) == "right"


def test_kept_ballots_are_counted_again_without_their_members(folder):
    members = ["--member", "one=bm25", "--member", "two=bm25", *PAPER]
    assert elect(folder, *members, "--ballots", "ballots.jsonl", "--cache", "cache") == "both"
    assert {path.name.partition("-")[0] for path in (folder / "cache").iterdir()} == {"bm25"}
    again = ["--member", "scores:ballots.jsonl", "--ballots", "again.jsonl"]
    assert elect(folder, *again, "--rule", "mean-rank") == "both"
    assert (folder / "again.jsonl").read_bytes() == (folder / "ballots.jsonl").read_bytes()
    raised = [
        Ballot(query_id="q", thought_id=name, retriever="other", score=score)
        for name, score in [(None, 0.0), ("both", 0.1), ("right", 0.2)]
    ]
    write_jsonl(folder / "ballots.jsonl", raised)
    assert elect(folder, "--member", "scores:ballots.jsonl", "--rule", "z-scores") == "right"


def test_every_rule_of_the_command_elects(folder):
    from o1_vote.commands.rules import RULES

    for rule in RULES:
        assert elect(folder, "--member", "bm25", *PAPER, "--rule", rule) == "both"
    assert elect(folder, "--member", "bm25", *PAPER, "--abstain", "--margin", "2") is None


@pytest.mark.extra
def test_a_cache_is_used_by_the_next_run_and_by_other_commands(folder):
    members = ["--member", "static", "--cache", "cache"]
    elect(folder, *members, *PAPER)
    written = (folder / "cache" / "vectors.sqlite").stat().st_size
    assert written > 0
    elect(folder, *members, "--measure", "query-thought")
    import sqlite3

    db = sqlite3.connect(folder / "cache" / "vectors.sqlite")
    # three texts and a positive, then two joined texts
    assert db.execute("SELECT count(*) FROM vector").fetchone() == (6,)
