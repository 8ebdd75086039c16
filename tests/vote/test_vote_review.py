"""What could go wrong without a word: a wrong corpus, an overwritten input, a limit that limits nothing."""

import math

import pytest

from o1_records import Ballot, Document, Example, InputError, Qrel, Query, Source, Thought, beir, read_jsonl
from o1_records import write_jsonl as write
from o1_vote.__main__ import main
from o1_vote.curation.negatives import Mining
from o1_vote.curation.sieve import Removal

HEART = "The heart pumps blood through the body in a closed circuit of vessels every minute."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A test set `set`, another collection `other`, one contaminated example, an election of one query."""
    queries = [Query(query_id="t1", text="how does the heart pump blood")]
    documents = [Document(doc_id="h", text=HEART), Document(doc_id="x", text="something else")]
    qrels = {"test": [Qrel(query_id="t1", doc_id="h", relevance=1)]}
    beir.write_beir(tmp_path / "set", documents=documents, queries=queries, qrels=qrels)
    beir.write_beir(tmp_path / "other", documents=documents[1:], queries=queries, qrels=qrels)
    positive = Document(doc_id="d", text=HEART)
    example = Example(query=Query(query_id="e", text="anything"), positives=(positive,))
    write(tmp_path / "examples.jsonl", [example])
    write(tmp_path / "queries.jsonl", queries)
    thought = Thought(query_id="t1", thought_id="a", text="it beats", source=Source(model="m"))
    write(tmp_path / "thoughts.jsonl", [thought])
    scores = {None: 0.0, "a": 1.0}
    ballots = [Ballot(query_id="t1", thought_id=t, retriever="m", score=s) for t, s in scores.items()]
    write(tmp_path / "ballots.jsonl", ballots)
    (tmp_path / "weights.json").write_text('{"m": 1.0}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder, capsys, *words):
    """The one line with which a command refuses; no file is changed and none is written."""
    before = contents(folder)
    assert main(words) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert contents(folder) == before
    return line


CLEAN = ["decontaminate", "examples.jsonl", "--type", "example", "--reasons", "gone.jsonl"]
CLEAN_TO = [*CLEAN, "--out", "kept.jsonl"]
REPORT = [
    "report",
    "--ballots",
    "ballots.jsonl",
    "--thoughts",
    "thoughts.jsonl",
    "--queries",
    "queries.jsonl",
]


def test_a_test_corpus_that_lacks_relevant_documents_cleans_nothing(folder, capsys):
    judged = ["--test-queries", "set", "--test-qrels", "set"]
    line = refused(folder, capsys, *CLEAN_TO, *judged, "--test-corpus", "other")
    assert "other: lacks 1 of the 1 relevant documents of set, the first is 'h'" in line
    assert main([*CLEAN_TO, *judged, "--test-corpus", "set"]) == 0
    assert [gone.like for gone in read_jsonl("gone.jsonl", Removal)] == ["document h"]


def test_a_test_set_in_which_nothing_could_be_found_cleans_nothing(folder, capsys):
    line = refused(folder, capsys, *CLEAN_TO, "--test-queries", "set", "--test-corpus", "set")
    assert "--test-corpus needs --test-qrels" in line
    write("none.jsonl", [])
    line = refused(folder, capsys, *CLEAN_TO, "--test-queries", "none.jsonl")
    assert "none.jsonl: has no test query" in line
    write("none.jsonl", [Qrel(query_id="t1", doc_id="h", relevance=0)])
    line = refused(folder, capsys, *CLEAN_TO, "--test-queries", "set", "--test-qrels", "none.jsonl")
    assert "none.jsonl: judges no document relevant" in line


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--test-queries", "queries.jsonl"),
        ("--test-queries", "qrels/train.tsv"),
        ("--test-queries", "corpus.jsonl"),
        ("--test-qrels", "qrels/train.tsv"),
        ("--test-corpus", "corpus.jsonl"),
    ],
)
def test_no_file_of_the_test_set_is_overwritten(folder, capsys, option, name):
    for place in ("set", "a", "b"):
        beir.write_beir(
            place,
            documents=[Document(doc_id="h", text=HEART)],
            queries=[Query(query_id="t1", text="the heart")],
            qrels={"train": [Qrel(query_id="t1", doc_id="h", relevance=1)]},
        )
    places = {"--test-queries": "set", "--test-qrels": "a", "--test-corpus": "b"}
    words = [word for pair in places.items() for word in pair]
    line = refused(folder, capsys, *CLEAN, *words, "--split", "train", "--out", f"{places[option]}/{name}")
    assert f"--out {places[option]}/{name} would overwrite the input of {option}, {places[option]}" in line


def test_a_report_does_not_overwrite_its_weights(folder, capsys):
    line = refused(folder, capsys, *REPORT, "--weights", "weights.json", "--out", "weights.json")
    assert "--out weights.json would overwrite the input of --weights" in line
    assert main([*REPORT, "--weights", "weights.json", "--out", "page.html"]) == 0


def test_a_report_of_nothing_is_refused(folder, capsys):
    write("ballots.jsonl", [])
    assert "ballots.jsonl: has no ballot" in refused(folder, capsys, *REPORT, "--out", "page.html")


SET = ["--queries", "set", "--corpus", "set", "--qrels", "set", "--split", "test", "--member", "bm25"]


@pytest.mark.parametrize(
    "words",
    [
        REPORT,
        [*CLEAN, "--test-queries", "set"],
        ["dedup", "queries.jsonl", "--type", "query", "--reasons", "gone.jsonl"],
        ["calibrate", *SET],
        ["mine", *SET, "--reasons", "gone.jsonl"],
        ["elect", *SET, "--thoughts", "thoughts.jsonl"],
    ],
    ids=lambda words: words[0],
)
def test_a_folder_is_no_file_to_write(folder, capsys, words):
    (folder / "adir").mkdir()
    line = refused(folder, capsys, *words, "--out", "adir")
    assert line == "error: --out adir is a folder; name a file"
    assert list((folder / "adir").iterdir()) == []
    assert not (folder / "adir.job").exists()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"relative": math.nan}, "relative must be between 0 and 1, got nan"),
        ({"relative": 95}, "relative must be between 0 and 1, got 95"),
        ({"relative": -0.1}, "relative must be between 0 and 1, got -0.1"),
        ({"near": 80}, "near must be above 0 and at most 1, got 80"),
        ({"near": -1}, "near must be above 0 and at most 1, got -1"),
        ({"near": 0}, "near must be above 0 and at most 1, got 0"),
        ({"near": math.nan}, "near must be above 0 and at most 1, got nan"),
        ({"margin": math.inf}, "margin must be a finite number, got inf"),
        ({"margin": math.nan}, "margin must be a finite number, got nan"),
    ],
)
def test_limits_of_a_safe_negative_that_limit_nothing_are_refused(folder, capsys, limits, message):
    with pytest.raises(InputError, match=message):
        Mining(**limits)
    words = [f"--{name}={value}" for name, value in limits.items()]
    outputs = ["--out", "mined.jsonl", "--reasons", "gone.jsonl"]
    assert message in refused(folder, capsys, "mine", *SET, *outputs, *words)


def test_the_ends_of_the_limits_are_allowed():
    for limits in ({"relative": 0}, {"relative": 1}, {"relative": None}, {"near": 1}, {"margin": 0}):
        Mining(**limits)


def test_ids_that_clash_between_files_are_named_with_their_places(folder, capsys):
    write("one.jsonl", [Query(query_id="b", text="sort"), Query(query_id="a", text="open a file")])
    (folder / "two.jsonl").write_text('\n{"query_id": "c", "text": "x"}\n{"query_id": "a", "text": "y"}\n')
    words = ["one.jsonl", "two.jsonl", "--type", "query", "--out", "kept.jsonl", "--reasons", "gone.jsonl"]
    line = refused(folder, capsys, "dedup", *words)
    assert "two.jsonl: another file has the key ('a',) too (one.jsonl:2, two.jsonl:3)" in line
    line = refused(folder, capsys, "decontaminate", *words, "--test-queries", "queries.jsonl")
    assert "(one.jsonl:2, two.jsonl:3)" in line


@pytest.mark.extra
@pytest.mark.parametrize("suffix", ["parquet", "lance"])
def test_so_they_are_where_the_files_have_columns(folder, capsys, suffix):
    pytest.importorskip("pyarrow" if suffix == "parquet" else "lance")
    write(f"one.{suffix}", [Query(query_id="b", text="sort"), Query(query_id="a", text="open a file")])
    write("two.jsonl", [Query(query_id="a", text="y")])
    words = [
        f"one.{suffix}",
        "two.jsonl",
        "--type",
        "query",
        "--out",
        "kept.jsonl",
        "--reasons",
        "gone.jsonl",
    ]
    line = refused(folder, capsys, "dedup", *words)
    assert f"two.jsonl: another file has the key ('a',) too (one.{suffix}:2, two.jsonl:1)" in line


def test_a_duplicate_of_the_same_id_is_removed_not_refused(folder):
    for name in ("one.jsonl", "two.jsonl"):
        write(name, [Query(query_id="a", text="open a file")])
    words = ["one.jsonl", "two.jsonl", "--type", "query", "--out", "kept.jsonl", "--reasons", "gone.jsonl"]
    assert main(["dedup", *words]) == 0
    assert [(gone.file, gone.name) for gone in read_jsonl("gone.jsonl", Removal)] == [("two.jsonl", "a")]
