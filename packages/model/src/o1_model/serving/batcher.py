"""Requests of many clients share batches: a bounded, fair queue in front of one model thread.

While a batch runs, what arrives waits; the next batch takes one input of each waiting request in
turn, so that a client with a thousand inputs does not hold up one with a single input.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class QueueFullError(Exception):
    """The queue has no room. `retry_after` is when it should have, in whole seconds."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} inputs are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Request(Generic[Kind, Item]):
    """What is left to start of one request, and where its inputs went: (batch, position) each."""

    kind: Kind
    waiting: deque[tuple[int, Item]]
    placed: list[asyncio.Future[tuple[asyncio.Future[list[object]], int]]] = field(default_factory=list)


class Batcher(Generic[Kind, Item, Answer]):
    """Groups inputs of one kind into batches and runs them, one at a time, on a thread of its own.

    `run(kind, items)` answers each item; what it raises reaches every request with an input in that
    batch. `cost(kind, item)` is in tokens; a batch holds `batch_tokens` of them, or one input that
    is larger. At most `max_waiting` inputs wait.
    """

    def __init__(
        self,
        run: Callable[[Kind, Sequence[Item]], list[Answer]],
        cost: Callable[[Kind, Item], int],
        *,
        batch_tokens: int,
        max_waiting: int,
    ) -> None:
        self._run = run
        self._cost = cost
        self._batch_tokens = batch_tokens
        self.max_waiting = max_waiting
        self.waiting = 0
        self._requests: deque[_Request[Kind, Item]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds_per_item = 0.01
        self._dispatcher: asyncio.Task[None] | None = None
        self.ran: Callable[[int], None] = lambda inputs: None  # hears the size of every batch

    @contextlib.contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Count items as waiting while they are prepared. Raises QueueFullError when they do not fit."""
        if self.waiting + count > self.max_waiting:
            raise QueueFullError(self.waiting, max(1, math.ceil(self.waiting * self._seconds_per_item)))
        self.waiting += count
        try:
            yield
        finally:
            self.waiting -= count

    async def answer(self, kind: Kind, items: Sequence[Item]) -> list[Answer]:
        """Wait for the answers to all items, in order.

        A cancelled call takes its waiting items with it. Raises QueueFullError at once when they do
        not fit.
        """
        loop = asyncio.get_running_loop()
        with self.room(len(items)):
            request = _Request(kind, deque(enumerate(items)), [loop.create_future() for _ in items])
        self._requests.append(request)
        self.waiting += len(items)
        self._arrived.set()
        if self._dispatcher is None:
            self._dispatcher = loop.create_task(self._dispatch())
        try:
            answers = []
            for place in request.placed:
                batch, position = await place
                answers.append((await asyncio.shield(batch))[position])
            return answers  # type: ignore[return-value]
        finally:
            self.waiting -= len(request.waiting)
            request.waiting.clear()

    async def alone(self, work: Callable[[], Result]) -> Result:
        """Run something on the model's thread, between two batches; it counts as one item that waits.

        Raises QueueFullError when it does not fit.
        """
        with self.room(1):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Stop; requests that still wait are cancelled. Drain by awaiting them first."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        for request in self._requests:
            for place in request.placed:
                place.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while taken := self._take():
                kind = taken[0][0].kind
                items = [item for _, _, item in taken]
                began = time.perf_counter()
                batch = loop.run_in_executor(self._thread, self._run, kind, items)
                for position, (request, number, _) in enumerate(taken):
                    if not request.placed[number].done():
                        request.placed[number].set_result((batch, position))  # type: ignore[arg-type]
                # a failed batch fails its requests, who await it; the dispatcher goes on
                await asyncio.wait({batch})
                batch.exception()
                self.ran(len(items))
                each = (time.perf_counter() - began) / len(items)
                self._seconds_per_item += 0.2 * (each - self._seconds_per_item)

    def _take(self) -> list[tuple[_Request[Kind, Item], int, Item]]:
        """Return the next batch: inputs of the oldest request's kind, one of each request in turn."""
        self._requests = deque(request for request in self._requests if request.waiting)
        taken: list[tuple[_Request[Kind, Item], int, Item]] = []
        if not self._requests:
            return taken
        kind = self._requests[0].kind
        room = self._batch_tokens
        sharing = deque(request for request in self._requests if request.kind == kind)
        while sharing:
            request = sharing.popleft()
            number, item = request.waiting[0]
            room -= self._cost(kind, item)
            if taken and room < 0:
                break
            request.waiting.popleft()
            self.waiting -= 1
            taken.append((request, number, item))
            if request.waiting:
                sharing.append(request)
        # who was served goes to the end of the line
        self._requests.rotate(-1)
        return taken
