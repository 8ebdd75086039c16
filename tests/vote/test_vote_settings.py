"""How an election was counted stays beside its ballots: explain, report and a recount keep to it."""

import html
import json

import pytest

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
from o1_vote import BM25Member, elect
from o1_vote.election.explain import explain
from o1_vote.election.page import report
from o1_vote.members.scores import read_score_file
from o1_vote.settings import beside, read_settings
from o1_vote.tally import Counting

QUERIES = [Query(query_id="q1", text="open a compressed folder"), Query(query_id="q2", text="order numbers")]
CORPUS = [
    Document(doc_id="d1", text="Read the members of a ZIP archive."),
    Document(doc_id="d2", text="Sort a list in ascending order."),
    Document(doc_id="d3", text="Convert a date to a string."),
]
QRELS = [Qrel(query_id="q1", doc_id="d1", relevance=1), Qrel(query_id="q2", doc_id="d2", relevance=1)]
THOUGHTS = [
    Thought(query_id=query, thought_id=name, text=text, source=Source(model=model))
    for query, name, text, model in [
        ("q1", "a", "a folder on the desk", "small"),
        ("q1", "b", "sort a date", "large"),
        ("q2", "a", "sorting a list", "small"),
        ("q2", "b", "a string", "large"),
    ]
]
TOLD = ("--ballots", "b.jsonl", "--thoughts", "thoughts.jsonl", "--queries", "queries.jsonl")


@pytest.fixture
def folder(tmp_path):
    for name, records in (("queries", QUERIES), ("corpus", CORPUS), ("qrels", QRELS), ("thoughts", THOUGHTS)):
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    return tmp_path


@pytest.fixture
def held(vote, folder):
    """Runs an election with ballots; returns whom it elected."""

    def run(*words, out="e.jsonl"):
        files = [f"--{name}={name}.jsonl" for name in ("queries", "thoughts", "corpus", "qrels")]
        done = vote(folder, "elect", *files, "--out", out, "--ballots", "b.jsonl", "--new-job", *words)
        assert done.returncode == 0, done.stderr
        examples = read_jsonl(folder / out, Example)
        return {e.query.query_id: e.thought and e.thought.thought_id for e in examples}

    return run


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--rule", "majority", "--no-abstain"],
        ["--rule", "z-scores", "--margin", "0.5"],
        ["--rule", "rrf", "--no-controls"],
        ["--least-agreement", "0.99", "--measure", "thought"],
    ],
    ids=" ".join,
)
def test_an_explanation_and_a_report_count_as_the_election_did(folder, vote, held, words):
    elected = held("--member", "one=bm25", "--member", "two=bm25", *words)
    for query_id, winner in elected.items():
        done = vote(folder, "explain", query_id, *TOLD)
        assert done.returncode == 0, done.stderr
        assert f"winner: {winner or '(no thought)'}: " in done.stdout
        assert ", as in the election" in done.stdout
    done = vote(folder, "report", *TOLD, "--out", "page.html")
    assert done.returncode == 0
    count = sum(winner is not None for winner in elected.values())
    assert (
        f"as in the election: {count} ({count / 2:.1%}) carry a thought" in (folder / "page.html").read_text()
    )


def test_candidates_are_called_level_only_where_the_count_took_them_for_level(folder, vote, held):
    held("--member", "bm25")
    settings = json.loads((folder / "b.jsonl.settings.json").read_text())
    settings["counting"]["tolerance"] = {"bm25": 100.0}  # so that every candidate is level
    (folder / "b.jsonl.settings.json").write_text(json.dumps(settings))
    counted = vote(folder, "explain", "q1", *TOLD).stdout
    assert ", level)" in counted
    assert "tolerance: bm25 100.0000" in counted
    without = vote(folder, "explain", "q1", *TOLD, "--no-abstain").stdout
    assert ", level)" not in without
    assert "tolerance" not in without


def test_a_recount_with_other_terms_says_both(folder, vote, held):
    assert held("--member", "bm25", "--rule", "majority", "--no-abstain")["q1"] == "a"
    told = vote(folder, "explain", "q1", *TOLD).stdout
    assert "counted by majority --no-abstain, as in the election" in told
    other = vote(folder, "explain", "q1", *TOLD, "--rule", "rrf", "--abstain").stdout
    assert "counted by rrf; the election counted by majority --no-abstain" in other
    assert "the query alone is level with 'a', and a tie is not enough" in other
    (folder / "b.jsonl.settings.json").unlink()
    alone = vote(folder, "explain", "q1", *TOLD).stdout
    assert "counted by mean-rank; nothing beside the ballots says how the election counted" in alone


def counts(folder, vote, *words):
    """Return what report, pairs and explain say of how they count; all three say the same."""
    files = {"report": "page.html", "pairs": "pairs.jsonl"}
    done = {name: vote(folder, name, *TOLD, "--out", out, *words) for name, out in files.items()}
    done["explain"] = vote(folder, "explain", "q1", *TOLD, *words)
    assert [each.returncode for each in done.values()] == [0, 0, 0], done
    (told,) = [line for line in done["explain"].stdout.splitlines() if line.startswith("counted by ")]
    assert told in done["pairs"].stderr
    assert html.escape(told) in (folder / "page.html").read_text()
    return told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rule", "rrf"], "rrf; the election counted by {base}; {points}"),
        (["--rule", "borda"], "borda, --margin 0.5; the election counted by mean-rank, --margin 0.5"),
        (["--rule", "mean-rank"], "mean-rank, --margin 0.5, as in the election"),
        (["--rule", "rrf", "--margin", "0.01"], "rrf, --margin 0.01; the election counted by {base}"),
        (["--no-abstain"], "mean-rank --no-abstain; the election counted by {base}; {effect}"),
        (["--rule", "rrf", "--no-abstain"], "rrf --no-abstain; the election counted by {base}; {effect}"),
        (["--margin", "0"], "mean-rank; the election counted by mean-rank, --margin 0.5"),
    ],
    ids=str,
)
def test_a_margin_is_not_carried_over_to_other_points(folder, vote, held, words, told):
    held("--member", "bm25", "--margin", "0.5", "--no-controls")
    told = told.format(
        base="mean-rank, --margin 0.5",
        points="its margin is in points of mean-rank and is left out",
        effect="its margin has no effect without abstention and is left out",
    )
    assert counts(folder, vote, *words) == f"counted by {told}"


def test_a_thought_that_wins_by_another_rule_has_its_pair_although_the_election_had_a_margin(
    folder, vote, held
):
    held("--member", "bm25", "--margin", "0.5", "--no-controls")
    done = vote(folder, "pairs", *TOLD, "--out", "pairs.jsonl", "--rule", "rrf")
    assert "pairs.jsonl: 1 pairs" in done.stderr


@pytest.mark.parametrize("kept", [True, False], ids=["settings", "no settings"])
@pytest.mark.parametrize("command", ["report", "pairs", "explain"])
def test_weights_of_nobody_are_refused_in_a_recount(folder, vote, held, command, kept):
    held("--member", "one=bm25", "--member", "two=bm25")
    if not kept:
        beside(folder / "b.jsonl").unlink()
    (folder / "w.json").write_text('{"one": 2.0, "tow": 0.5}')
    words = ["q1", *TOLD] if command == "explain" else [*TOLD, "--out", "out"]
    done = vote(folder, command, *words, "--weights", "w.json")
    assert done.returncode == 4
    assert "weights: no member is called 'tow'; the members are one, two" in done.stderr
    assert not (folder / "out").exists()
    (folder / "w.json").write_text('{"one": 2.0, "two": 0.5}')
    assert vote(folder, command, *words, "--weights", "w.json").returncode == 0


def test_the_report_names_measure_members_and_files_and_compares_the_models(folder, vote, held):
    held("--member", "lexical=bm25", "--relevance", "1", "--several", "mean")
    assert vote(folder, "report", *TOLD, "--out", "page.html").returncode == 0
    told = (folder / "page.html").read_text()
    assert "<td>measure</td><td>corpus-margin, mean of several positives</td>" in told
    assert "<td>member lexical</td><td>model: BM25, language english, tokenizer words; " in told
    for name in ("qrels", "documents", "thoughts", "queries"):
        file = "corpus" if name == "documents" else name
        assert f"<td>{name}</td><td>{file}.jsonl</td>" in told
    assert '<td>small</td><td class="n">2</td><td class="n">2</td><td class="n">1</td>' in told
    assert '<td>large</td><td class="n">2</td><td class="n">2</td><td class="n">0</td>' in told
    # whose thought was elected: large, small, neither
    assert "<td>large and small</td>" in told
    assert '<td>large and small</td><td class="n">0</td><td class="n">1</td><td class="n">1</td>' in told
    assert "<td>another query&#x27;s thought</td>" in told


def test_python_explains_and_reports_as_the_command(folder, held, vote):
    held("--member", "bm25")
    files = {"thoughts": folder / "thoughts.jsonl", "queries": folder / "queries.jsonl"}
    lines = explain("q1", ballots=folder / "b.jsonl", **files)
    assert "\n".join(lines) + "\n" == vote(folder, "explain", "q1", *TOLD).stdout
    assert report(folder / "b.jsonl", out=folder / "p.html", rule="majority", **files) == 2


def test_settings_of_other_ballots_are_refused(folder, vote, held):
    held("--member", "bm25")
    ballots = list(read_jsonl(folder / "b.jsonl", Ballot))
    write_jsonl(folder / "b.jsonl", ballots[:-1])
    for words in (("explain", "q1", *TOLD), ("report", *TOLD, "--out", "page.html")):
        done = vote(folder, *words)
        assert done.returncode == 4
        assert (
            "b.jsonl.settings.json: belongs to other ballots than b.jsonl holds now; remove it" in done.stderr
        )
    (folder / "b.jsonl.settings.json").write_text("{}")
    with pytest.raises(
        InputError, match="missing required field `measure`; remove it to count with the options"
    ):
        read_settings(folder / "b.jsonl")


def test_members_of_kept_ballots_have_the_tolerance_that_was_measured(folder, held):
    first = held("--member", "bm25", "--measure", "reciprocal-rank")
    settings = json.loads(beside(folder / "b.jsonl").read_text())
    (member,) = read_score_file(folder / "b.jsonl")
    assert member.tolerance == settings["counting"]["tolerance"]["bm25"]
    again = elect(QUERIES, THOUGHTS, qrels=QRELS, documents=CORPUS, members=[member])
    assert again.counting.tolerance == {"bm25": member.tolerance}
    found = {e.query.query_id: e.thought and e.thought.thought_id for e in again.examples}
    assert found == first


def test_a_new_job_that_counts_kept_ballots_leaves_them_where_they_are(folder, held):
    held("--member", "bm25")
    kept = (folder / "b.jsonl").read_bytes(), beside(folder / "b.jsonl").read_bytes()
    assert held("--member", "scores:b.jsonl", "--ballots", "again.jsonl", "--rule", "majority")
    assert ((folder / "b.jsonl").read_bytes(), beside(folder / "b.jsonl").read_bytes()) == kept


def test_a_function_that_is_no_counting_leaves_no_settings(folder):
    from o1_vote import majority

    files = {"out": folder / "e.jsonl", "ballots": folder / "b.jsonl"}
    elect(
        QUERIES, THOUGHTS, qrels=QRELS, documents=CORPUS, members=[BM25Member(CORPUS)], rule=majority, **files
    )
    assert not beside(folder / "b.jsonl").exists()
    assert read_settings(folder / "b.jsonl") is None


def test_what_a_tie_is_called():
    sheets = {"m": {None: 0.0, "a": 1.0, "b": 1.0}}
    assert Counting().decide(sheets).why == "the smallest id of 2 that tie for the most points"
    assert Counting().decide({"m": {None: 2.0, "a": 1.0}}).why == "the query alone has the most points"
    tie = Counting().decide({"m": {None: 1.0, "a": 1.0}})
    assert tie.why == "the query alone is level with 'a', and a tie is not enough"
