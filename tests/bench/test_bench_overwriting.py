"""No command writes over what it reads, and nothing that it did not write itself."""

import re
from pathlib import Path

import pytest

from o1_bench.__main__ import main
from o1_records import Document, Exclusion, Qrel, Query, Source, Thought, rank, write_jsonl
from o1_records.beir import write_beir
from o1_records.kit.command import role_of
from o1_records.trec import write_qrels, write_run

QRELS = [Qrel(query_id="q1", doc_id="d1", relevance=1)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Every kind of input, under the names that the commands below use."""
    monkeypatch.chdir(tmp_path)
    write_beir(
        tmp_path / "tiny",
        documents=[Document(doc_id="d1", text="open a zip file"), Document(doc_id="d2", text="b")],
        queries=[Query(query_id="q1", text="open zip")],
        qrels={"test": QRELS},
    )
    (tmp_path / "data").mkdir()
    for name in ("corpus", "queries", "qrels"):
        (tmp_path / "data" / "scifact").mkdir(exist_ok=True)
        (tmp_path / "data" / "scifact" / name).mkdir()
    beir = tmp_path / "data" / "scifact"
    (beir / "corpus" / "part.jsonl").write_text('{"_id": "d1", "title": "", "text": "a"}\n')
    (beir / "queries" / "part.jsonl").write_text('{"_id": "q1", "text": "a"}\n')
    (beir / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    write_qrels("q.trec", QRELS)
    write_run("r.trec", rank("q1", {"d1": 2.0}))
    write_jsonl("excluded.jsonl", [Exclusion(query_id="q1", doc_id="d2")])
    write_jsonl("t.jsonl", [Thought(query_id="q1", thought_id="t", text="x", source=Source(model="m"))])
    assert run("score --qrels tiny --run r.trec --result kept/r") == 0
    (tmp_path / "link.trec").symlink_to("r.trec")
    return tmp_path


def run(line):
    return main(line.split())


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "line",
    [
        "score --qrels q.trec --run r.trec --per-query r.trec",
        "score --qrels q.trec --run r.trec --per-query q.trec",
        "score --qrels q.trec --run r.trec --per-query link.trec",
        "score --qrels q.trec --run r.trec --excluded excluded.jsonl --per-query excluded.jsonl",
        "score --qrels tiny --run r.trec --per-query tiny/qrels/test.tsv",
        "score --qrels data/beir/scifact --run r.trec --per-query data/scifact/corpus/part.jsonl",
        "score --qrels tiny --run r.trec --result tiny",
        "score --qrels tiny --run kept/r/run.trec --result kept/r",
        "score --qrels kept/r/qrels.trec --run r.trec --result kept/r",
        "score --qrels tiny --run r.trec --result new --per-query new/result.json",
        "bm25 --collection tiny --run tiny/corpus.jsonl",
        "bm25 --collection tiny --run tiny/queries.jsonl",
        "bm25 --collection tiny --run tiny/qrels/test.tsv",
        "bm25 --collection data/beir/scifact --run data/scifact/corpus/part.jsonl",
        "bm25 --collection tiny --thoughts t.jsonl --run t.jsonl",
        "report --results kept --out kept/r/result.json",
        "report --results kept/r/result.json --out kept/r/result.json",
        "report --results kept --collection tiny --out kept/r/run.trec",
        "report --results kept --collection tiny --thoughts t.jsonl --out t.jsonl",
        "report --results kept --collection tiny --out tiny/corpus.jsonl",
        "run --model bm25 --collection tiny --out tiny",
        "run --model r.trec --collection tiny --out r.trec",
        "run --model r.trec --collection tiny --thoughts t.jsonl --out t.jsonl",
        "run --model kept --collection tiny --out kept",
    ],
)
def test_an_output_that_is_an_input_is_refused_and_nothing_changes(here, capsys, line):
    before = contents(here)
    capsys.readouterr()
    assert run(line) == 4
    assert re.match(
        r"error: .*(would overwrite the input of|is a file; name a folder|are one file)", said(capsys)
    )
    assert contents(here) == before


def said(capsys):
    return capsys.readouterr().err


def test_the_result_of_a_run_never_takes_the_place_of_that_run(here, capsys):
    (here / "results" / "tiny-test" / "run").mkdir(parents=True)
    (here / "r.trec").rename("results/tiny-test/run/run.trec")
    before = contents(here)
    assert run("run --model results/tiny-test/run/run.trec --collection tiny --out results") == 4
    assert "would be overwritten by its own result; choose another --out" in said(capsys)
    assert contents(here) == before


@pytest.mark.parametrize(
    "line",
    [
        "score --qrels tiny --run r.trec --per-query tiny/metrics.jsonl --result tiny/results/r",
        "run --model r.trec --collection tiny --out tiny/results",
        "run --model r.trec --suite beir/scifact --data data --out data/results",
    ],
)
def test_outputs_beside_inputs_are_fine(here, capsys, line):
    before = contents(here)
    assert run(line) == 0, said(capsys)
    assert before.items() < contents(here).items()


def actions():
    """Every option of every command."""
    (choices,) = (action.choices for action in main.parser()._actions if isinstance(action.choices, dict))
    return [(name, each) for name, one in choices.items() for each in one._actions if each.dest != "help"]


DECLARED = {
    "fetch": {"out"},
    "run": {"model", "hybrid", "rerank", "out", "collection", "data", "thoughts"},
    "bm25": {"collection", "run", "thoughts"},
    "score": {"run", "qrels", "excluded", "per_query", "result"},
    "compare": {"baseline", "others", "qrels"},
    "table": {"results"},
    "report": {"results", "out", "collection", "thoughts"},
    "explore": {"result", "against", "collection", "out"},
    "leaderboard": {"results", "mteb"},
    "export": {"results", "out"},
    "verify": {"results"},
}
NO_PATHS = {
    "allow_different", "b", "baseline", "batch", "controls", "device", "document_prompt", "embed_ms",
    "embed_options", "examples", "focus", "format", "fusion", "hybrid_name", "k", "k1", "kind", "letters",
    "max_length", "measure", "measures", "mix", "name", "new_job", "note", "oracle", "permutations",
    "protocol", "query_prompt", "query_times", "query_weights", "reading", "rerank_top", "search_ms", "seed",
    "split", "split_identifiers", "suite", "think", "think_ms", "think_options", "title", "weights",
}  # fmt: skip


def test_every_option_that_names_a_file_or_folder_is_declared_as_read_or_written():
    for command, option in actions():
        assert (role_of(option) is not None) == (option.dest in DECLARED[command]), (command, option.dest)
        # whoever adds an option says here or above which of the two it is
        assert role_of(option) or (option.dest in NO_PATHS and option.type is not Path), option.dest


def test_every_option_has_a_help_text():
    assert [(command, option.dest) for command, option in actions() if not option.help] == []
