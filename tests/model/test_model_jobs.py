"""The long jobs: resumed where they stopped, refused with the difference named, nothing deleted."""

import contextlib
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from msgspec.structs import replace

from o1_model import Embedder, Thinking, embed, jobs, think
from o1_model.__main__ import main
from o1_model.thinking.records import ThoughtCache
from o1_records import Document, InputError, Metric, Query, Thought, read_jsonl, write_jsonl
from o1_records.kit.job import ChangedJobError
from o1_records.vectors import VectorSet, VectorWriter

QUERIES = [
    Query(query_id=f"q{n}", text=text) for n, text in enumerate(["open a zip file", "sort", "", "list keys"])
]
DOCUMENTS = [Document(doc_id=f"d{n}", text=f"open {'zip ' * n}") for n in range(5)]
THINKING = Thinking(samples=2, max_tokens=6, temperature=3.0)


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs") / "model"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(checkpoint):
    return Embedder.from_pretrained(checkpoint, device="cpu")


@pytest.fixture
def here(tmp_path):
    """A folder with queries, documents, and what v_q and thinking scored for each query."""
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    for name, value in (("without", 0.5), ("with", 0.6)):
        metrics = [Metric(measure="nDCG@10", value=value, query_id=query.query_id) for query in QUERIES]
        write_jsonl(tmp_path / f"{name}.jsonl", metrics)
    return tmp_path


def arguments(command, checkpoint, here, out):
    inputs = {
        "think": ["--queries", here / "queries.jsonl", "--samples", 2, "--max-tokens", 6],
        "embed": ["--queries", here / "queries.jsonl", "--think", "--max-tokens", 6],
        "gate": [
            *("--queries", here / "queries.jsonl"),
            *("--without", here / "without.jsonl", "--with", here / "with.jsonl"),
        ],
    }
    words = [command, "--model", checkpoint, "--device", "cpu", *inputs[command], "--out", out]
    return [str(word) for word in words]


# --- one policy for earlier work ----------------------------------------------------------------------

CHANGES = {
    "think": (["--seed", "7", "--samples", "3"], "samples '2', seed '0', this run has samples '3', seed '7'"),
    "embed": (["--with-query"], r"thoughts .*seed=0\)', this run has thoughts .*seed=0\) with v_q'"),
    "gate": (["--budget", "0.5"], "budget '0.3', this run has budget '0.5'"),
}


@pytest.mark.parametrize("command", CHANGES)
def test_other_settings_are_refused_by_name_and_new_job_moves_the_old_work_aside(
    checkpoint, here, capsys, command
):
    words, (more, difference) = arguments(command, checkpoint, here, here / "out"), CHANGES[command]
    assert main(words) in (0, 3)
    before = contents(here / "out")
    capsys.readouterr()
    assert main([*words, *more]) == 4
    said = capsys.readouterr().err
    assert re.search(f"the earlier work was made with {difference}", said), said
    assert "give --new-job to move the earlier work aside" in said
    assert contents(here / "out") == before
    assert main([*words, *more, "--new-job"]) in (0, 3)
    assert contents(here / "out.old1") == before
    assert contents(here / "out") != before


def contents(path):
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name.removesuffix(".old1"): file.read_bytes() for file in files}


@pytest.mark.parametrize("command", CHANGES)
def test_the_same_again_has_nothing_to_do_and_moves_nothing(checkpoint, here, capsys, command):
    words = arguments(command, checkpoint, here, here / "out")
    code = main(words)
    before, said = contents(here / "out"), capsys.readouterr().out
    assert main([*words, "--new-job"]) == code
    assert contents(here / "out") == before
    assert capsys.readouterr().out == said, "the table of `gate` is printed again"
    assert not (here / "out.old1").exists()


@pytest.mark.parametrize("command", ["think", "gate"])
def test_a_file_that_no_job_wrote_is_not_overwritten(checkpoint, here, capsys, command):
    (here / "out").write_text("mine")
    words = arguments(command, checkpoint, here, here / "out")
    assert main(words) == 4
    assert "no job beside it says what it was made from" in capsys.readouterr().err
    assert (here / "out").read_text() == "mine"
    assert main([*words, "--new-job"]) in (0, 3)
    assert (here / "out.old1").read_text() == "mine"


@pytest.mark.parametrize("change", ["text", "instruction", "layout"])
def test_another_text_or_layout_is_another_job(checkpoint, here, change):
    think(checkpoint, QUERIES, THINKING, out=here / "t.jsonl", device="cpu")
    changed, lengths = QUERIES, {}
    if change == "layout":
        lengths = {"query_length": 11}
    else:
        changed = [replace(QUERIES[0], **{change: "why"}), *QUERIES[1:]]
    with pytest.raises(ChangedJobError, match=r"layout|queries"):
        think(checkpoint, changed, THINKING, out=here / "t.jsonl", device="cpu", **lengths)


@pytest.mark.parametrize(
    "words",
    [
        ["think", "--queries", "queries.jsonl", "--out", "queries.jsonl"],
        ["think", "--queries", ".", "--out", "queries.jsonl"],
        ["think", "--queries", "queries.jsonl", "--out", "o", "--cache", "queries.jsonl"],
        ["think", "--queries", "queries.jsonl", "--out", "o", "--cache", "o"],
        ["embed", "--corpus", "corpus.jsonl", "--out", "corpus.jsonl"],
        ["embed", "--corpus", "corpus.jsonl", "--out", "MODEL/vectors"],
        ["gate", "--queries", "q", "--without", "without.jsonl", "--with", "w", "--out", "without.jsonl"],
        ["gate", "--queries", "q", "--without", "w", "--with", "v", "--hits", "h.trec", "--out", "h.trec"],
    ],
    ids=" ".join,
)
def test_an_output_that_is_an_input_is_refused(checkpoint, here, monkeypatch, capsys, words):
    monkeypatch.chdir(here)
    words = [words[0], "--model", str(checkpoint), *(w.replace("MODEL", str(checkpoint)) for w in words[1:])]
    assert main(words) == 4
    said = capsys.readouterr().err
    assert "would overwrite the input" in said or "are one file" in said or "is a file; name a folder" in said


def test_training_into_its_own_model_is_refused(plain_models, here, capsys):
    words = ["train", "--model_name_or_path", str(plain_models["llama"]), "--use_cpu"]
    data = ["--train_data", str(here / "corpus.jsonl")]
    for out in (plain_models["llama"], plain_models["llama"] / "out"):
        assert main([*words, *data, "--output_dir", str(out)]) == 4
        assert "would overwrite the input of --model_name_or_path" in capsys.readouterr().err


# --- thoughts -----------------------------------------------------------------------------------------


def forwards(embedder, monkeypatch):
    """A list that grows with every forward pass of the embedder's backbone."""
    calls, hidden = [], embedder.backbone.hidden

    def counted(*arguments):
        calls.append(len(arguments[0]))
        return hidden(*arguments)

    monkeypatch.setattr(embedder.backbone, "hidden", counted)
    return calls


def test_the_function_writes_what_the_model_thinks(embedder, here):
    made = think(embedder, here / "queries.jsonl", THINKING, out=here / "t.jsonl")
    written = list(read_jsonl(here / "t.jsonl", Thought))
    assert written == embedder.think(QUERIES, THINKING)
    assert (made.queries, made.written, made.blank) == (4, len(written), 8 - len(written))
    assert made.finished


def test_what_stopped_goes_on_and_thinks_about_nothing_twice(embedder, here, monkeypatch):
    monkeypatch.setattr(jobs, "CHECKPOINT_CHUNK", 1)
    stop, asked, own = threading.Event(), [], Embedder.think

    def think_and_stop(self, queries, thinking):
        asked.extend(query.query_id for query in queries)
        if len(asked) == 2:
            stop.set()
        return own(self, queries, thinking)

    monkeypatch.setattr(Embedder, "think", think_and_stop)
    made = think(embedder, QUERIES, THINKING, out=here / "t.jsonl", stop=stop)
    assert (made.finished, made.thought_about, made.queries) == (False, 2, 4)
    assert not (here / "t.jsonl").exists()
    assert think(embedder, QUERIES, THINKING, out=here / "t.jsonl").finished
    assert asked == ["q0", "q1", "q2", "q3"]
    monkeypatch.undo()
    assert list(read_jsonl(here / "t.jsonl", Thought)) == embedder.think(QUERIES, THINKING)
    calls = forwards(embedder, monkeypatch)
    assert think(embedder, QUERIES, THINKING, out=here / "t.jsonl").finished
    assert calls == []


def test_an_interrupted_command_says_how_to_go_on(checkpoint, here, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "CHECKPOINT_CHUNK", 1)
    own = Embedder.think

    def interrupted(self, queries, thinking):
        signal.raise_signal(signal.SIGINT)
        return own(self, queries, thinking)

    words = arguments("think", checkpoint, here, here / "my thoughts.jsonl")
    monkeypatch.setattr(Embedder, "think", interrupted)
    assert main(words) == 3
    said = capsys.readouterr().err
    assert "interrupted; 1 of 4 queries are thought about" in said
    again = next(line for line in said.splitlines() if line.startswith("o1-model think"))
    assert shlex.split(again)[1:] == words
    monkeypatch.setattr(Embedder, "think", own)
    assert main(words) in (0, 3)
    thoughts = Embedder.from_pretrained(checkpoint).think(QUERIES, Thinking(samples=2, max_tokens=6))
    assert list(read_jsonl(here / "my thoughts.jsonl", Thought)) == thoughts


def test_a_cache_serves_another_command(checkpoint, here, capsys):
    for name in ("a", "b"):
        words = arguments("think", checkpoint, here, here / f"{name}.jsonl")
        assert main([*words, "--cache", str(here / "cache" / "t.sqlite")]) in (0, 3)
    assert (here / "a.jsonl").read_bytes() == (here / "b.jsonl").read_bytes()
    assert len(ThoughtCache(here / "cache" / "t.sqlite")) == 4


def test_what_was_thought_survives_kill_9(checkpoint, here, embedder):
    queries = [Query(query_id=f"q{n:03}", text=f"open {n % 7} files") for n in range(700)]
    write_jsonl(here / "queries.jsonl", queries)
    out = here / "out.jsonl"
    words = [*arguments("think", checkpoint, here, out), "--max-tokens", "12"]
    process = subprocess.Popen([sys.executable, "-m", "o1_model", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not committed(out):
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = committed(out)
    assert kept > 0
    assert not out.exists() or kept == 700
    assert main(words) in (0, 3)
    assert committed(out) == 700
    found = list(read_jsonl(out, Thought))
    assert list(dict.fromkeys(thought.query_id for thought in found)) == [q.query_id for q in queries]
    one = [thought for thought in found if thought.query_id == "q333"]
    assert one == embedder.think([queries[333]], Thinking(samples=2, max_tokens=12))


def committed(out):
    """How many queries another process has committed; 0 while it still makes the file."""
    journal = out.with_name(f"{out.name}.job") / "journal.sqlite"
    if not journal.exists():
        return 0
    with contextlib.closing(sqlite3.connect(journal, timeout=60)) as database:
        try:
            return database.execute("SELECT count(*) FROM thoughts").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def test_two_processes_do_not_think_for_one_file(embedder, here, monkeypatch):
    own = Embedder.think

    def think_twice(self, queries, thinking):
        monkeypatch.setattr(Embedder, "think", own)
        with pytest.raises(InputError, match=f"process {os.getpid()} on .* is at work there"):
            think(embedder, QUERIES, THINKING, out=here / "t.jsonl")
        return own(self, queries, thinking)

    monkeypatch.setattr(Embedder, "think", think_twice)
    assert think(embedder, QUERIES, THINKING, out=here / "t.jsonl").finished


def test_duplicate_queries_are_refused_before_anything_is_thought(embedder, here):
    with pytest.raises(InputError, match="duplicate query_id 'q1'"):
        think(embedder, [*QUERIES, QUERIES[1]], THINKING, out=here / "t.jsonl")
    assert not (here / "t.jsonl.job").exists()


def test_a_model_that_was_never_saved_starts_no_job(llama, here):
    with pytest.raises(InputError, match="save this model and load it first"):
        think(llama, QUERIES, THINKING, out=here / "t.jsonl")
    with pytest.raises(InputError, match="save this model and load it first"):
        embed(llama, corpus=DOCUMENTS, out=here / "v")


def test_options_of_loading_are_for_a_model_that_is_loaded_here(embedder, here):
    with pytest.raises(InputError, match="device: the model is loaded already"):
        think(embedder, QUERIES, out=here / "t.jsonl", device="cpu")


# --- vectors ------------------------------------------------------------------------------------------


def test_the_function_writes_the_vectors_of_the_model(embedder, checkpoint, here):
    documents = embed(embedder, corpus=DOCUMENTS, out=here / "d", shard_rows=2)
    assert documents.ids() == [document.doc_id for document in DOCUMENTS]
    np.testing.assert_allclose(documents.load(), embedder.encode_document(DOCUMENTS), atol=1e-6)
    thoughts = embedder.think(QUERIES, THINKING)
    for name, how in (("plain", {}), ("own", {"think": THINKING}), ("given", {"thoughts": thoughts})):
        vectors = embed(checkpoint, queries=here / "queries.jsonl", out=here / name, device="cpu", **how)
        np.testing.assert_allclose(vectors.load(), embedder.encode_query(QUERIES, **how), atol=1e-5)


def test_what_is_interrupted_in_this_process_can_go_on_in_it(embedder, here, monkeypatch):
    own, shards = Embedder.encode_document, []

    def interrupted(self, documents):
        shards.append([document.doc_id for document in documents])
        if len(shards) == 2:
            raise KeyboardInterrupt
        return own(self, documents)

    monkeypatch.setattr(Embedder, "encode_document", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(embedder, corpus=DOCUMENTS, out=here / "v", shard_rows=2)
    assert embed(embedder, corpus=DOCUMENTS, out=here / "v", shard_rows=2).ids() == [
        "d0",
        "d1",
        "d2",
        "d3",
        "d4",
    ]
    assert shards == [["d0", "d1"], ["d2", "d3"], ["d2", "d3"], ["d4"]]


def test_two_writers_of_one_folder_in_one_process_are_refused(embedder, here):
    with VectorWriter(here / "v"), pytest.raises(InputError, match="is at work there"):
        embed(embedder, corpus=DOCUMENTS, out=here / "v")


def test_a_folder_of_something_else_is_not_taken_for_vectors(embedder, here):
    (here / "v").mkdir()
    (here / "v" / "mine.txt").write_text("mine")
    with pytest.raises(ChangedJobError, match=r"v: exists already; .* --new-job"):
        embed(embedder, corpus=DOCUMENTS, out=here / "v")
    embed(embedder, corpus=DOCUMENTS, out=here / "v", new_job=True)
    assert (here / "v.old1" / "mine.txt").read_text() == "mine"
    (here / "v" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        embed(embedder, corpus=DOCUMENTS, out=here / "v")
    assert embed(embedder, corpus=DOCUMENTS, out=here / "v", new_job=True).ids()[0] == "d0"
    assert (here / "v.old2" / "manifest.json").read_text() == "{"


def test_the_fingerprint_names_gate_and_margins(embedder, here):
    from o1_model.thinking.gate import Gate

    gate = Gate(signal="margin", above=False, threshold=0.5)
    how = {"queries": QUERIES, "think": THINKING, "gate": gate, "out": here / "v"}
    margins = {query.query_id: 0.1 for query in QUERIES}
    embed(embedder, **how, margins=margins)
    with pytest.raises(ChangedJobError, match=r"thoughts .*margins"):
        embed(embedder, **how, margins={**margins, "q0": 0.2})


def test_queries_without_a_thought_are_counted(embedder, here, caplog):
    thoughts = [thought for thought in embedder.think(QUERIES, THINKING) if thought.query_id == "q0"]
    embed(embedder, queries=QUERIES, thoughts=thoughts, out=here / "v")
    assert "3 of 4 queries have no thought and keep v_q" in caplog.text
    with pytest.raises(InputError, match="none of its 2 thoughts is about a query that is here"):
        embed(embedder, queries=QUERIES[1:], thoughts=thoughts, out=here / "w")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({}, "give either a corpus or queries"),
        ({"corpus": DOCUMENTS, "queries": QUERIES}, "give either a corpus or queries"),
        ({"corpus": DOCUMENTS, "think": THINKING}, "are for queries"),
        ({"queries": QUERIES, "with_query": True}, "give thoughts or think too"),
        ({"queries": QUERIES, "think": THINKING, "thoughts": []}, "give thoughts or think, not both"),
        ({"queries": QUERIES, "think": THINKING, "margins": {}}, "give them together"),
        ({"queries": QUERIES, "split": "dev"}, "only a BEIR folder of queries has splits"),
        ({"queries": QUERIES, "devices": ["cpu", "cpu"]}, "each process loads the model"),
        ({"queries": (query for query in QUERIES)}, "an iterator can be read only once"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(embedder, here, wrong, complaint):
    with pytest.raises(InputError, match=complaint):
        embed(embedder, out=here / "v", **wrong)
    assert not (here / "v.partial").exists()


def test_settings_of_thinking_without_think_are_refused(checkpoint, here, capsys):
    words = ["embed", "--model", str(checkpoint), "--queries", str(here / "queries.jsonl")]
    assert main([*words, "--samples", "2", "--out", str(here / "v")]) == 4
    assert "--samples: for --think or --thinker" in capsys.readouterr().err


@pytest.mark.parametrize("devices", [[], ["--devices", "cpu,cpu"]], ids=["one process", "two"])
def test_a_command_says_once_how_many_texts_were_cut(checkpoint, tmp_path, capsys, devices):
    long = "open a zip file read write list " * 10
    documents = [Document(doc_id=f"d{n}", text=long if n % 3 == 0 else "sort") for n in range(7)]
    write_jsonl(tmp_path / "c.jsonl", documents)
    words = ["embed", "--model", str(checkpoint), "--corpus", str(tmp_path / "c.jsonl"), "--shard-rows", "2"]
    assert main([*words, "--document-length", "20", *devices, "--out", str(tmp_path / "v")]) == 0
    said = capsys.readouterr().err
    assert said.count("3 document(s) had more than 20 tokens and were cut there; --document-length") == 1
    assert main([*words, "--document-length", "100", "--out", str(tmp_path / "w")]) == 0
    assert "were cut" not in capsys.readouterr().err


def test_an_instruction_of_the_command_is_read_before_every_query(checkpoint, embedder, here):
    out, queries = here / "v", str(here / "queries.jsonl")
    words = ["embed", "--model", str(checkpoint), "--device", "cpu", "--queries", queries]
    assert main([*words, "--instruction", "list the keys", "--out", str(out)]) == 0
    expected = embedder.encode_query(QUERIES, instruction="list the keys")
    np.testing.assert_allclose(VectorSet(out).load(), expected, atol=1e-6)


# --- every option -------------------------------------------------------------------------------------

NO_PATHS = {
    *("help", "version", "revision", "layout", "device", "devices", "dtype", "split", "measure", "budget"),
    *("samples", "max_tokens", "temperature", "top_p", "seed", "vllm", "base_url", "served_name", "new_job"),
    *("batch_tokens", "shard_rows", "think", "with_query", "host", "port", "default_input_type"),
    *("max_waiting", "max_inputs", "max_body", "drain_seconds", "runtime", "server"),
    *("attn_implementation", "load_in_4bit", "gguf_file", "query_length", "thought_length"),
    *("document_length", "instruction", "served_model_name", "api_key", "cors_origin", "token_ids"),
    *("style", "max_queries", "split_identifiers", "search", "weight", "reading", "max_searches"),
    *("ray", "ray_workers", "ray_cpus", "ray_gpus", "ray_block", "document_weight", "weights", "characters"),
}


def options():
    from o1_records.kit.command import role_of

    (commands,) = (a for a in main.parser()._actions if a.choices and not a.option_strings)
    for name, command in commands.choices.items():
        for action in command._actions:
            yield name, action, role_of(action)


def test_every_option_that_names_a_file_is_declared():
    undeclared = [
        (name, action.dest)
        for name, action, role in options()
        if role is None and action.dest not in NO_PATHS
    ]
    assert undeclared == []
    declared = {(name, action.dest) for name, action, role in options() if role is not None}
    assert {dest for name, dest in declared if name == "train"} == {
        "train_data", "model_name_or_path", "eval_collection", "output_dir",
    }  # fmt: skip
    assert {dest for name, dest in declared if name == "think"} == {
        "model",
        "base",
        "queries",
        "corpus",
        "cache",
        "out",
    }


def test_every_option_has_a_help_text():
    assert [(name, action.dest) for name, action, _ in options() if not action.help] == []
