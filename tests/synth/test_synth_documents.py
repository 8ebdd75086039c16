"""Thoughts about documents: written once, kept in the same kind of job."""

from __future__ import annotations

import json

import pytest

from o1_records import Document, DocumentThought, InputError, Query, read_jsonl, write_jsonl
from o1_records.styles import DOCUMENT_STYLES
from o1_synth import (
    ChatExpert,
    DocumentChecks,
    DocumentPrompt,
    Job,
    Retry,
    read_template,
    think_about_documents,
)
from o1_synth.__main__ import main
from o1_synth.job.draw import Failure
from o1_synth.template import ABOUT_DOCUMENTS

DOCUMENTS = [
    Document(
        doc_id=f"d{n:02}", title=f"Part {n}", text=f"def part{n}(x): return x ** {n} + {n} # " + "x " * n
    )
    for n in range(8)
]


def expert(server, style="comment"):
    prompt = DocumentPrompt(read_template(style, ABOUT_DOCUMENTS))
    return ChatExpert(server.base_url, "echo", prompt=prompt, retry=Retry(attempts=1, pause=0.01, patience=0))


def say(request, text):
    return f"Raises its argument to a power, and adds {request['seed']}."


@pytest.mark.parametrize("style", DOCUMENT_STYLES)
def test_a_model_is_asked_as_every_package_asks_and_its_answer_is_kept_as_the_style_says(
    serve, tmp_path, style
):
    answer = "Keywords: power,\n- exponent\n- sum" if style == "keywords" else '"Raises x to a power."'
    server = serve(say=lambda request, text: answer)
    out = tmp_path / "t.jsonl"
    assert think_about_documents(DOCUMENTS[:2], expert(server, style), out=out).thoughts == 2
    asked = [request["messages"] for request in server.requests]
    full = [document.full_text for document in DOCUMENTS[:2]]
    told = [[{"role": "user", "content": DOCUMENT_STYLES[style].ask(text)}] for text in full]
    assert sorted(asked, key=str) == sorted(told, key=str)
    kept = DOCUMENT_STYLES[style].clean(answer)
    assert [thought.text for thought in read_jsonl(out, DocumentThought)] == [kept] * 2


def test_the_command_writes_resumes_and_exports_them(serve, tmp_path, capsys):
    write_jsonl(tmp_path / "c.jsonl", DOCUMENTS)
    server = serve(say=say)
    server.fault = lambda text, attempt: "400" if "part3" in text else ""
    out = tmp_path / "t.jsonl"
    command = ["think", "--corpus", str(tmp_path / "c.jsonl"), "--template", "comment", "--out", str(out)]
    command += ["--base-url", server.base_url, "--model", "echo"]
    assert main(command) == 3
    told = capsys.readouterr().err
    assert f"7 thoughts about 8 documents in {out}; 1 failed (1 http_status" in told
    (failure,) = read_jsonl(f"{out}.failures.jsonl", Failure)
    assert failure.query_id == "d03"
    assert len(server.requests) == 8

    server.fault = lambda text, attempt: ""
    assert main(command) == 0
    assert len(server.requests) == 9, "only what failed is asked for again"
    thoughts = list(read_jsonl(out, DocumentThought))
    assert [(it.doc_id, it.thought_id) for it in thoughts] == [(d.doc_id, f"{d.doc_id}#0") for d in DOCUMENTS]
    assert {it.source.max_tokens for it in thoughts} == {DOCUMENT_STYLES["comment"].max_tokens}
    assert main(["export", str(out), "--out", str(tmp_path / "again.jsonl")]) == 0
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()

    assert main([*command, "--samples", "2"]) == 0
    assert len(server.requests) == 17
    assert len(list(read_jsonl(out, DocumentThought))) == 16


def test_a_beir_folder_is_a_corpus_too(serve, tmp_path):
    lines = [json.dumps({"_id": d.doc_id, "title": d.title, "text": d.text}) for d in DOCUMENTS]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    server, out = serve(say=say), tmp_path / "t.jsonl"
    command = ["think", "--corpus", str(tmp_path), "--template", "question", "--out", str(out)]
    assert main([*command, "--base-url", server.base_url, "--model", "echo"]) == 0
    assert [it.doc_id for it in read_jsonl(out, DocumentThought)] == [d.doc_id for d in DOCUMENTS]


def test_what_is_no_thought_about_a_document_is_drawn_again_and_then_listed(serve, tmp_path):
    bad = {
        "part0": "I'm sorry, but I can't help with that.",
        "part1": "Say in one short sentence what this code does. The sentence only.",
        "part2": DOCUMENTS[2].full_text + " x x x x x x x x",
        "part4": "天空之所以呈现蓝色是因为空气分子散射短波长的光比长波长的光更多",
    }
    server = serve(
        say=lambda request, text: next((t for p, t in bad.items() if p in text), say(request, text))
    )
    prompt = DocumentPrompt(read_template("comment", ABOUT_DOCUMENTS))
    names = (*DocumentChecks.names, "refusal")
    job = Job(checks=DocumentChecks(names=names, prompt=prompt), redraws=1)
    summary = think_about_documents(DOCUMENTS, expert(server), out=tmp_path / "t.jsonl", job=job)
    reasons = {it.query_id: it.reason for it in read_jsonl(summary.failures_path, Failure)}
    assert reasons == {"d00": "refusal", "d01": "scaffold", "d02": "leak", "d04": "language"}
    assert len(server.requests) == 8 + 4


def test_a_job_about_documents_is_not_continued_about_queries(serve, tmp_path):
    from o1_synth import think

    server, out = serve(say=say), tmp_path / "t.jsonl"
    think_about_documents(DOCUMENTS[:1], expert(server), out=out)
    with pytest.raises(InputError, match="command 'think about documents'"):
        think([Query(query_id="q", text="t")], ChatExpert(server.base_url, "echo"), out=out)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "give --queries or --corpus"),
        (["--corpus", "c.jsonl"], "--corpus needs --template: comment for code"),
        (["--corpus", "c.jsonl", "--template", "paper"], "there is no template 'paper'"),
        (
            ["--corpus", "c.jsonl", "--template", "comment", "--task", "x"],
            "--task has no effect without --queries",
        ),
        (["--corpus", "c.jsonl", "--template", "comment", "--checks", "echo"], "unknown checks 'echo'"),
    ],
)
def test_what_is_missing_or_has_no_effect_is_told(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    write_jsonl("c.jsonl", DOCUMENTS)
    assert (
        main(["think", *options, "--out", "t.jsonl", "--base-url", "http://127.0.0.1:9/v1", "--model", "m"])
        == 4
    )
    assert told in capsys.readouterr().err
