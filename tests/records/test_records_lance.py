"""Records in Lance (nox -s engines): what Parquet has, in folders that appear whole or not at all."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from o1_records import Document, InputError, Query, read_jsonl, sha256_file, write_jsonl
from o1_records.__main__ import main

lance = pytest.importorskip("lance")
pytestmark = pytest.mark.engines

QUERIES = [
    Query(query_id=f"q{n}", text=f"text {n}", instruction="" if n % 2 else "find") for n in range(2500)
]


def test_records_come_back_in_their_order_and_other_tools_read_them(tmp_path):
    path = tmp_path / "q.lance"
    assert write_jsonl(path, iter(QUERIES)) == 2500
    assert list(read_jsonl(path, Query)) == QUERIES
    assert lance.dataset(str(path)).to_table()["text"].to_pylist() == [query.text for query in QUERIES]
    # one that others wrote, changed since
    lance.write_dataset(lance.dataset(str(path)).to_table().slice(0, 3), str(path), mode="overwrite")
    assert list(read_jsonl(path, Query)) == QUERIES[:3]


def test_convert_goes_both_ways(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    for source, target in [("q.jsonl", "q.lance"), ("q.lance", "q.parquet"), ("q.parquet", "back.jsonl")]:
        assert main(["convert", "--type", "query", str(tmp_path / source), str(tmp_path / target)]) == 0
    assert (tmp_path / "back.jsonl").read_bytes() == (tmp_path / "q.jsonl").read_bytes()


@pytest.mark.parametrize(("named", "name"), [("lance", "q.columns"), ("parquet", "q.lance")])
def test_a_format_that_the_name_denies_is_refused(tmp_path, capsys, named, name):
    write_jsonl(tmp_path / "q.jsonl", QUERIES[:2])
    way = ["convert", "--type", "query", "--to", named, str(tmp_path / "q.jsonl"), str(tmp_path / name)]
    assert main(way) == 4
    assert f"{name}: is not {named} by its name" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_refused_records_leave_what_was_there(tmp_path):
    path = tmp_path / "q.lance"
    write_jsonl(path, QUERIES)
    digest = sha256_file(path)
    with pytest.raises(InputError, match=r"q\.lance: record 2501: repeated key .*; nothing was written"):
        write_jsonl(path, [*QUERIES, QUERIES[0]])
    assert sha256_file(path) == digest
    assert [each.name for each in tmp_path.iterdir()] == ["q.lance"]
    write_jsonl(path, QUERIES[:1])
    assert list(read_jsonl(path, Query)) == QUERIES[:1]
    assert sha256_file(path) != digest


def test_what_ends_a_writing_is_raised_as_it_is_and_leaves_what_was_there(tmp_path, monkeypatch):
    from o1_records import parquet

    path = tmp_path / "q.lance"
    write_jsonl(path, QUERIES[:3])
    with pytest.raises(InputError, match=r"^\S*q\.lance: repeated key \('q0',\); nothing was written$"):
        parquet.write(path, [QUERIES[0], QUERIES[0]], Query)

    def stopped():
        yield QUERIES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parquet.write(path, stopped(), Query)
    rename = Path.rename

    def fails_for_the_new(self, target):
        if self.name == "new":
            raise OSError("the disk went away")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(OSError, match="the disk went away"):
        write_jsonl(path, QUERIES[:1])
    assert list(read_jsonl(path, Query)) == QUERIES[:3]
    assert [each.name for each in tmp_path.iterdir()] == ["q.lance"]


def test_bad_rows_damage_and_missing_folders_are_named(tmp_path):
    path = tmp_path / "q.lance"
    write_jsonl(path, QUERIES[:2])
    with pytest.raises(InputError, match=r"q\.lance:1: .*query_id"):
        list(read_jsonl(path, Document))
    (data,) = (path / "data").iterdir()
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"q\.lance: "):
        list(read_jsonl(path, Query))
    with pytest.raises(FileNotFoundError, match=r"none\.lance"):
        list(read_jsonl(tmp_path / "none.lance", Query))
    with pytest.raises(InputError, match=r"Lance compresses its own columns; name it q\.lance"):
        write_jsonl(tmp_path / "q.lance.gz", QUERIES)


WRITE_SLOWLY = """
import sys, time
from o1_records import Query, write_jsonl

def queries():
    for n in range(10**9):
        yield Query(query_id=str(n), text="new")
        if n == 5000:
            print("begun", flush=True)
            time.sleep(60)

write_jsonl(sys.argv[1], queries())
"""


def test_a_killed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "q.lance"
    write_jsonl(path, QUERIES)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_SLOWLY, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    time.sleep(0.1)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert list(read_jsonl(path, Query)) == QUERIES


def test_extra_fields_beside_a_folder_are_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = '{"query": "q", "pos": ["p"], "neg": [], "type": "kept"}\n'
    Path("in.jsonl").write_text(row)
    assert main(["convert", "--from", "flagembedding", "in.jsonl", "ours.lance"]) == 0
    assert main(["convert", "--to", "flagembedding", "ours.lance", "back.jsonl"]) == 0
    assert '"type":"kept"' in Path("back.jsonl").read_text()
