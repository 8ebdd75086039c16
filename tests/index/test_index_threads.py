"""Threads and forks: searches see snapshots while somebody changes the index, and FAISS works in a child."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from o1_index import build
from o1_index.threads import ManyReadersOneWriter

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(2000, 16)).astype("f4")
QUERIES = RANDOM.normal(size=(20, 16)).astype("f4")
IDS, NAMES = [f"d{row}" for row in range(2000)], [f"q{row}" for row in range(20)]


class Readers:
    """Threads that call `read` until the block ends; what one of them raised fails the test."""

    def __init__(self, count, read):
        self.errors, self.reads, self._done = [], 0, threading.Event()
        self._read = read
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def _run(self):
        while not self._done.is_set():
            try:
                self._read()
            except Exception as error:  # noqa: BLE001 - told in the test's own thread
                self.errors.append(repr(error))
                return
            self.reads += 1

    def __enter__(self):
        [thread.start() for thread in self._threads]
        return self

    def __exit__(self, *_):
        self._done.set()
        [thread.join() for thread in self._threads]
        assert self.errors == []
        assert self.reads > 0


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW8,Flat"])
@pytest.mark.parametrize("recent", [4096, 100])
def test_documents_that_are_added_meanwhile_change_no_answer_that_they_are_not_in(
    factory, recent, monkeypatch
):
    monkeypatch.setattr("o1_index.index.RECENT", recent)
    # as good as exact, so that what an approximate engine finds does not change as it grows
    parameters = {"Flat": "", "IVF8,Flat": "nprobe=8", "HNSW8,Flat": "efSearch=8000"}[factory]
    index = build(VECTORS, IDS, factory=factory, parameters=parameters, metric="cosine")
    expected = index.search(QUERIES, NAMES, k=10).arrays()[0].tolist()

    def read():
        assert index.search(QUERIES, NAMES, k=10).arrays()[0].tolist() == expected

    more = RANDOM.normal(size=(2000, 16)).astype("f4")
    unit = more / np.linalg.norm(more, axis=1, keepdims=True)
    queries = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True)
    tenth = index.search(QUERIES, NAMES, k=10).scores[:, 9:]
    more = more[(queries @ unit.T < tenth - 0.01).all(axis=0)][:1200]
    assert len(more) == 1200
    with Readers(2, read):
        for start in range(0, 1200, 40):
            index.add(more[start : start + 40], [f"n{row}" for row in range(start, start + 40)])


@pytest.mark.parametrize("recent", [4096, 10])
def test_a_search_sees_a_change_whole_or_not_at_all(recent, monkeypatch):
    monkeypatch.setattr("o1_index.index.RECENT", recent)
    base = RANDOM.integers(1, 9, size=(50, 16)).astype("f4")
    query = np.ones((1, 16), dtype="f4")
    sums = base.sum(axis=1)
    index = build(base, IDS[:50])

    def read():
        hits = index.search(query, ["q"], k=50)
        scores = dict(zip(hits.arrays()[0][0].tolist(), hits.scores[0].tolist(), strict=True))
        # all documents are of one round: their scores are the sums times one factor
        assert len({scores[f"d{row}"] / sums[row] for row in range(50)}) == 1

    with Readers(2, read):
        for factor in [1, 2, 4, 8] * 8:
            index.upsert(base * factor, IDS[:50])
            if recent == 10:
                index.compact()
    assert index.count() == 50


def test_documents_are_added_and_removed_by_many_threads_at_once():
    index = build(VECTORS[:10], IDS[:10])

    def change(number):
        mine = [f"t{number}-{row}" for row in range(20)]
        for name in mine:
            index.add(VECTORS[:1], [name])
        index.remove(mine[:15])

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    left = {*IDS[:10], *(f"t{number}-{row}" for number in range(6) for row in range(15, 20))}
    assert set(index.documents) == left
    assert set(index.search(QUERIES[:1], ["q"], k=100).arrays()[0][0].tolist()) == left


def test_a_writer_waits_for_readers_and_goes_before_later_ones():
    lock, order = ManyReadersOneWriter(), []
    reading, leave = threading.Event(), threading.Event()

    def reader():
        with lock.reading():
            reading.set()
            leave.wait(10)
            order.append("reader")

    def writer():
        with lock.writing():
            order.append("writer")

    def late():
        with lock.reading():
            order.append("late reader")

    threads = [threading.Thread(target=target) for target in (reader, writer, late)]
    threads[0].start()
    assert reading.wait(10)
    threads[1].start()
    while not lock._waiting:
        pass
    threads[2].start()
    leave.set()
    [thread.join(10) for thread in threads]
    assert order == ["reader", "writer", "late reader"]


FORK = """
import os, sys, threading
import numpy as np
from o1_index import build, open_index
random = np.random.default_rng(0)
vectors = random.normal(size=(5000, 32)).astype("f4")
index = build(vectors, [f"d{row}" for row in range(5000)])
index.save(sys.argv[1])
names = [f"q{row}" for row in range(64)]
def answer(index):
    return index.search(vectors[:64], names, k=5).arrays()[0].tolist()
expected = answer(index)
stop = threading.Event()
def busy():
    while not stop.is_set():
        answer(index)
thread = threading.Thread(target=busy)
if sys.argv[2] == "busy":
    thread.start()
for attempt in range(3):
    child = os.fork()
    if not child:
        same = answer(index) == answer(open_index(sys.argv[1])) == expected
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert answer(index) == expected
stop.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("what", ["idle", "busy"])
def test_a_child_that_was_forked_after_a_search_searches_too(tmp_path, what):
    words = [sys.executable, "-c", FORK, str(tmp_path / "index"), what]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


NO_PAUSE = """
import os
import numpy as np
from o1_index import build, threads
from o1_records import InputError
threads._pause_openmp = lambda: False
index = build(np.eye(4), list("abcd"))
child = os.fork()
if not child:
    try:
        index.search(np.eye(4), list("abcd"), k=1)
    except InputError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_where_openmp_cannot_be_paused_a_child_is_refused_and_does_not_hang():
    words = [sys.executable, "-c", NO_PAUSE]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "this process was forked after FAISS had been used" in done.stdout
