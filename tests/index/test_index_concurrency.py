"""Several processes and threads on one index: writers, builders, readers, and changes under a mapping."""

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from o1_index import build, build_from, exact_search, open_index, place
from o1_index.store.versions import alone, prune
from o1_records import InputError
from o1_records.kit.job import Lock
from o1_records.vectors import VectorSet, VectorWriter

VECTORS = np.random.default_rng(1).normal(size=(3000, 8)).astype(np.float32)
IDS = [f"d{i}" for i in range(3000)]


@pytest.fixture
def saved(tmp_path):
    build(VECTORS[:1000], IDS[:1000]).save(tmp_path / "index")
    return tmp_path / "index"


def first(index):
    return [hit.doc_id for hit in index.search(VECTORS[:4], list("abcd"), k=5)]


def test_of_writers_at_the_same_time_one_succeeds_and_its_files_are_not_mixed(saved):
    for attempt in range(8):
        before = len(open_index(saved))
        writers = [open_index(saved) for _ in range(3)]
        for number, writer in enumerate(writers):
            names = [f"{attempt}-{number}-{i}" for i in range(100 * (number + 1))]
            writer.add(np.full((len(names), 8), number + 1.0), names)
        barrier, refused = threading.Barrier(3), []

        def save(writer, barrier=barrier, refused=refused):
            barrier.wait()
            try:
                writer.save(saved)
            except InputError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=save, args=(writer,)) for writer in writers]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(refused) == 2
        assert all("repeat the change" in message for message in refused)
        index = open_index(saved)
        number = (len(index) - before) // 100 - 1
        assert set(index.documents) == set(writers[number].documents)
        assert index.fetch([list(index.documents)[-1]]).vectors.tolist() == [[number + 1.0] * 8]


def test_a_second_writer_of_this_process_is_refused_while_the_first_is_at_work(saved):
    writer = open_index(saved)
    writer.add(VECTORS[1000:1001], ["new"])
    before = sorted(path.relative_to(saved) for path in saved.rglob("*"))
    with alone(saved):
        with pytest.raises(InputError, match=rf"index: process {os.getpid()} on .* is at work there; wait"):
            writer.save(saved)
        assert len(open_index(saved)) == 1000
    assert sorted(path.relative_to(saved) for path in saved.rglob("*")) == before
    writer.save(saved)
    assert len(open_index(saved)) == 1001


def test_of_two_new_indexes_of_one_name_one_is_published(tmp_path):
    indexes = [build(VECTORS[:2000], IDS[:2000]), build(VECTORS[1000:], IDS[1000:])]
    barrier, refused = threading.Barrier(2), []

    def save(index):
        barrier.wait()
        try:
            index.save(tmp_path / "index")
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=save, args=(index,)) for index in indexes]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(refused) == 1
    assert re.search("exists already|at work there", refused[0])
    assert first(open_index(tmp_path / "index")) in [first(index) for index in indexes]


def test_readers_open_whole_versions_while_a_writer_publishes_and_prunes(saved):
    stop, errors, opened = threading.Event(), [], set()

    def read():
        while not stop.is_set():
            try:
                index = open_index(saved, mmap=len(opened) % 2 == 0)
                assert index.engine.ntotal == len(index.documents.ids)
                opened.add(index.opened.version.number)
            except (InputError, OSError) as error:
                errors.append(repr(error))

    reader = threading.Thread(target=read)
    reader.start()
    writer = open_index(saved)
    for number in range(40):
        writer.add(VECTORS[:1] + number, [f"new{number}"])
        writer.save(saved)
        prune(saved)
    stop.set()
    reader.join()
    assert errors == []
    assert len(opened) > 3


@pytest.mark.parametrize("change", ["flip", "cut"])
def test_a_file_that_changes_under_a_mapping_is_noticed_before_the_next_answer(saved, change):
    index = open_index(saved, mmap=True)
    expected = first(index)
    path = saved / "v000001" / "index.faiss"
    whole = path.read_bytes()
    with open(path, "r+b") as file:
        if change == "cut":  # reading behind the end would kill the process (SIGBUS)
            file.truncate(len(whole) // 2)
        else:
            file.seek(len(whole) - 9)
            file.write(bytes([whole[-9] ^ 1]))
    with pytest.raises(InputError, match=r"index\.faiss: damaged"):
        first(index)
    with open(path, "r+b") as file:
        file.write(whole)
    assert first(index) == expected
    os.replace(saved / "v000001" / "ids.safetensors", path)  # noqa: PTH105 - another file by this name: not mapped
    assert first(index) == expected


def test_two_indexes_that_share_an_engine_do_not_mix_their_rows():
    index = build(VECTORS[:10], IDS[:10])
    placed = place(index, "auto")
    expected = first(index)
    placed.add(VECTORS[10:11], ["new"])
    assert first(index) == expected  # what was added lies beside the engine
    placed.compact()
    for use in (lambda: first(index), index.compact):
        with pytest.raises(InputError, match="another index that shares the engine was changed"):
            use()
    found = [hit.doc_id for hit in placed.search(VECTORS[:4], list("abcd"), k=3)]
    oracle = exact_search(([*IDS[:10], "new"], VECTORS[:11]), (list("abcd"), VECTORS[:4]), k=3)
    assert found == [hit.doc_id for hit in oracle]


def command(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "o1_index", *words], cwd=folder, capture_output=True, text=True
    )


def test_a_second_build_of_the_same_index_is_refused_naming_the_first(tmp_path):
    writer = VectorWriter(tmp_path / "vectors")
    writer.write(IDS[:100], VECTORS[:100])
    writer.close()
    words = ["build", "--vectors", "vectors", "--out", "index"]
    (tmp_path / "index.partial").mkdir()
    with Lock(tmp_path / "index.partial" / "lock"):
        done = command(tmp_path, *words)
        with pytest.raises(InputError, match=r"index\.partial: process \d+ on .* is at work there"):
            build_from(VectorSet(tmp_path / "vectors"), out=tmp_path / "index")
    assert done.returncode == 4
    assert f"process {os.getpid()} on" in done.stderr
    assert command(tmp_path, *words, "--factory", "Nonsense").returncode == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors"]
    assert command(tmp_path, *words).returncode == 0
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["current.json", "v000001"]
