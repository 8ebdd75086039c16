"""The command: its inputs, its exit codes, and what it says."""

from __future__ import annotations

import json
import re

import pytest

from o1_records import Document, Example, Query, Source, Thought, read_jsonl, write_jsonl
from o1_synth.__main__ import main


def docstrings(folder, names=("a", "b")):
    path = folder / "docstrings.jsonl"
    source = Source(model="people")
    rows = (Thought(query_id=n, thought_id="x", text=f"About {n}.", source=source) for n in names)
    write_jsonl(path, rows)
    return str(path)


def beir_folder(folder):
    lines = [json.dumps({"_id": name, "text": f"query {name}", "metadata": {}}) for name in "ab"]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nb\td\t1\n")
    return folder


def test_queries_come_from_records_a_beir_folder_or_one_split_of_it(tmp_path):
    records = tmp_path / "records.jsonl"
    write_jsonl(records, [Query(query_id=name, text=f"query {name}") for name in "ab"])
    folder = str(beir_folder(tmp_path))
    written = []
    for number, source in enumerate(([str(records)], [folder], [folder, "--split", "train"])):
        out = tmp_path / f"t{number}.jsonl"
        arguments = ["--queries", *source, "--out", str(out), "--samples", "1"]
        assert main(["think", *arguments, "--docstrings", docstrings(tmp_path)]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == 2
    assert written[2] == written[1].splitlines(keepends=True)[1]


def test_failures_give_exit_code_3_and_say_where_they_are_listed(serve, tmp_path, capsys):
    server = serve(lambda text, attempt: "400" if text == "query b" else "")
    out = tmp_path / "t.jsonl"
    common = ["think", "--queries", str(beir_folder(tmp_path)), "--out", str(out)]
    common += ["--base-url", server.base_url, "--model", "echo"]
    assert main(common) == 3
    told = capsys.readouterr().err
    assert "3 thoughts about 2 queries" in told
    assert "3 failed (3 http_status, such as 400: 'the prompt is too long'), listed in" in told
    assert f"{out}.failures.jsonl" in told
    server.fault = lambda text, attempt: ""
    assert main(common) == 0
    assert len(list(read_jsonl(out, Thought))) == 6


def test_exemplars_reach_the_model_but_not_for_their_own_query(serve, tmp_path):
    server = serve()
    pool = tmp_path / "examples.jsonl"
    positives = (Document(doc_id="d", text="the gold passage"),)
    write_jsonl(pool, [Example(query=Query(query_id="z", text="why"), positives=positives)])
    folder = str(beir_folder(tmp_path))  # its qrels say that d answers b
    common = ["think", "--queries", folder, "--samples", "1", "--split", "train"]
    common += ["--base-url", server.base_url, "--model", "echo", "--exemplars", str(pool)]
    assert main([*common, "--out", str(tmp_path / "t1.jsonl")]) == 0
    assert "the gold passage" in server.prompts[-1]
    assert main([*common, "--out", str(tmp_path / "t2.jsonl"), "--qrels", folder]) == 0
    assert "the gold passage" not in server.prompts[-1]


def test_without_a_split_the_positives_of_every_split_stay_out_of_the_prompt(serve, tmp_path):
    server = serve()
    folder = beir_folder(tmp_path)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\te\t1\n")
    pool, examples = tmp_path / "examples.jsonl", []
    gold = {"d": "passage for b", "e": "passage for a"}
    for name, text in gold.items():
        query = Query(query_id=f"z{name}", text=f"why {name}")
        examples.append(Example(query=query, positives=(Document(doc_id=name, text=text),)))
    write_jsonl(pool, examples)
    common = ["think", "--queries", str(folder), "--qrels", str(folder), "--samples", "1"]
    common += ["--base-url", server.base_url, "--model", "echo", "--out", str(tmp_path / "t.jsonl")]
    assert main([*common, "--exemplars", str(pool), "--exemplar-count", "2"]) == 0
    shown = {prompt.split()[-2]: set(re.findall("passage for .", prompt)) for prompt in server.prompts}
    assert shown == {"a": {"passage for b"}, "b": {"passage for a"}}


@pytest.mark.parametrize(
    ("queries", "out"),
    [
        ("q.jsonl", "q.jsonl"),
        ("q.jsonl", "qrels/../q.jsonl"),
        ("q.jsonl", "link.jsonl"),
        (".", "queries.jsonl"),
        (".", "qrels/train.tsv"),
        ("t.jsonl.failures.jsonl", "t.jsonl"),
        ("q.jsonl", "docstrings.jsonl"),
    ],
)
def test_an_output_that_is_an_input_is_refused_before_anything_is_written(tmp_path, capsys, queries, out):
    beir_folder(tmp_path)
    for name in ("q.jsonl", "t.jsonl.failures.jsonl"):
        write_jsonl(tmp_path / name, [Query(query_id="a", text="t")])
    (tmp_path / "link.jsonl").symlink_to("q.jsonl")
    given = ["--queries", str(tmp_path / queries), "--docstrings", docstrings(tmp_path)]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["think", *given, "--out", str(tmp_path / out)]) == 4
    error = capsys.readouterr().err
    assert "would overwrite the input of --" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.rglob("*.job"))


@pytest.mark.parametrize(
    ("extra", "code", "told"),
    [
        (["--docstrings", "missing.jsonl"], 4, "missing.jsonl: No such file"),
        (["--base-url", "http://127.0.0.1:9/v1", "--model", "m"], 4, "no server answers at"),
        (["--samples", "0"], 4, "samples must be 1 or more, got 0"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_output(tmp_path, capsys, extra, code, told):
    out = tmp_path / "t.jsonl"
    given = ["think", "--queries", str(beir_folder(tmp_path)), "--out", str(out)]
    if not {"--docstrings", "--base-url"} & set(extra):
        given += ["--docstrings", docstrings(tmp_path)]
    assert main([*given, *extra]) == code
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not out.exists()


def test_a_bad_line_names_file_and_line(tmp_path, capsys):
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"query_id": "a", "text": "t"}\n{"query_id": 7, "text": "t"}\n')
    given = ["think", "--queries", str(queries), "--out", str(tmp_path / "t.jsonl")]
    assert main([*given, "--docstrings", docstrings(tmp_path)]) == 4
    assert "q.jsonl:2: Expected `str`, got `int` - at `$.query_id`" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--model", "m"]])
def test_an_expert_must_be_named(tmp_path, given):
    with pytest.raises(SystemExit) as ended:
        main(["think", "--queries", "q", "--out", str(tmp_path / "t.jsonl"), *given])
    assert ended.value.code == 2


def test_a_server_needs_a_model(tmp_path, capsys):
    given = ["think", "--queries", "q", "--out", str(tmp_path / "t.jsonl"), "--base-url", "http://x/v1"]
    assert main(given) == 4
    assert capsys.readouterr().err == "error: --base-url needs --model\n"
