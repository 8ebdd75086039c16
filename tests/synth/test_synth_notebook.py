"""`think` where an event loop runs already, as in a notebook."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import threading

import pytest

from o1_records import InputError, Query, Source
from o1_synth import DocstringExpert, Reply, think

QUERIES = [Query(query_id=f"q{n}", text=f"query {n}") for n in range(5)]


def in_a_running_loop(function):
    """Call a function as a notebook does: from a coroutine of a loop that leaves SIGINT alone."""

    async def cell():
        return function()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        return loop.run_until_complete(cell())


class InterruptedExpert:
    """Thinks at once, but presses Ctrl-C and waits in vain when asked about the last query."""

    source = Source(model="people")
    closed = False

    async def think(self, query, sample, draw=0):
        if query == QUERIES[-1]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.sleep(60)
        return Reply(text=f"about {query.text}", source=self.source)

    async def close(self):
        self.closed = True


def test_inside_a_running_loop_it_writes_what_it_writes_outside(tmp_path):
    expert = DocstringExpert({query.query_id: f"About {query.text}." for query in QUERIES})
    outside = think(QUERIES, expert, out=tmp_path / "outside.jsonl", samples=2)
    inside = in_a_running_loop(lambda: think(QUERIES, expert, out=tmp_path / "inside.jsonl", samples=2))
    assert (inside.thoughts, inside.exhausted) == (outside.thoughts, outside.exhausted) == (5, 5)
    assert (tmp_path / "inside.jsonl").read_bytes() == (tmp_path / "outside.jsonl").read_bytes()


@pytest.mark.parametrize("call", [in_a_running_loop, lambda function: function()])
def test_ctrl_c_ends_it_and_keeps_what_is_finished(tmp_path, call):
    out = tmp_path / "t.jsonl"
    expert = InterruptedExpert()
    with pytest.raises(KeyboardInterrupt):
        call(lambda: think(QUERIES, expert, out=out, samples=1, concurrency=2))
    assert expert.closed
    assert not out.exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "t.jsonl.job" / "journal.sqlite")) as journal:
        kept = journal.execute("SELECT key FROM outcome WHERE reason = ''").fetchall()
    assert sorted(kept) == [("q0",), ("q1",), ("q2",), ("q3",)]


def test_an_error_inside_a_running_loop_is_the_callers(tmp_path):
    class Hopeless(InterruptedExpert):
        async def think(self, query, sample, draw=0):
            raise InputError("the key is wrong")

    with pytest.raises(InputError, match="the key is wrong"):
        in_a_running_loop(lambda: think(QUERIES, Hopeless(), out=tmp_path / "t.jsonl"))
