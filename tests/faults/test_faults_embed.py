"""`o1-model embed` under kill -9, full disks, damaged files, broken models and hostile texts.

Real processes. Each test prints its count (pytest -rP); O1_FAULTS=full kills more often.
"""

import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.forked_commands import Commands
from helpers.tiny import SPECIAL, save_model, word_tokenizer
from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.layout import document_row, query_row, text_ids
from o1_records import Document, InputError, Query, write_jsonl
from o1_records.vectors import VectorSet

FULL = os.environ.get("O1_FAULTS") == "full"
SHARD_ROWS, ROWS = 4, 200
WORDS = ["open", "a", "zip", "file", "sort", "keys", "<", ">", "/", "|", "emb", "thought", "query", "doc"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(
        folder / "plain", tokenizer=word_tokenizer(WORDS, lowercase=False),
        hidden_size=16, num_hidden_layers=1, intermediate_size=32,
    )  # fmt: skip
    Embedder.from_backbone(folder / "plain", document_length=40).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    texts = [" ".join(random.Random(n).choices(WORDS, k=n % 30)) for n in range(ROWS)]
    write_jsonl(path, [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(texts)])
    return path


@pytest.fixture(scope="module")
def expected(checkpoint, corpus, tmp_path_factory):
    """What a run that nothing disturbs writes."""
    out = tmp_path_factory.mktemp("expected") / "vectors"
    assert main(_embed(checkpoint, corpus, out)) == 0
    return VectorSet(out)


@pytest.fixture(scope="module")
def commands():
    with contextlib.closing(Commands()) as started:
        yield started


def _embed(model, corpus, out, *more):
    return [
        "embed", "--model", str(model), "--corpus", str(corpus), "--out", str(out),
        "--shard-rows", str(SHARD_ROWS), *more,
    ]  # fmt: skip


def _held(out):
    """Rows on disk, wherever the run was stopped."""
    for folder in (out, out.with_name(out.name + ".partial")):
        if (folder / "manifest.json").exists():
            return VectorSet(folder).ids()
    return []


def test_f1_a_killed_run_continues_and_loses_at_most_the_shard_in_flight(
    checkpoint, corpus, expected, commands, tmp_path
):
    whole = _seconds(commands, _embed(checkpoint, corpus, tmp_path / "timed"))
    moments = random.Random(0)
    kills, kept = 0, []
    for number in range(100 if FULL else 8):
        out = tmp_path / f"v{number}"
        held = []
        for _ in range(2):
            pid = commands.start(_embed(checkpoint, corpus, out))
            time.sleep(moments.uniform(0.1, 1) * whole)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if commands.code() == 0:
                break
            kills += 1
            before, held = held, _held(out)
            # what was finished stays, in whole shards
            assert held[: len(before)] == before
            assert len(held) % SHARD_ROWS == 0
        if not out.exists():
            assert commands.run(_embed(checkpoint, corpus, out)) == 0
        kept.append(len(held))
        vectors = VectorSet(out)
        assert vectors.ids() == expected.ids()
        np.testing.assert_allclose(vectors.load(), expected.load(), atol=1e-6)
        assert {shard.rows for shard in vectors.manifest.shards} == {SHARD_ROWS}
    print(f"{kills} kills, the last left {kept} of {ROWS} rows: 0 lost, 0 duplicated, 0 misattributed")
    assert kills
    assert any(0 < rows < ROWS for rows in kept)


def test_f1_processes_of_several_devices_end_with_the_one_that_was_killed(
    checkpoint, corpus, commands, tmp_path
):
    pid = commands.start(_embed(checkpoint, corpus, tmp_path / "v", "--devices", "cpu,cpu"))
    children = []
    while len(children) < 3:  # two devices and multiprocessing's resource tracker
        time.sleep(0.05)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    assert commands.code() == -signal.SIGKILL
    until = time.monotonic() + 30
    while any(_runs(child) for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert [child for child in children if _runs(child)] == []


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_f6_a_full_disk_ends_the_run_and_keeps_what_is_finished(
    checkpoint, corpus, expected, commands, tmp_path, share
):
    """The manifest is the file that grows: the limit strikes in the middle of the run."""
    limit = int((expected.folder / "manifest.json").stat().st_size * share)
    assert commands.run(_embed(checkpoint, corpus, tmp_path / "v"), file_bytes=limit) == 4
    held = _held(tmp_path / "v")
    print(f"files of at most {limit} bytes: {len(held)} of {ROWS} rows were kept")
    assert held == expected.ids()[: len(held)]
    assert len(held) > 0 or share < 0.1
    assert len(held) < ROWS
    assert commands.run(_embed(checkpoint, corpus, tmp_path / "v")) == 0
    assert VectorSet(tmp_path / "v").ids() == expected.ids()


def test_f6_a_place_where_nothing_can_be_written_is_an_error(checkpoint, corpus, capsys):
    assert main(_embed(checkpoint, corpus, "/proc/vectors")) == 4
    assert "error: /proc/vectors" in capsys.readouterr().err


def test_f7_a_second_process_on_the_same_vectors_is_refused(checkpoint, corpus, expected, tmp_path, capsys):
    hold = "from o1_records.vectors import VectorWriter as W; w = W({!r}); print('held', flush=True); input()"
    first = subprocess.Popen(
        [sys.executable, "-c", hold.format(str(tmp_path / "v"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert first.stdout.readline() == b"held\n"
        assert main(_embed(checkpoint, corpus, tmp_path / "v")) == 4
        assert f"v.partial: process {first.pid} on" in capsys.readouterr().err
    finally:
        first.kill()
        first.wait()
    # the lock goes with its process
    assert main(_embed(checkpoint, corpus, tmp_path / "v")) == 0
    assert {path.name for path in (tmp_path / "v").iterdir()} == {
        path.name for path in expected.folder.iterdir()
    }


def test_f8_every_flipped_bit_and_every_truncation_is_detected(expected, tmp_path):
    noise = random.Random(0)
    shutil.copytree(expected.folder, tmp_path / "v")
    files = sorted((tmp_path / "v").iterdir())
    damaged = 2000 if FULL else 200
    for number in range(damaged):
        # the manifest every third time: it guards the others
        victim = noise.choice(files) if number % 3 else tmp_path / "v" / "manifest.json"
        whole = victim.read_bytes()
        content = bytearray(whole)
        if number % 2:
            del content[noise.randrange(len(content)) :]
        else:
            content[noise.randrange(len(content))] ^= 1 << noise.randrange(8)
        victim.write_bytes(content)
        with pytest.raises(InputError, match=victim.name):
            _use(VectorSet(tmp_path / "v"))
        victim.write_bytes(whole)
    _use(VectorSet(tmp_path / "v"))
    print(f"{damaged} of {damaged} damages detected")


def test_f8_a_missing_shard_is_an_error(expected, tmp_path):
    shutil.copytree(expected.folder, tmp_path / "v")
    (tmp_path / "v" / "shard-00003.safetensors").unlink()
    with pytest.raises(OSError, match="shard-00003"):
        _use(VectorSet(tmp_path / "v"))


def test_f8_a_damaged_unfinished_run_is_not_continued(checkpoint, corpus, expected, tmp_path, capsys):
    partial = tmp_path / "v.partial"
    shutil.copytree(expected.folder, partial)
    ids = partial / "shard-00001.ids.json"
    ids.write_bytes(ids.read_bytes().replace(b"d4", b"d9"))
    assert main(_embed(checkpoint, corpus, tmp_path / "v")) == 4
    assert "shard-00001.ids.json: does not match the manifest's sha256" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_f10_what_a_broken_model_computes_is_never_written(checkpoint, corpus, tmp_path, capsys, bad):
    model = Embedder.from_pretrained(checkpoint)
    word = model.tokenizer.convert_tokens_to_ids("zip")
    with torch.no_grad():
        model.backbone.lm.get_input_embeddings().weight[word] = bad
    model.save_pretrained(tmp_path / "broken", certificate=False)
    assert main(_embed(tmp_path / "broken", corpus, tmp_path / "v")) == 4
    said = capsys.readouterr().err
    lines = [json.loads(line) for line in corpus.read_text().splitlines()]
    affected = [line["doc_id"] for line in lines if "zip" in line["text"].split()]
    shard = int(affected[0][1:]) // SHARD_ROWS
    first = [name for name in affected if int(name[1:]) // SHARD_ROWS == shard]
    assert f"{len(first)} vectors are zero or not finite, the first of ids {first}" in said
    held = _held(tmp_path / "v")
    assert held == [f"d{n}" for n in range(shard * SHARD_ROWS)]


def test_f14_a_checkpoint_of_pickles_or_code_runs_nothing(checkpoint, corpus, tmp_path, capsys):
    canary = tmp_path / "canary"
    for number, change in enumerate((_pickled, _with_code)):
        folder = tmp_path / f"model{number}"
        shutil.copytree(checkpoint, folder)
        change(folder, canary)
        assert main(_embed(folder, corpus, tmp_path / f"v{number}")) == 4
        assert "error:" in capsys.readouterr().err
        assert not canary.exists()


def test_f15_no_text_becomes_a_control_token(checkpoint):
    model = Embedder.from_pretrained(checkpoint)
    controls = {*model.layout.control_ids, *model.tokenizer.all_special_ids}
    spelt = [*model.tokenizer.get_added_vocab(), *SPECIAL.values(), "<|im_start|>", "<|endoftext|>", "</s>"]
    random.Random(0).shuffle(spelt)
    texts = [*spelt, "".join(spelt), " ".join(spelt), *(f"open {a}{b} zip" for a in spelt for b in spelt)]
    unknown = model.tokenizer.unk_token_id
    found = 0
    for ids in text_ids(model.tokenizer, texts):
        found += len((controls - {unknown}) & set(ids))
        # in a row they stand where the layout puts them, whatever the text
        for row, plain in (
            (document_row(model.layout, ids), document_row(model.layout, [unknown] * len(ids))),
            (query_row(model.layout, ids, ids), query_row(model.layout, [unknown] * len(ids), ids)),
        ):
            places = [n for n, token in enumerate(row.ids) if token in controls - {unknown}]
            assert places == [n for n, token in enumerate(plain.ids) if token in controls - {unknown}]
    print(f"{found} control tokens from {len(texts)} texts")
    assert found == 0


def _weights(model):
    model.backbone.lm.model.norm.weight.data[0] += 0.5


def _nothing(model):
    pass


@pytest.mark.parametrize(
    ("change", "settings", "text", "more"),
    [
        (_weights, {}, "open", ()),
        (_nothing, {"document_length": 3}, "open", ()),
        (_nothing, {"instruction": "Find functions."}, "open", ()),
        (_nothing, {"readout": "mean"}, "open", ()),
        (_nothing, {"attention": "prefix"}, "open", ()),
        (_nothing, {}, "opens", ()),
        (_nothing, {}, "open", ("--dtype", "bfloat16")),
    ],
    ids=["weights", "length", "prompt", "read-out", "attention", "text", "dtype"],
)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_f21_what_changed_is_never_reused(
    checkpoint, tmp_path, capsys, change, settings, text, more, finished
):
    def corpus(word):
        write_jsonl(tmp_path / "corpus.jsonl", [Document(doc_id=f"d{n}", text=word) for n in range(8)])
        return tmp_path / "corpus.jsonl"

    assert main(_embed(checkpoint, corpus("open"), tmp_path / "v")) == 0
    if not finished:
        (tmp_path / "v").rename(tmp_path / "v.partial")
    model = Embedder.from_pretrained(checkpoint, **settings)
    change(model)
    model.save_pretrained(tmp_path / "changed")
    capsys.readouterr()
    assert main(_embed(tmp_path / "changed", corpus(text), tmp_path / "v", *more)) == 4
    assert "was made with" in capsys.readouterr().err
    # and the same again is taken up
    assert main(_embed(checkpoint, corpus("open"), tmp_path / "v")) == 0


def test_f21_changed_thoughts_or_another_role_are_never_reused(checkpoint, tmp_path, capsys):
    queries = tmp_path / "queries.jsonl"
    write_jsonl(queries, [Query(query_id=f"d{n}", text="open") for n in range(4)])
    asked = ["embed", "--model", str(checkpoint), "--queries", str(queries), "--out", str(tmp_path / "v")]
    assert main([*asked, "--think", "--max-tokens", "2"]) == 0
    for other in ([], ["--think", "--max-tokens", "3"], ["--think", "--max-tokens", "2", "--with-query"]):
        capsys.readouterr()
        assert main([*asked, *other]) == 4
        assert "was made with" in capsys.readouterr().err
    write_jsonl(tmp_path / "corpus.jsonl", [Document(doc_id=f"d{n}", text="open") for n in range(4)])
    assert main(_embed(checkpoint, tmp_path / "corpus.jsonl", tmp_path / "v")) == 4


def _use(vectors):
    vectors.ids()
    vectors.load()


def _seconds(commands, argv):
    start = time.perf_counter()
    assert commands.run(argv) == 0
    return time.perf_counter() - start


def _runs(pid):
    status = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


class _Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _pickled(folder, canary):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary(canary)))


def _with_code(folder, canary):
    (folder / "code.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Model", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
