"""`ROOT/NAME` and suites on the command line: protocols, exclusions, and collections that are missing."""

import json

import pytest

from o1_bench import load_result
from o1_bench.__main__ import main
from o1_records import Exclusion, rank, write_jsonl
from o1_records.beir import write_beir
from o1_records.trec import write_run
from o1_records.types import Document, Qrel, Query


@pytest.fixture
def root(tmp_path):
    """SciFact's folder with a document that has its query's id, and one task of R2MED."""
    tables = {
        "scifact/corpus": [
            {"_id": name, "title": "", "text": f"brains {name}"} for name in ("d1", "d2", "1")
        ],
        "scifact/queries": [{"_id": "1", "text": "brains"}],
        "scifact/qrels/test": [{"query-id": "1", "corpus-id": "d1", "score": 1}],
        "R2MED/Biology/corpus": [{"id": "d1", "text": "lamps"}, {"id": "d2", "text": "moths"}],
        "R2MED/Biology/query": [{"id": "1", "text": "lamps"}],
        "R2MED/Biology/qrels": [{"q_id": "1", "p_id": "d1", "score": 1}],
    }
    for name, rows in tables.items():
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # the document with the query's id stands first; by BEIR's protocol it never counts
    write_run(tmp_path / "mine.trec", rank("1", {"1": 3.0, "d1": 2.0}))
    write_run(tmp_path / "other.trec", rank("1", {"1": 3.0, "d2": 2.0, "d1": 1.0}))
    return tmp_path


def run_with(*parts):
    return main([str(part) for part in parts])


def printed(capsys):
    return dict(line.split("\t") for line in capsys.readouterr().out.splitlines())


def test_a_name_brings_its_exclusions_and_measures_to_score(root, capsys):
    scored = ("score", "--run", root / "mine.trec", "--qrels", root / "data/beir/scifact")
    assert run_with(*scored) == 0
    alone = printed(capsys)
    assert alone == {"nDCG@10": "1.0000", "RR@10": "1.0000", "R@100": "1.0000"}
    assert run_with(*scored, "--result", root / "kept", "--per-query", root / "m.jsonl") == 0
    assert printed(capsys) == alone
    kept = load_result(root / "kept")
    assert kept.metrics == {"nDCG@10": 1.0, "RR@10": 1.0, "R@100": 1.0}
    lines = [json.loads(line) for line in (root / "m.jsonl").read_text().splitlines()]
    assert {line["value"] for line in lines} == {1.0}
    assert run_with("verify", root / "kept") == 0


@pytest.mark.parametrize("kept", [[], ["--result"]])
def test_given_exclusions_take_the_place_of_a_names_own(root, capsys, kept):
    write_jsonl(root / "excluded.jsonl", [Exclusion(query_id="1", doc_id="d2")])
    qrels = root / "data/beir/scifact"
    scored = ("score", "--run", root / "mine.trec", "--qrels", qrels)
    options = [*kept, root / "kept"] if kept else []
    excluded = ("--excluded", root / "excluded.jsonl")
    # they are the data's; that a document with the query's id never counts is the protocol's
    assert run_with(*scored, *excluded, *options) == 0
    assert printed(capsys)["nDCG@10"] == "1.0000"
    assert run_with(*scored, *excluded, "--protocol", "plain", *options) == 0
    assert printed(capsys)["nDCG@10"] == "0.6309"


def test_compare_leaves_out_what_the_protocol_excludes(root, capsys):
    pair = (root / "other.trec", root / "mine.trec")
    options = ("--qrels", root / "data/beir/scifact", "--measure", "RR@10")
    assert run_with("compare", *pair, *options) == 0
    assert "\t0.500\tbaseline" in capsys.readouterr().out


def test_only_the_judgements_of_a_beir_folder_are_read_for_scoring(tmp_path, capsys):
    write_beir(
        tmp_path / "tiny",
        documents=[Document(doc_id="d1", text="a")],
        queries=[Query(query_id="q1", text="a")],
        qrels={"test": [Qrel(query_id="q1", doc_id="d1", relevance=1)]},
    )
    (tmp_path / "tiny" / "corpus.jsonl").unlink()
    write_run(tmp_path / "run.trec", rank("q1", {"d1": 1.0}))
    assert run_with("score", "--run", tmp_path / "run.trec", "--qrels", tmp_path / "tiny") == 0
    assert printed(capsys)["nDCG@10"] == "1.0000"


def test_judgements_that_are_nowhere_are_named(root, capsys):
    assert run_with("score", "--run", root / "mine.trec", "--qrels", root / "nowhere") == 4
    assert (
        "nowhere: no such file or folder; judgements are a TREC qrels file, a BEIR folder, or ROOT/"
        in capsys.readouterr().err
    )


@pytest.mark.extra
def test_a_suite_goes_on_past_what_is_missing_and_lists_it(root, capsys):
    (root / "data/R2MED/Bioinformatics").mkdir()
    command = ("run", "--suite", "r2med", "beir/scifact", "--data", root / "data", "--model", "bm25")
    assert run_with(*command, "--out", root / "results") == 3
    out, err = capsys.readouterr()
    assert "r2med/Biology\n" in out
    assert "beir/scifact/test\n" in out
    assert "2 of 9 done; not done: r2med/Bioinformatics, r2med/" in err
    assert "R2MED/Bioinformatics: " in err
    assert {path.parent.parent.name for path in root.glob("results/*/*/result.json")} == {
        "r2med-biology",
        "beir-scifact-test",
    }
    # what is done is taken as it is the next time
    assert run_with(*command, "--out", root / "results") == 3
    assert capsys.readouterr().out == out


@pytest.mark.extra
def test_a_suite_of_which_nothing_is_there_is_bad_input(tmp_path, capsys):
    command = ("--model", "bm25", "--out", tmp_path / "results")
    assert run_with("run", "--suite", "bright", "--data", tmp_path, *command) == 4
    assert "0 of 12 done; not done: bright/biology, " in capsys.readouterr().err
    assert run_with("run", "--collection", tmp_path / "none", *command) == 4
    assert "done" not in capsys.readouterr().err


def test_a_folder_of_runs_that_lacks_one_runs_the_others(root, capsys):
    (root / "runs").mkdir()
    write_run(root / "runs" / "beir-scifact-test.trec", rank("1", {"d1": 2.0}))
    command = ("run", "--suite", "r2med/Biology", "beir/scifact", "--data", root / "data")
    assert run_with(*command, "--model", root / "runs", "--out", root / "results") == 3
    out, err = capsys.readouterr()
    assert "r2med-biology.trec: no such run" in err
    assert "1 of 2 done; not done: r2med/Biology" in err
    assert "beir/scifact/test\n" in out


@pytest.mark.extra
def test_a_collection_without_its_thoughts_is_left_out_and_listed(root, capsys):
    (root / "thoughts").mkdir()
    thought = {"query_id": "1", "thought_id": "t", "text": "lamps", "source": {"model": "m"}}
    (root / "thoughts/r2med-biology.jsonl").write_text(json.dumps(thought) + "\n")
    command = ("run", "--suite", "r2med/Biology", "beir/scifact", "--data", root / "data", "--model", "bm25")
    assert run_with(*command, "--thoughts", root / "thoughts", "--out", root / "results") == 3
    out, err = capsys.readouterr()
    assert "BM25 + thought" in out
    assert "beir-scifact-test.jsonl" in err
    assert "1 of 2 done; not done: beir/scifact" in err
