"""A server is asked as fast as it takes it."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from o1_records import InputError, Query
from o1_synth import ChatExpert, Retry, Throttle, think

QUERIES = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(60)]


def test_a_refusal_halves_what_is_in_flight_once_and_answers_widen_it_again():
    async def story():
        throttle = Throttle()
        turns = [throttle.turn(1) for _ in range(16)]
        began = [await turn.__aenter__() for turn in turns]
        assert throttle.window == math.inf
        for start in began:
            throttle.refused(start, 0.0)
        assert throttle.window == 8
        for turn in turns:
            await turn.__aexit__(None, None, None)
        for _ in range(8):
            throttle.answered(0, 0)
        assert 8.9 < throttle.window < 9
        for _ in range(200):
            throttle.answered(0, 0)
        assert throttle.window == math.inf

    asyncio.run(story())


def test_no_more_than_the_window_are_in_flight():
    async def story():
        throttle = Throttle()
        throttle.window = 3.0
        most = 0

        async def request():
            nonlocal most
            async with throttle.turn(1):
                most = max(most, throttle.in_flight)
                await asyncio.sleep(0.001)

        await asyncio.gather(*(request() for _ in range(30)))
        assert most == 3
        assert throttle.in_flight == 0

    asyncio.run(story())


def test_what_a_server_wants_to_wait_holds_every_request_back():
    async def story():
        throttle = Throttle()
        async with throttle.turn(1) as began:
            throttle.refused(began, 0.1)
        async with throttle.turn(1) as later:
            assert later - began >= 0.1

    asyncio.run(story())


@pytest.mark.parametrize("limits", [{"requests_per_minute": 3000}, {"tokens_per_minute": 30_000}])
def test_requests_and_tokens_a_minute_are_spread_evenly(limits):
    async def story():
        throttle = Throttle(**limits)
        began = time.monotonic()
        for _ in range(6):  # each costs 10 tokens: 20 ms by either limit
            async with throttle.turn(1000):
                pass
            throttle.answered(1000, 10)
        assert time.monotonic() - began >= 0.099

    asyncio.run(story())


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(InputError, match="requests_per_minute must be above 0, got 0"):
        Throttle(0)


def test_a_server_of_small_capacity_is_asked_less_and_every_sample_is_answered(serve, tmp_path):
    server = serve(capacity=4, delay=(0.005, 0.01))
    retry = Retry(attempts=1, pause=0.005)  # a refusal is no attempt that failed
    expert = ChatExpert(server.base_url, "echo", retry=retry)
    summary = think(QUERIES, expert, out=tmp_path / "t.jsonl", samples=3, concurrency=32)
    assert (summary.thoughts, summary.failed) == (180, 0)
    assert server.refused < 180
    assert sum(server.answered.values()) == 180
    # the same expert in another event loop
    more = think(QUERIES, expert, out=tmp_path / "t.jsonl", samples=5, concurrency=32)
    assert (more.thoughts, more.failed) == (300, 0)
