"""Clients share batches, in fair turns; a bounded queue; one failure or one departure touches nobody else."""

import asyncio
import threading

import pytest

from o1_model.serving.batcher import Batcher, QueueFullError


class Recorder:
    """Squares numbers; the first batch waits until `go` is set, so that others can queue up."""

    def __init__(self):
        self.go = threading.Event()
        self.batches = []

    def __call__(self, kind, items):
        self.go.wait(timeout=30)
        self.batches.append((kind, list(items)))
        if -1 in items:
            raise ZeroDivisionError("minus one")
        return [item * item for item in items]


def run(scenario, *, batch_tokens=8, max_waiting=100):
    """Run a scenario(batcher, recorder) to its end."""

    async def main():
        recorder = Recorder()
        batcher = Batcher(recorder, lambda kind, item: 1, batch_tokens=batch_tokens, max_waiting=max_waiting)
        try:
            return await scenario(batcher, recorder)
        finally:
            recorder.go.set()
            await batcher.close()

    return asyncio.run(asyncio.wait_for(main(), 30))


async def queued(batcher, count):
    """Wait until so many inputs are waiting."""
    while batcher.waiting != count:
        await asyncio.sleep(0.001)


def test_answers_come_in_the_order_of_the_items_whatever_the_batches():
    async def scenario(batcher, recorder):
        recorder.go.set()
        return await asyncio.gather(*[batcher.answer("a", range(n, n + 13)) for n in range(7)])

    expected = [[i * i for i in range(n, n + 13)] for n in range(7)]
    assert run(scenario) == expected


def test_requests_that_wait_share_the_next_batch():
    async def scenario(batcher, recorder):
        first = asyncio.create_task(batcher.answer("a", [0]))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.answer("a", [n])) for n in range(1, 6)]
        await queued(batcher, 5)
        recorder.go.set()
        await asyncio.gather(first, *others)
        return recorder.batches

    assert run(scenario) == [("a", [0]), ("a", [1, 2, 3, 4, 5])]


def test_a_large_request_does_not_hold_up_a_small_one():
    async def scenario(batcher, recorder):
        large = asyncio.create_task(batcher.answer("a", range(40)))
        await queued(batcher, 32)
        small = asyncio.create_task(batcher.answer("a", [99]))
        await queued(batcher, 33)
        recorder.go.set()
        await asyncio.gather(large, small)
        return next(number for number, (_, items) in enumerate(recorder.batches) if 99 in items)

    assert run(scenario) == 1


def test_inputs_of_different_kinds_are_never_in_one_batch_and_none_starves():
    async def scenario(batcher, recorder):
        recorder.go.set()
        await asyncio.gather(*[batcher.answer(kind, range(20)) for kind in "abab"])
        return recorder.batches

    batches = run(scenario)
    assert sorted(len(items) for kind, items in batches) == [8] * 10
    assert {kind for kind, _ in batches} == {"a", "b"}


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def scenario(batcher, recorder):
        running = asyncio.create_task(batcher.answer("a", range(8)))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(batcher.answer("a", range(10)))
        await queued(batcher, 10)
        with pytest.raises(QueueFullError, match="10 inputs are waiting") as refused:
            await batcher.answer("a", [1])
        recorder.go.set()
        await asyncio.gather(running, waiting)
        assert await batcher.answer("a", [3]) == [9]
        return refused.value.retry_after

    assert run(scenario, max_waiting=10) >= 1


def test_a_client_that_leaves_takes_its_waiting_inputs_with_it():
    async def scenario(batcher, recorder):
        running = asyncio.create_task(batcher.answer("a", [0]))
        await asyncio.sleep(0.01)
        leaving = asyncio.create_task(batcher.answer("a", range(50, 60)))
        staying = asyncio.create_task(batcher.answer("a", [7]))
        await queued(batcher, 11)
        leaving.cancel()
        await queued(batcher, 1)
        recorder.go.set()
        assert await asyncio.gather(running, staying) == [[0], [49]]
        return recorder.batches

    assert run(scenario) == [("a", [0]), ("a", [7])]


def test_a_batch_that_fails_fails_its_requests_and_the_next_one_works():
    async def scenario(batcher, recorder):
        recorder.go.set()
        with pytest.raises(ZeroDivisionError, match="minus one"):
            await batcher.answer("a", [-1, *range(30)])
        return batcher.waiting, await batcher.answer("a", [5])

    assert run(scenario) == (0, [25])


def test_what_is_being_prepared_takes_places_in_the_queue():
    async def scenario(batcher, recorder):
        recorder.go.set()
        with batcher.room(8):
            with pytest.raises(QueueFullError, match="8 inputs are waiting"):
                await batcher.answer("a", range(3))
            assert await batcher.answer("a", [2]) == [4]
        return await batcher.answer("a", range(3))

    assert run(scenario, max_waiting=10) == [0, 1, 4]


def test_closing_cancels_what_nobody_will_answer():
    async def scenario(batcher, recorder):
        running = asyncio.create_task(batcher.answer("a", [1]))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(batcher.answer("a", [2]))
        await queued(batcher, 1)
        await batcher.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        running.cancel()
        return True

    assert run(scenario)
