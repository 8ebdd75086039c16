"""Preference pairs: the elected thought against those that lose, in the two forms that TRL reads."""

import json

import pytest

from o1_records import Ballot, InputError, Query, Source, Thought, write_jsonl
from o1_vote.election.pairs import preferred, write_pairs
from o1_vote.tally import Counting, Verdict

QUERIES = [
    Query(query_id="q1", text="open a zip", instruction="Find code."),
    Query(query_id="q2", text="sort"),
    Query(query_id="q3", text="mail"),
    Query(query_id="q4", text="alone"),
]
SCORES = {
    "q1": {None: 0.0, "a": 3.0, "b": 1.0, "c": 2.0},
    "q2": {None: 9.0, "a": 1.0, "b": 2.0},
    "q3": {None: 0.0, "a": 1.0, "b": 1.0},
    "q4": {None: 0.0, "a": 1.0},
}


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    ballots, thoughts = [], []
    for query_id, scores in SCORES.items():
        for name, score in scores.items():
            ballots.append(Ballot(query_id=query_id, thought_id=name, retriever="m", score=score))
            if name is not None:
                text = f"{name} about {query_id}"
                thoughts.append(
                    Thought(query_id=query_id, thought_id=name, text=text, source=Source(model="m"))
                )
    write_jsonl(tmp_path / "ballots.jsonl", ballots)
    write_jsonl(tmp_path / "thoughts.jsonl", thoughts)
    return tmp_path


@pytest.fixture
def run(vote, folder):
    def pairs(*words):
        files = [f"--{name}={name}.jsonl" for name in ("ballots", "thoughts", "queries")]
        done = vote(folder, "pairs", *files, "--out", "pairs.jsonl", *words)
        rows = []
        if (folder / "pairs.jsonl").exists():
            rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        return done, rows

    return pairs


def test_the_elected_thought_is_chosen_and_the_worst_rejected(run):
    done, rows = run()
    assert done.returncode == 0, done.stderr
    assert rows == [{"prompt": "open a zip", "chosen": "a about q1", "rejected": "b about q1"}]
    # q2 elects no thought; in q3 two tie; q4 has one
    assert (
        "pairs.jsonl: 1 pairs; of the queries 1 elected no thought, 2 have none that loses by so much"
        in done.stderr
    )
    assert "counted by mean-rank; nothing beside the ballots says" in done.stderr


def test_every_thought_that_loses_is_a_pair_on_request(run):
    _, rows = run("--rejected", "all", "--no-abstain")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ("a about q1", "b about q1"),
        ("a about q1", "c about q1"),
        ("b about q2", "a about q2"),
    ]


def test_messages_and_prompts_are_as_asked_for(run):
    _, (row,) = run("--chat", "--prompt", "{instruction} Think about: {query}")
    assert row == {
        "prompt": [{"role": "user", "content": "Find code. Think about: open a zip"}],
        "chosen": [{"role": "assistant", "content": "a about q1"}],
        "rejected": [{"role": "assistant", "content": "b about q1"}],
    }


def test_a_gap_is_in_points_of_the_rule():
    verdict = Counting().decide({"m": SCORES["q1"]})
    assert verdict.points == {None: 0, "a": 3, "b": 1, "c": 2}
    assert preferred(verdict, rejected="all", gap=2) == [("a", "b")]
    assert preferred(verdict, rejected="all", gap=2.5) == []
    # the smaller id of two that tie for the fewest points
    level = Verdict("c", {"a": 0.0, "b": 0.0, "c": 1.0}, 1.0, "")
    assert preferred(level) == [("c", "a")]


def test_one_that_is_drawn_depends_on_the_query_alone():
    verdict = Verdict("z", {"z": 9.0, **dict.fromkeys("abcdefgh", 0.0)}, 1.0, "")
    drawn = {name: preferred(verdict, rejected="random", name=name) for name in map(str, range(40))}
    assert all(drawn[name] == preferred(verdict, rejected="random", name=name) for name in drawn)
    assert len({pair for (pair,) in drawn.values()}) > 4
    assert all(pair[0] == "z" for (pair,) in drawn.values())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("queries", "there are ballots about query 'q1', which is not in the queries"),
        ("thoughts", "there are ballots about thought 'a' of query 'q1', which is not in the thoughts"),
    ],
)
def test_ballots_of_other_files_are_refused_and_nothing_is_written(folder, run, file, message):
    write_jsonl(folder / f"{file}.jsonl", [])
    done, rows = run()
    assert (done.returncode, rows) == (4, [])
    assert message in done.stderr
    assert not (folder / "pairs.jsonl").exists()


def test_a_prompt_that_is_the_same_for_all_is_refused(folder, run):
    done, _ = run("--prompt", "Think.")
    assert done.returncode == 4
    assert "has no {query}, so all queries would have the same" in done.stderr
    with pytest.raises(InputError, match="rejected must be one of worst, all, random, got 'best'"):
        preferred(Verdict("a", {"a": 1.0}, 1.0, ""), rejected="best")


def test_python_writes_what_the_command_writes(folder, run):
    _, rows = run("--rejected", "all")
    files = {name: folder / f"{name}.jsonl" for name in ("thoughts", "queries")}
    done = write_pairs(folder / "ballots.jsonl", out=folder / "again.jsonl", rejected="all", **files)
    assert (done.pairs, done.abstained, done.level) == (2, 1, 2)
    assert (folder / "again.jsonl").read_bytes() == (folder / "pairs.jsonl").read_bytes()
    assert len(rows) == 2
