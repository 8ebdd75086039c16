"""Streaming a corpus into shards: resumable at any shard size, lazily, and the same on several devices."""

import numpy as np
import pytest

from o1_model.__main__ import main
from o1_model.encoding.shards import Encoded, checked_devices, embed_stream, encode_on, write_shards
from o1_records import Document, InputError, Query, write_jsonl
from o1_records.vectors import VectorSet, VectorWriter

DOCUMENTS = [Document(doc_id=f"d{n}", text="open zip " * (n % 7)) for n in range(23)]


def _ones(chunk):
    return np.ones((len(chunk), 2), np.float32)


@pytest.fixture
def checkpoint(llama, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    return tmp_path / "model"


def test_a_rerun_may_choose_another_shard_size(tmp_path):
    encoded = []

    def encode(chunk):
        encoded.extend(document.doc_id for document in chunk)
        return _ones(chunk)

    embed_stream(VectorWriter(tmp_path / "v"), DOCUMENTS[:10], encode, shard_rows=5)
    writer = VectorWriter(tmp_path / "v")
    embed_stream(writer, DOCUMENTS, encode, shard_rows=3)
    vectors = writer.close()
    assert encoded == vectors.ids() == [document.doc_id for document in DOCUMENTS]
    assert [shard.rows for shard in vectors.manifest.shards] == [5, 5, 3, 3, 3, 3, 1]


def test_only_what_was_taken_ahead_is_in_memory(tmp_path):
    read, ahead = [], []

    def items():
        for document in DOCUMENTS:
            read.append(document.doc_id)
            yield document

    def encode_all(chunks):
        for chunk in chunks:
            ahead.append(len(read) - len(writer.ids))
            yield Encoded(_ones(chunk))

    writer = VectorWriter(tmp_path / "v")
    write_shards(writer, items(), encode_all, shard_rows=4)
    assert max(ahead) == 4


def test_what_encodes_is_closed_when_writing_fails(tmp_path):
    closed = []

    def encode_all(chunks):
        try:
            for chunk in chunks:
                yield Encoded(np.zeros((len(chunk), 2), np.float32))
        finally:
            closed.append(True)

    with pytest.raises(InputError, match="4 vectors are zero or not finite, the first of ids"):
        write_shards(VectorWriter(tmp_path / "v"), DOCUMENTS, encode_all, shard_rows=4)
    assert closed == [True]


def test_progress_shows_rows_tokens_and_the_time_that_is_left(checkpoint, tmp_path, capsys):
    out = tmp_path / "v"
    arguments = ["embed", "--model", str(checkpoint), "--corpus", str(tmp_path / "corpus.jsonl")]
    assert main([*arguments, "--out", str(out), "--shard-rows", "8"]) == 0
    shown = capsys.readouterr().err
    assert "23/23" in shown
    assert "row/s" in shown
    assert "tokens/s" in shown


def test_neither_batch_nor_shard_size_changes_a_vector(checkpoint, tmp_path):
    arguments = ["embed", "--model", str(checkpoint), "--corpus", str(tmp_path / "corpus.jsonl")]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "b"), "--batch-tokens", "9", "--shard-rows", "2"]) == 0
    one, other = VectorSet(tmp_path / "a"), VectorSet(tmp_path / "b")
    assert one.manifest.encoder == other.manifest.encoder
    assert len(other.manifest.shards) == 12
    np.testing.assert_allclose(one.load(), other.load(), atol=1e-6)


def test_two_devices_write_what_one_writes(checkpoint, tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", [Query(query_id=f"q{n}", text="sort " * n) for n in range(9)])
    arguments = ["embed", "--model", str(checkpoint), "--queries", str(tmp_path / "queries.jsonl"), "--think"]
    short = ["--max-tokens", "3", "--shard-rows", "2"]
    assert main([*arguments, *short, "--out", str(tmp_path / "a")]) == 0
    assert main([*arguments, *short, "--out", str(tmp_path / "b"), "--devices", "cpu,cpu"]) == 0
    one, other = VectorSet(tmp_path / "a"), VectorSet(tmp_path / "b")
    assert one.ids() == other.ids()
    assert one.manifest.encoder == other.manifest.encoder
    np.testing.assert_allclose(one.load(), other.load(), atol=1e-6)


def test_a_process_that_dies_is_an_error_that_says_how_to_go_on():
    # no encoder can be made by `int("cpu")`, so the process ends
    with pytest.raises(InputError, match=r"a process on cpu died .* run the same command again"):
        list(encode_on(["cpu"], int, iter([DOCUMENTS])))


@pytest.mark.parametrize("names", [["gpu"], ["cpu", "gpu"], [""]])
def test_an_unknown_device_is_refused(names):
    with pytest.raises(InputError, match=f"unknown device {names[-1]!r}"):
        checked_devices(names)


def test_a_gpu_that_is_not_here_is_refused():
    with pytest.raises(InputError, match="'cuda:99': PyTorch sees"):
        checked_devices(["cuda:99"])


def test_one_way_to_name_the_device(checkpoint, tmp_path, capsys):
    arguments = ["embed", "--model", str(checkpoint), "--corpus", "c", "--out", str(tmp_path / "v")]
    assert main([*arguments, "--device", "cpu", "--devices", "cpu,cpu"]) == 4
    assert "give device cpu or devices cpu,cpu, not both" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--think"], ["--thoughts", "t.jsonl"], ["--split", "test"]])
def test_what_is_for_queries_is_refused_for_a_corpus(checkpoint, option, tmp_path, capsys):
    command = ["embed", "--model", str(checkpoint), "--corpus", "c.jsonl", "--out", str(tmp_path / "v")]
    assert main([*command, *option]) == 4
    assert "are for queries" in capsys.readouterr().err
