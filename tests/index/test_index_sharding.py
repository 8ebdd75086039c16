"""Shards of a collection, built and searched in several processes, are the whole; merged, they are one."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from o1_index import build, build_from, exact_search, open_index
from o1_index.__main__ import main
from o1_index.sharding import ShardProcesses, build_shards, merged
from o1_index.vector_store import open_shards
from o1_index.vectors import Part, open_vectors
from o1_records import InputError, trec
from o1_records.kit.job import ChangedJobError
from o1_records.vectors import VectorWriter

RANDOM = np.random.default_rng(11)
ROWS = 700
VECTORS = RANDOM.integers(-6, 7, (ROWS, 8)).astype("f4") + 0.5
VECTORS[::5] = VECTORS[0]  # 140 documents that tie, in every shard
IDS = [f"d{row}" for row in RANDOM.permutation(ROWS)]
QUERIES = np.concatenate([VECTORS[:2], RANDOM.integers(-6, 7, (9, 8)).astype("f4")])
NAMES = [f"q{row}" for row in range(len(QUERIES))]


@pytest.fixture
def folder(tmp_path):
    for name, ids, vectors in (("documents", IDS, VECTORS), ("queries", NAMES, QUERIES)):
        with VectorWriter(tmp_path / name) as writer:
            for start in range(0, len(ids), 150):
                writer.write(ids[start : start + 150], vectors[start : start + 150])
            writer.close()
    lines = (f'{{"doc_id": "{name}", "row": {row}}}\n' for row, name in enumerate(IDS))
    (tmp_path / "payloads.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 700])
def test_parts_hold_every_vector_once_and_in_order(folder, parts):
    source = open_vectors(folder / "documents")
    all_parts = [Part(source, number, parts) for number in range(parts)]
    assert [name for part in all_parts for name in part.ids()] == IDS
    assert np.array_equal(np.concatenate([part.load() for part in all_parts]), VECTORS)
    assert max(map(len, all_parts)) - min(map(len, all_parts)) <= 1
    assert len({part.digest() for part in all_parts}) == parts
    for part in all_parts[:3]:
        whole = list(part.shards())
        for start in range(len(whole) + 1):
            rest = [ids for ids, _ in part.shards(start)]
            assert rest == [ids for ids, _ in whole[start:]]


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_give_the_hits_of_the_whole_ties_included(folder, processes):
    built = build_shards(
        folder / "documents",
        folder / "shards",
        shards=3,
        processes=processes,
        payloads=folder / "payloads.jsonl",
    )
    assert [path.name for path in built] == ["shard-00000", "shard-00001", "shard-00002"]
    expected = {k: list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=k)) for k in (1, 60, 139, 140, 200)}
    for mmap in (False, True):
        with ShardProcesses(built, processes=processes, mmap=mmap) as together:
            for k, hits in expected.items():
                assert list(together.search(QUERIES, NAMES, k=k)) == hits
            excluded = {"q0": set(IDS[:300])}
            assert list(together.search(QUERIES, NAMES, k=9, excluded=excluded)) == list(
                exact_search((IDS, VECTORS), (NAMES, QUERIES), k=9, excluded=excluded)
            )
            few = together.search(QUERIES, NAMES, k=9, where="row < 40", only=set(IDS[20:]))
            assert list(few) == list(exact_search((IDS[20:40], VECTORS[20:40]), (NAMES, QUERIES), k=9))
            assert (together.count(), together.dim) == (ROWS, 8)
            with pytest.raises(InputError, match="a function cannot go to another process"):
                together.search(QUERIES, NAMES, k=9, where=lambda payload: True)
            with pytest.raises(InputError, match="2 dimensions, the index has 8"):
                together.search(np.eye(2), ["a", "b"], k=1)
    assert list(open_shards(built).search(QUERIES, NAMES, k=60)) == expected[60]


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "IVF8,SQ8", "OPQ4_8,IVF8,PQ4x4fs", "SQ8"])
def test_merged_shards_find_what_the_shards_find(folder, factory):
    built = build_shards(
        folder / "documents",
        folder / "shards",
        shards=3,
        factory=factory,
        parameters="nprobe=8" if "IVF" in factory else "",
        payloads=folder / "payloads.jsonl",
    )
    shards = open_shards(built)
    one = merged(built)
    assert sorted(one.documents) == sorted(IDS)
    mine, theirs = (list(store.search(QUERIES, NAMES, k=30)) for store in (one, shards))
    assert [(hit.query_id, hit.doc_id) for hit in mine] == [(hit.query_id, hit.doc_id) for hit in theirs]
    assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in theirs], rel=1e-6)
    assert one.fetch(IDS).payloads == [{"row": row} for row in range(ROWS)]
    one.save(folder / "one")
    again = open_index(folder / "one")
    assert list(again.search(QUERIES, NAMES, k=30)) == list(one.search(QUERIES, NAMES, k=30))


def test_changed_shards_are_merged_as_they_are(folder):
    built = build_shards(folder / "documents", folder / "shards", shards=2, factory="IVF4,Flat")
    index = open_index(built[1])
    index.delete(IDS[600:650])
    index.upsert(VECTORS[:1] * 3, ["new"])
    index.save(built[1])
    one = merged(built)
    assert sorted(one.documents) == sorted([*IDS[:600], *IDS[650:], "new"])
    one.set_parameters("nprobe=4")
    shards = open_shards(built)
    for each in shards.indexes:
        each.set_parameters("nprobe=4")
    assert list(one.search(QUERIES, NAMES, k=50)) == list(shards.search(QUERIES, NAMES, k=50))


def test_indexes_that_were_built_otherwise_are_not_merged(folder):
    for name, vectors, ids, options, message in [
        ("trained", VECTORS[:300], IDS[:300], {"factory": "IVF4,Flat"}, "trained on other vectors"),
        ("flat", VECTORS[:9], IDS[:9], {}, "merge indexes that were built alike"),
        ("l2", VECTORS[:300], IDS[:300], {"factory": "IVF4,Flat", "metric": "l2"}, "built alike"),
    ]:
        build(VECTORS[300:], IDS[300:], factory="IVF4,Flat").save(folder / f"{name}-first")
        build(vectors, ids, **options).save(folder / name)
        with pytest.raises(InputError, match=message):
            merged([folder / f"{name}-first", folder / name])
    graphs = build_shards(folder / "documents", folder / "graphs", shards=2, factory="HNSW8")
    with pytest.raises(InputError, match="graphs cannot be merged"):
        merged(graphs)
    build(np.eye(3), list("abc")).save(folder / "abc")
    build(np.eye(3), list("cde")).save(folder / "cde")
    with pytest.raises(InputError, match="duplicate id 'c'"):
        merged([folder / "abc", folder / "cde"])
    with (
        ShardProcesses([folder / "abc", folder / "cde"], processes=2) as together,
        pytest.raises(InputError, match=rf"document 'c' is in {folder}/abc and in {folder}/cde; a document"),
    ):
        together.search(np.eye(3), list("xyz"), k=3)
    with pytest.raises(InputError, match=rf"{folder}/abc: given twice"):
        ShardProcesses([folder / "abc", folder / "abc"], processes=2)


def test_machines_that_share_a_folder_build_its_shards_between_them(folder):
    source, out = folder / "documents", folder / "shards"
    assert build_shards(source, out, shards=3, factory="IVF4,Flat", only=[]) == []
    trained = open_index(out / "trained")
    assert trained.count() == 0
    build_shards(source, out, shards=3, factory="IVF4,Flat", only=[2])
    build_shards(source, out, shards=3, factory="IVF4,Flat", only=[0, 1])
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*/**/*")}
    assert build_shards(source, out, shards=3, factory="IVF4,Flat") == sorted(out.glob("shard-*"))
    assert {path: path.stat().st_mtime_ns for path in out.glob("shard-*/**/*")} == before
    with pytest.raises(ChangedJobError, match="shards '3', this run has shards '4'"):
        build_shards(source, out, shards=4, factory="IVF4,Flat")
    build_shards(source, out, shards=4, factory="IVF4,Flat", new_job=True)
    assert len(list((folder / "shards.old1").glob("shard-*"))) == 3
    for shards, only, message in [(701, None, "cannot be cut into 701"), (4, [4], r"no shards \[4\] of 4")]:
        with pytest.raises(InputError, match=message):
            build_shards(source, out, shards=shards, only=only)
    (folder / "mine").mkdir()
    (folder / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds no shards; choose another name"):
        build_shards(source, folder / "mine", shards=2)


def test_the_commands_build_merge_and_search_in_processes(folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["shards", "--vectors", "documents", "--out", "shards", "--shards", "2", "--processes", "2"]
    done = subprocess.run([sys.executable, "-m", "o1_index", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "shards: 2 of 2 shards are built" in done.stderr
    names = ["shards/shard-00000", "shards/shard-00001"]
    assert main(["merge", "--index", *names, "--out", "one"]) == 0
    search = ["search", "--vectors", "queries", "--k", "20"]
    assert main([*search, "--index", *names, "--processes", "2", "--out", "two.txt"]) == 0
    assert main([*search, "--index", "one", "--out", "one.txt"]) == 0
    runs = [list(trec.read_run(folder / name)) for name in ("one.txt", "two.txt")]
    assert runs[0] == runs[1] == list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=20))
    assert main([*search, "--index", "one", "--processes", "2", "--out", "x.txt"]) == 4


def test_an_index_like_another_is_trained_as_that_one(folder):
    source = open_vectors(folder / "documents")
    first = build_from(source, factory="IVF8,Flat", parameters="nprobe=8")
    other = build_from(Part(source, 1, 2), like=first, parameters="nprobe=8")
    assert other.settings.factory == "IVF8,Flat"
    centres = [index.engine.quantizer.reconstruct_n(0, 8) for index in (first, other)]
    assert np.array_equal(*centres)
    assert list(itertools.islice(other.documents, 3)) == IDS[350:353]


@pytest.mark.parametrize("factory", ["IVF8,PQ4x4fs", "OPQ4_8,IVF8,PQ4x4fs", "IVF8,PQ4x4fs,Refine(SQ8)"])
def test_codes_of_fast_scan_are_read_back_from_a_file(tmp_path, factory):
    index = build(VECTORS, IDS, factory=factory, parameters="nprobe=8")
    index.save(tmp_path / "index")
    for mmap in (False, True):
        again = open_index(tmp_path / "index", mmap=mmap)
        assert np.array_equal(again.fetch(IDS).vectors, index.fetch(IDS).vectors)
