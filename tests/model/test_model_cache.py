"""The same query is not thought about twice; nothing that changed is ever reused (F21)."""

import contextlib
import dataclasses
import shlex
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from o1_model import Embedder, Thinking
from o1_model.__main__ import main
from o1_model.engines import Written
from o1_model.thought_cache import ThoughtCache
from o1_records import InputError, Query, Thought, read_jsonl, write_jsonl

QUERIES = [
    Query(query_id=f"q{n}", text=text) for n, text in enumerate(["open a zip file", "sort", "", "list keys"])
]
THINKING = Thinking(samples=2, max_tokens=6, temperature=3.0, top_p=0.99)


@pytest.fixture
def checkpoint(llama, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def saved(checkpoint):
    return Embedder.from_pretrained(checkpoint)


def forwards(embedder):
    """A list that grows with every forward pass of the embedder's backbone."""
    calls, hidden = [], embedder.backbone.hidden

    def counted(*arguments):
        calls.append(len(arguments[0]))
        return hidden(*arguments)

    embedder.backbone.hidden = counted
    return calls


def test_the_same_query_is_thought_about_once(saved, checkpoint, tmp_path):
    saved.decoder.cache = ThoughtCache(tmp_path / "thoughts.sqlite")
    v_q, traces = saved.decode(QUERIES, THINKING)
    assert len(saved.decoder.cache) == 4
    saved.decoder.cache.close()

    other = Embedder.from_pretrained(checkpoint)
    other.decoder.cache = ThoughtCache(tmp_path / "thoughts.sqlite")
    calls = forwards(other)
    again_q, again = other.decode([*QUERIES[::-1], *QUERIES], THINKING)
    assert calls == []
    np.testing.assert_array_equal(again_q[4:], v_q)
    for row, cached in zip(traces, again[4:], strict=True):
        for trace, same in zip(row, cached, strict=True):
            assert trace.token_ids == same.token_ids and trace.finished == same.finished
            assert trace.log_likelihood == same.log_likelihood
            assert torch.equal(trace.vector, same.vector)


def test_fewer_samples_are_cut_from_what_is_known_and_more_are_thought(saved):
    saved.decoder.cache = ThoughtCache(":memory:")
    two = saved.decode(QUERIES, THINKING)[1]
    calls = forwards(saved)
    one = saved.decode(QUERIES, _with(samples=1))[1]
    assert calls == []
    assert [[t.token_ids for t in row] for row in one] == [[row[0].token_ids] for row in two]
    three = saved.decode(QUERIES, _with(samples=3))[1]
    assert calls
    assert [[t.token_ids for t in row[:2]] for row in three] == [[t.token_ids for t in row] for row in two]
    calls.clear()
    saved.decode(QUERIES, _with(samples=3))
    assert calls == []


def _with(**changed):
    return dataclasses.replace(THINKING, **changed)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"temperature": 2.9}, {"top_p": 0.98}, {"max_tokens": 5}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_sampling_never_reuses(saved, changed):
    saved.decoder.cache = ThoughtCache(":memory:")
    saved.decode(QUERIES, THINKING)
    saved.decode(QUERIES, _with(**changed))
    assert len(saved.decoder.cache) == 8


@pytest.mark.parametrize("changed", [{"query_id": "q9"}, {"text": "sort it"}, {"instruction": "how"}])
def test_another_query_never_reuses(saved, changed):
    saved.decoder.cache = ThoughtCache(":memory:")
    saved.decode([QUERIES[1]], THINKING)
    saved.decode([replace(QUERIES[1], **changed)], THINKING)
    assert len(saved.decoder.cache) == 2


def test_another_model_layout_dtype_or_engine_never_reuses(saved, checkpoint, tmp_path):
    cache = ThoughtCache(":memory:")
    with torch.no_grad():
        saved.backbone.control_rows[0, 0] += 1e-3
    saved.save_pretrained(tmp_path / "changed")
    longer = Embedder.from_pretrained(checkpoint, query_length=11)
    half = Embedder.from_pretrained(checkpoint, dtype=torch.bfloat16)
    engine = Embedder.from_pretrained(checkpoint)
    engine.decoder.engine = SaysNothingNew()
    models = [
        Embedder.from_pretrained(checkpoint),
        Embedder.from_pretrained(tmp_path / "changed"),
        longer,
        half,
        engine,
    ]
    for number, model in enumerate(models, start=1):
        model.decoder.cache = cache
        model.decode(QUERIES[:1], THINKING)
        assert len(cache) == number


class SaysNothingNew:
    name = "an engine"

    def write(self, prompts, names, thinking, *, eos, banned):
        return [[Written((4,), True)] * thinking.samples for _ in prompts]


def test_a_shut_gate_is_not_remembered_and_an_open_one_is_asked_again(saved):
    saved.decoder.cache = ThoughtCache(":memory:")
    saved.encode_query(QUERIES, think=THINKING, gate=lambda s: s.query_id == "q1")
    assert len(saved.decoder.cache) == 1
    everything = saved.encode_query(QUERIES, think=THINKING)
    some = saved.encode_query(QUERIES, think=THINKING, gate=lambda s: s.query_id == "q1")
    np.testing.assert_allclose(some[1], everything[1], atol=1e-6)
    np.testing.assert_allclose(some[[0, 2, 3]], saved.encode_query(QUERIES)[[0, 2, 3]], atol=1e-5)


def test_a_model_that_was_not_saved_has_no_name_to_file_under(llama):
    llama.decoder.cache = ThoughtCache(":memory:")
    with pytest.raises(InputError, match="save this model and load it first"):
        llama.decode(QUERIES, THINKING)


def test_a_damaged_cache_is_refused(saved, tmp_path):
    path = tmp_path / "thoughts.sqlite"
    saved.decoder.cache = ThoughtCache(path)
    saved.decode(QUERIES, THINKING)
    ids = saved.decode(QUERIES[:1], THINKING)[1][0][0].vector.numpy().tobytes()
    saved.decoder.cache.close()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(ids, ids[:-1] + bytes([ids[-1] ^ 1])))
    saved.decoder.cache = ThoughtCache(path)
    with pytest.raises(InputError, match="an entry is damaged; remove the file"):
        saved.decode(QUERIES, THINKING)
    path.write_bytes(b"this is no database, it is a text of some length" * 9)
    with pytest.raises(InputError, match="not a database"):
        ThoughtCache(path)


def test_an_interrupted_command_says_how_to_go_on_and_thinks_nothing_twice(
    checkpoint, tmp_path, monkeypatch, capsys
):
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    out = tmp_path / "my thoughts.jsonl"
    command = ["think", "--model", str(checkpoint), "--queries", str(tmp_path / "queries.jsonl")]
    command += [
        "--samples",
        "2",
        "--max-tokens",
        "6",
        "--temperature",
        "3",
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    monkeypatch.setattr("o1_model.commands.think.CHUNK", 1)
    think, asked = Embedder.think, []

    def think_until_interrupted(self, queries, thinking):
        if len(asked) == 2:
            signal.raise_signal(signal.SIGINT)
        asked.append(queries)
        return think(self, queries, thinking)

    monkeypatch.setattr(Embedder, "think", think_until_interrupted)
    assert main(command) == 3
    said = capsys.readouterr().err
    assert not out.exists()
    again = next(line for line in said.splitlines() if line.startswith("o1-model think"))
    assert shlex.split(again)[1:] == command

    monkeypatch.setattr(Embedder, "think", think)
    decoder_calls = []
    decode = Embedder.decode

    def decode_counted(self, queries, thinking):
        calls = forwards(self)
        result = decode(self, queries, thinking)
        decoder_calls.append(len(calls) > 0)
        return result

    monkeypatch.setattr(Embedder, "decode", decode_counted)
    assert main(shlex.split(again)[1:]) in (0, 3)
    assert decoder_calls == [False, False, True, True]
    thoughts = list(read_jsonl(out, Thought))
    monkeypatch.undo()
    whole = Embedder.from_pretrained(checkpoint).think(
        QUERIES, Thinking(samples=2, max_tokens=6, temperature=3.0)
    )
    assert thoughts == whole
    assert [path.name for path in tmp_path.iterdir() if "sqlite" in path.name] == []
    assert main(command) in (0, 3)
    assert "nothing to do" in capsys.readouterr().err


def test_a_kept_cache_serves_another_command(checkpoint, tmp_path, capsys):
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    command = ["think", "--model", str(checkpoint), "--queries", str(tmp_path / "queries.jsonl")]
    command += ["--samples", "2", "--max-tokens", "6", "--cache", str(tmp_path / "cache" / "t.sqlite")]
    for name in ("a", "b"):
        assert main([*command, "--out", str(tmp_path / f"{name}.jsonl")]) in (0, 3)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert len(ThoughtCache(tmp_path / "cache" / "t.sqlite")) == 4
    capsys.readouterr()
    other = [*command, "--seed", "7", "--out", str(tmp_path / "a.jsonl")]
    assert main(other) == 4
    assert "remove the file or choose another name" in capsys.readouterr().err
    for samples in ("1", "3"):
        assert main([*command, "--samples", samples, "--out", str(tmp_path / "a.jsonl")]) == 4
        assert f"has 2 thoughts a query, this run asks for {samples}" in capsys.readouterr().err


def test_what_was_thought_survives_kill_9(checkpoint, tmp_path):
    queries = [Query(query_id=f"q{n:03}", text=f"open {n % 7} files") for n in range(700)]
    write_jsonl(tmp_path / "queries.jsonl", queries)
    out, cache = tmp_path / "out.jsonl", tmp_path / "cache.sqlite"
    command = ["think", "--model", str(checkpoint), "--queries", str(tmp_path / "queries.jsonl")]
    command += ["--samples", "2", "--max-tokens", "12", "--cache", str(cache), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "o1_model", *command, "--device", "cpu"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while (
        process.poll() is None and time.monotonic() < deadline and not (cache.exists() and committed(cache))
    ):
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = committed(cache)
    assert kept > 0
    assert not out.exists() or kept == 700
    assert main([*command, "--device", "cpu"]) in (0, 3)
    assert committed(cache) == 700
    found = list(read_jsonl(out, Thought))
    assert len({thought.key for thought in found}) == len(found)
    one = [thought for thought in found if thought.query_id == "q333"]
    alone = Embedder.from_pretrained(checkpoint, device="cpu").think(
        [queries[333]], Thinking(samples=2, max_tokens=12)
    )
    assert one == alone


def committed(path):
    """How many entries another process has committed; 0 while it still makes the file."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
        try:
            return database.execute("SELECT count(*) FROM entry").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
