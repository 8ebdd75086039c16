"""The command `elect`, as a user runs it."""

import importlib.metadata
import re
import subprocess
import sys

import msgspec
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
    beir,
    read_jsonl,
    trec,
    write_jsonl,
)
from o1_records.kit.job import Database
from o1_vote import BM25Member, elect
from o1_vote.election.elect import conclude, refuse_like_named
from o1_vote.election.nominate import Nomination, Reason
from o1_vote.measure import thought_similarity
from o1_vote.tally import majority

QUERIES = [
    Query(query_id="q1", text="open an archive"),
    Query(query_id="q2", text="sort numbers"),
    Query(query_id="q3", text="compress bytes"),
]
DOCUMENTS = [
    Document(doc_id="d1", text="read the members of a zip archive file"),
    Document(doc_id="d2", text="arrange a list of numbers in ascending order"),
    Document(doc_id="d3", text="compress a stream of bytes"),
    Document(doc_id="d4", text="something else"),
]
QRELS = [Qrel(query_id=f"q{i}", doc_id=f"d{i}", relevance=1) for i in (1, 2, 3)]
THOUGHTS = [
    Thought(query_id=query_id, thought_id=thought_id, text=text, source=Source(model="test"))
    for query_id, thought_id, text in [
        ("q1", "a", "something about cooking"),
        ("q1", "b", "the zip file and its members"),
        ("q2", "a", "arrange a list in ascending order"),
        ("q2", "b", "numbers"),
    ]
]
LATE_THOUGHT = Thought(query_id="q3", thought_id="z", text="a stream of bytes", source=Source(model="test"))


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    write_jsonl(tmp_path / "qrels.jsonl", QRELS)
    write_jsonl(tmp_path / "thoughts.jsonl", THOUGHTS)
    return tmp_path


@pytest.fixture
def run(vote, folder):
    def elect(*extra, **changes):
        return vote(folder, "elect", *flags(**changes), *extra)

    return elect


def flags(**changes):
    places = {
        "thoughts": "thoughts.jsonl",
        "queries": "queries.jsonl",
        "corpus": "corpus.jsonl",
        "qrels": "qrels.jsonl",
        "member": "bm25",
        "out": "elected.jsonl",
        **changes,
    }
    return [word for name, place in places.items() for word in (f"--{name}", str(place))]


def elected(path):
    return {e.query.query_id: e.thought and e.thought.thought_id for e in read_jsonl(path, Example)}


def test_the_command_elects_from_jsonl_files(folder):
    """In a process of its own."""
    command = [sys.executable, "-m", "o1_vote", "elect", *flags(ballots="ballots.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert elected(folder / "elected.jsonl") == {"q1": "b", "q2": "a", "q3": None}
    ballots = list(read_jsonl(folder / "ballots.jsonl", Ballot))
    assert len(ballots) == len(QUERIES) + len(THOUGHTS)
    examples = list(read_jsonl(folder / "elected.jsonl", Example))
    assert examples[0].positives == (DOCUMENTS[0],)
    assert "3 examples, 2 with a thought" in done.stderr
    assert "bm25: 100%" in done.stderr


def test_the_command_elects_what_the_function_elects(folder, run):
    members = [BM25Member(DOCUMENTS, name="lexical")]
    paper = {"rule": majority, "measure": thought_similarity}
    for number, (words, options) in enumerate(
        [([], {}), (["--rule", "majority", "--no-abstain", "--measure", "thought"], paper)]
    ):
        files = {"out": f"elected{number}.jsonl", "ballots": f"ballots{number}.jsonl"}
        assert run(*words, member="lexical=bm25", **files).returncode == 0
        given = {"qrels": QRELS, "documents": DOCUMENTS, "members": members}
        election = elect(QUERIES, THOUGHTS, **given, **options)
        assert list(read_jsonl(folder / files["out"], Example)) == election.examples
        assert list(read_jsonl(folder / files["ballots"], Ballot)) == election.ballots


def test_a_thought_that_does_not_lift_the_positive_above_the_rest_is_not_elected_unless_asked(folder, run):
    """Words of the positive that a hard negative has as well."""
    level = Document(doc_id="d5", text="arrange a list of letters in ascending order")
    write_jsonl(folder / "corpus.jsonl", [*DOCUMENTS, level])
    write_jsonl(folder / "thoughts.jsonl", THOUGHTS[2:3])
    assert run().returncode == 0
    assert elected(folder / "elected.jsonl")["q2"] is None
    assert run("--no-abstain", out="always.jsonl").returncode == 0
    assert elected(folder / "always.jsonl")["q2"] == "a"


def test_a_reader_of_pairs_is_told_at_once_that_it_cannot_search(folder, run):
    done = run("--member", "judge=ce:nobody/nothing")
    assert done.returncode == 4
    assert "member 'judge' cannot search a corpus, which --measure corpus-margin" in done.stderr
    assert "bm25" not in done.stderr


def test_the_function_shows_the_progress_of_each_member_on_request_only(capsys):
    def run_election(**options):
        members = [BM25Member(DOCUMENTS, name=name) for name in ("first", "second")]
        elect(QUERIES, THOUGHTS, qrels=QRELS, documents=DOCUMENTS, members=members, **options)
        return capsys.readouterr().err

    assert run_election() == ""
    shown = run_election(progress=True)
    assert "first: 100%" in shown
    assert "second: 100%" in shown
    assert shown.count(" 7/7 ") == 2


def test_the_command_reads_beir_folders_and_trec_qrels(folder, run):
    beir.write_beir(folder / "set", documents=DOCUMENTS, queries=QUERIES, qrels={"train": QRELS})
    places = {"queries": "set", "corpus": "set", "qrels": "set"}
    assert run(out="beir.jsonl", **places).returncode == 0
    trec.write_qrels(folder / "qrels.txt", QRELS)
    assert run(out="trec.jsonl", qrels="qrels.txt").returncode == 0
    assert run(out="jsonl.jsonl").returncode == 0
    contents = {(folder / f"{name}.jsonl").read_bytes() for name in ("beir", "trec", "jsonl")}
    assert len(contents) == 1


def test_a_second_run_has_nothing_to_do_and_what_is_missing_is_written_again(folder, run):
    assert run(ballots="ballots.jsonl").returncode == 0
    before = (folder / "elected.jsonl").stat()
    again = run(ballots="ballots.jsonl")
    assert (again.returncode, again.stderr) == (0, "elected.jsonl: up to date\n")
    assert (folder / "elected.jsonl").stat().st_mtime_ns == before.st_mtime_ns
    whole = (folder / "ballots.jsonl").read_bytes()
    for damaged in (whole + b"\n", None):
        (folder / "ballots.jsonl").unlink()
        if damaged is not None:
            (folder / "ballots.jsonl").write_bytes(damaged)
        repaired = run(ballots="ballots.jsonl")
        assert repaired.returncode == 0
        assert "up to date" not in repaired.stderr
        assert (folder / "ballots.jsonl").read_bytes() == whole
    assert run(ballots="ballots.jsonl", reasons="reasons.jsonl").returncode == 0
    assert (folder / "reasons.jsonl").read_bytes() == b""


@pytest.mark.parametrize("change", ["input", "option", "member"])
def test_other_settings_are_refused_with_the_difference_and_a_new_job_moves_the_old_aside(
    folder, run, change
):
    assert run(ballots="ballots.jsonl").returncode == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    changes = {"ballots": "ballots.jsonl"}
    if change == "input":
        write_jsonl(folder / "thoughts.jsonl", [*THOUGHTS, LATE_THOUGHT])
        before[folder / "thoughts.jsonl"] = (folder / "thoughts.jsonl").read_bytes()
        difference = "thoughts sha256 '"
    elif change == "option":
        changes["rule"], difference = "majority", "(rule='mean-rank', abstain=True"
    else:
        changes["split-identifiers"], difference = "", "member bm25 "
    words = [f"--{changes.popitem()[0]}"] if change == "member" else []
    done = run(*words, **changes)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: elected.jsonl: the earlier work was made with ")
    assert difference in line
    assert "choose another name, or give --new-job" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    new = run(*words, "--new-job", **changes)
    assert new.returncode == 0, new.stderr
    assert "elected.jsonl.old1: earlier work, moved aside" in new.stderr
    for name in ("elected.jsonl", "ballots.jsonl", "elected.jsonl.job/journal.sqlite"):
        first, *rest = name.split("/")
        moved = folder / "/".join([f"{first}.old1", *rest])
        assert moved.read_bytes() == before[folder / name]
    assert "up to date" in run(*words, **changes).stderr
    if change == "input":
        assert elected(folder / "elected.jsonl")["q3"] == "z"


def test_a_file_that_no_election_wrote_is_not_overwritten(folder, run):
    (folder / "elected.jsonl").write_text("precious")
    refused = run()
    assert refused.returncode == 4
    assert "elected.jsonl: exists, and no job beside it says what it was made from" in refused.stderr
    assert (folder / "elected.jsonl").read_text() == "precious"
    assert run("--new-job").returncode == 0
    assert (folder / "elected.jsonl.old1").read_text() == "precious"


def test_a_finished_job_keeps_its_settings_and_ballots_and_no_copy_of_the_input(folder, run):
    assert run(ballots="ballots.jsonl").returncode == 0
    job = folder / "elected.jsonl.job"
    assert sorted(path.name for path in job.iterdir()) == [
        "journal.sqlite",
        "lock",
    ]
    with Database.read_only(job / "journal.sqlite") as db:
        settings = dict(db.rows("SELECT name, value FROM made_from"))
        bodies = [body for (body,) in db.rows("SELECT body FROM ballots ORDER BY member, place")]
    assert settings["measure"] == "measure.margin_to_corpus(several=measure.best)"
    assert settings["rule"] == (
        "tally.Counting(rule='mean-rank', abstain=True, margin=0.0, least_agreement=None, weights={}, "
        "tolerance={})"
    )
    assert settings["controls"] == "True"
    assert settings["member bm25"].startswith("bm25 ")
    kept = [ballot for body in bodies for ballot in msgspec.json.decode(body, type=list[Ballot])]
    assert kept == list(read_jsonl(folder / "ballots.jsonl", Ballot))
    journal = (job / "journal.sqlite").read_bytes()
    assert QUERIES[0].text.encode() not in journal
    assert DOCUMENTS[0].text.encode() not in journal


def test_queries_without_positives_are_refused_or_listed_with_a_reason(folder, run):
    write_jsonl(folder / "qrels.jsonl", QRELS[:1])
    refused = run()
    assert refused.returncode == 4
    assert "2 queries would be left out, the first is 'q2' (no document is judged relevant" in refused.stderr
    assert not (folder / "elected.jsonl").exists()
    done = run(reasons="reasons.jsonl")
    assert done.returncode == 0
    listed = [reason.query_id for reason in read_jsonl(folder / "reasons.jsonl", Reason)]
    assert sorted([*listed, *elected(folder / "elected.jsonl")]) == ["q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"thoughts": "no.jsonl"}, 4, "no.jsonl: No such file"),
        ({"member": "st:./no/such/model"}, 4, "o1-vote[dense]|neither a folder nor a model id"),
        (
            {"member": "st:nothing"},
            4,
            "o1-vote[dense]|nothing: holds no model: none of modules.json",
        ),
        ({"member": "bm52"}, 2, "'bm52' is none of bm25, static, m2v:MODEL, st:MODEL"),
        ({"member": "st:"}, 2, "'st:' is none of"),
        ({"qrels": "."}, 4, "qrels/train.tsv: No such file"),
        ({"ballots": "elected.jsonl"}, 4, "--out and --ballots are one file, elected.jsonl; choose another"),
        ({"out": "./thoughts.jsonl"}, 4, "--out thoughts.jsonl would overwrite the input of --thoughts"),
        ({"reasons": "corpus.jsonl"}, 4, "--reasons corpus.jsonl would overwrite the input of --corpus"),
        ({"queries": ".", "out": "queries.jsonl"}, 4, "would overwrite the input of --queries"),
        ({"query-prompt": "q"}, 4, "--query-prompt has no effect without a member of kind st; leave it out"),
        ({"max-length": "9"}, 4, "--max-length has no effect without a member of kind m2v or st or ce"),
        ({"negatives": "mined.jsonl"}, 4, "--negatives has no effect without --measure margin"),
        ({"queries": "corpus.jsonl"}, 4, "corpus.jsonl:1: "),
    ],
)
def test_bad_input_ends_in_one_sentence_and_nothing_is_written(folder, run, changes, code, message):
    (folder / "nothing").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    done = run(**changes)
    assert done.returncode == code
    assert any(part in done.stderr.splitlines()[-1] for part in message.split("|")), done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_a_broken_line_names_file_line_and_field(folder, run):
    with open(folder / "thoughts.jsonl", "a") as file:
        file.write('{"query_id": 7, "thought_id": "t", "text": "x", "source": {"model": "m"}}\n')
    done = run()
    assert done.returncode == 4
    assert re.search(r"thoughts\.jsonl:5: Expected `str`, got `int` - at `\$.query_id`", done.stderr)


def test_two_members_of_one_name_are_refused(folder, run):
    done = run("--member", "bm25")
    assert done.returncode == 4
    assert "two members are called 'bm25'" in done.stderr
    with pytest.raises(InputError, match="no members"):
        refuse_like_named([])


def test_a_winner_must_be_a_thought_of_its_query():
    nomination = Nomination(QUERIES[0], tuple(THOUGHTS[:2]), (DOCUMENTS[0],))
    with pytest.raises(InputError, match="query 'q1' has no thought 'c'"):
        list(conclude([nomination], {"q1": "c"}))
    with pytest.raises(InputError, match="query 'q1' has no result"):
        list(conclude([nomination], {}))


def test_importing_it_loads_no_model_library():
    code = "import sys, o1_vote; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "transformers", "sentence_transformers", "wordllama", "bm25s", "Stemmer", "tqdm"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_base_install_is_at_most_six_packages_of_others_and_has_no_torch():
    from packaging.requirements import Requirement

    found, waiting = set(), [Requirement("o1-vote")]
    while waiting:
        requirement = waiting.pop()
        name, extras = requirement.name.lower(), {"", *requirement.extras}
        if (name, frozenset(extras)) in found:
            continue
        found.add((name, frozenset(extras)))
        for text in importlib.metadata.requires(name) or []:
            wanted = Requirement(text)
            if not wanted.marker or any(wanted.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(wanted)
    others = {name for name, _ in found if not name.startswith("o1-")}
    assert {"numpy", "bm25s", "pystemmer", "tqdm", "msgspec"} <= others
    assert len(others) <= 6
    assert "torch" not in others


@pytest.mark.extra
def test_a_committee_of_three_different_members_elects(folder, run, minilm):
    members = ["--member", "static", "--member", f"minilm=st:{minilm}"]
    more = [*members, "--device", "cpu", "--max-length", "32"]
    done = run(*more, ballots="ballots.jsonl")
    assert done.returncode == 0, done.stderr
    ballots = list(read_jsonl(folder / "ballots.jsonl", Ballot))
    assert [b.retriever for b in ballots[::7]] == ["bm25", "static", "minilm"]
    assert elected(folder / "elected.jsonl") == {"q1": "b", "q2": "a", "q3": None}
    assert "up to date" in run(*more, ballots="ballots.jsonl").stderr
