"""Measures, rules, score files and caches, chosen on the command line."""

import pytest

from o1_records import Ballot, Document, Example, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.kit.job import Database
from o1_vote.tally import RULES

CORPUS = [
    Document(doc_id="p", text="a zip archive has members"),
    Document(doc_id="n", text="a tar archive has members"),
    Document(doc_id="x", text="sort a list of numbers"),
]
QUERY = Query(query_id="q", text="open archive")
WRITTEN = [
    Thought(query_id="q", thought_id=name, text=text, source=Source(model="m"))
    for name, text in [("both", "it has archive members"), ("right", "zip")]
]
PAPER = ("--measure", "thought", "--rule", "majority", "--no-abstain")


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", [QUERY])
    write_jsonl(tmp_path / "thoughts.jsonl", WRITTEN)
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    write_jsonl(tmp_path / "qrels.jsonl", [Qrel(query_id="q", doc_id="p", relevance=1)])
    negatives = Example(query=QUERY, positives=(CORPUS[0],), negatives=(CORPUS[1],))
    write_jsonl(tmp_path / "mined.jsonl", [negatives])
    return tmp_path


@pytest.fixture
def elect(vote, folder):
    """Runs an election as a new job; returns the elected thought_id."""

    def run(*extra):
        files = [f"--{name}={name}.jsonl" for name in ("queries", "thoughts", "corpus", "qrels")]
        done = vote(folder, "elect", *files, "--out", "out.jsonl", "--new-job", *extra)
        assert done.returncode == 0, done.stderr
        (example,) = read_jsonl(folder / "out.jsonl", Example)
        return example.thought and example.thought.thought_id

    return run


def test_what_a_ballot_measures_is_chosen_on_the_command_line(elect):
    bm25 = ["--member", "bm25"]
    assert elect(*bm25, *PAPER) == "both"
    assert elect(*bm25, "--measure", "margin", "--negatives", "mined.jsonl") == "right"
    assert elect(*bm25, "--measure", "corpus-margin") == "right"
    assert elect(*bm25, "--measure", "reciprocal-rank", "--several", "mean") == "right"
    assert elect(*bm25) == "right"


def test_kept_ballots_are_counted_again_without_their_members(folder, elect):
    members = ["--member", "one=bm25", "--member", "two=bm25", *PAPER]
    assert elect(*members, "--ballots", "ballots.jsonl", "--cache", "cache") == "both"
    assert {path.name.partition("-")[0] for path in (folder / "cache").iterdir()} == {"bm25"}
    again = ["--member", "scores:ballots.jsonl", "--ballots", "again.jsonl"]
    assert elect(*again, "--rule", "mean-rank") == "both"
    assert (folder / "again.jsonl").read_bytes() == (folder / "ballots.jsonl").read_bytes()
    (folder / "ballots.jsonl.settings.json").unlink()
    raised = [
        Ballot(query_id="q", thought_id=name, retriever="other", score=score)
        for name, score in [(None, 0.0), ("both", 0.1), ("right", 0.2)]
    ]
    write_jsonl(folder / "ballots.jsonl", raised)
    assert elect("--member", "scores:ballots.jsonl", "--rule", "z-scores") == "right"
    (folder / "ballots.jsonl").rename(folder / "ballots")  # the content says what it is
    assert elect("--member", "scores:ballots", "--rule", "z-scores") == "right"


def test_every_rule_of_the_command_elects(elect):
    for rule in RULES:
        assert elect("--member", "bm25", *PAPER, "--rule", rule) == "both"
    assert elect("--member", "bm25", *PAPER, "--abstain", "--margin", "2") is None


def test_a_margin_that_would_count_for_nothing_is_refused(vote, folder):
    files = [f"--{name}={name}.jsonl" for name in ("queries", "thoughts", "corpus", "qrels")]
    done = vote(folder, "elect", *files, "--member=bm25", "--out=out.jsonl", "--no-abstain", "--margin=2")
    assert done.returncode == 4
    assert "margin has no effect without abstain; leave one of them out" in done.stderr


@pytest.mark.parametrize("command", ["mine", "calibrate"])
def test_a_score_file_cannot_judge_other_texts(vote, folder, command):
    write_jsonl(folder / "ballots.jsonl", [Ballot(query_id="q", thought_id=None, retriever="m", score=0.0)])
    files = [f"--{name}={name}.jsonl" for name in ("queries", "corpus", "qrels")]
    outputs = ["--out=out", *(["--reasons=gone"] if command == "mine" else [])]
    done = vote(folder, command, *files, "--member=bm25", "--member=scores:ballots.jsonl", *outputs)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "error: member 'm' is a score file, which cannot judge other texts"
    assert not (folder / "out").exists()
    assert not (folder / "out.job").exists()


@pytest.mark.extra
def test_a_cache_is_used_by_the_next_run_and_by_other_commands(folder, elect):
    members = ["--member", "static", "--cache", "cache"]
    elect(*members, *PAPER)
    written = (folder / "cache" / "vectors.sqlite").stat().st_size
    assert written > 0
    elect(*members, "--measure", "query-thought")
    with Database.read_only(folder / "cache" / "vectors.sqlite") as db:
        # three texts and a positive, then two joined texts, and with controls the query again and two fillers
        assert db.row("SELECT count(*) FROM vector") == (9,)
