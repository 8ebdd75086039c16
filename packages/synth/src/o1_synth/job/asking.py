"""Asking: workers of one event loop take requests from one list, and books keep what comes of each.

The same in the process of a command, whose books are the journal, and in each process of a cluster, whose
books are the notes of a block.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from o1_records import InputError, Record
from o1_synth.checks import Checking, Known
from o1_synth.expert import ExpertOn, NoThought, Reply
from o1_synth.job.draw import Drawing, Drawn

RecordT = TypeVar("RecordT", bound=Record)
RecordIn = TypeVar("RecordIn", bound=Record, contravariant=True)

_COMMIT_EVERY, _LONGEST_PAUSE = 0.1, 1.0  # seconds
_COMMIT_SHARE = 0.05  # of the time, at most, the disk keeps all answers waiting
_VARIABLE = re.compile(r"[\w-]*\d[\w-]*")  # a number or an id in an error, which is another every time


class Books(Protocol[RecordIn]):
    """What happened so far."""

    def begin(self, record: RecordIn, samples: int) -> AbstractContextManager[Known]:
        """Count a request that begins; the context holds what is known of its record until it is settled."""

    def end(self, drawn: Drawn, *, more: bool) -> None:
        """Keep what came of a request; `more` says whether there are others. Raises InputError to end all."""

    def commit(self, *, last: bool = False) -> None:
        """Write to the disk what `end` was told; the `last` time, even if that was nothing."""


@dataclass
class _Request(Generic[RecordT]):
    """A request that is not settled: what is drawn, the replies to be judged, what holds the known texts."""

    drawing: Drawing[RecordT]
    held: AbstractContextManager[Known]
    replies: Sequence[Reply | NoThought] = ()


@dataclass
class Asking(Generic[RecordT]):
    """Asks an expert for all that remains, many requests at a time, and has every outcome kept.

    A worker goes on to its next request before the answer to its last one is judged. Answers are judged in
    the order they came in, one at a time, between whatever else the loop has to do; as many as there are
    workers may wait for it.

    Args:
        expert: whom to ask.
        checks: what every text has to pass.
        redraws: how often a sample that fails a check is drawn again.
        books: keep the outcomes.
        todo: records, the numbers of their samples, and the number of the draw that is next.
        stopped: whether to finish what is in flight and begin nothing more.
        deadline: seconds until what is in flight is given up.
    """

    expert: ExpertOn[RecordT]
    checks: Checking[RecordT] | None
    redraws: int
    books: Books[RecordT]
    todo: Iterator[tuple[RecordT, tuple[int, ...], int]]
    stopped: Callable[[], bool]
    deadline: float | None = None

    async def work(self, concurrency: int) -> None:
        """Ask until everything is asked for, the deadline has come or it is stopped."""
        self._until = None if self.deadline is None else asyncio.get_running_loop().time() + self.deadline
        self._all_asked, self._unsettled, self._most_waiting = False, 0, concurrency
        self._answered: deque[_Request[RecordT]] = deque()
        self._again: deque[_Request[RecordT]] = deque()
        self._news, self._settled = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(self._worker()) for _ in range(concurrency)]
        asked: asyncio.Future[Any] = asyncio.gather(*tasks)
        tasks.append(asyncio.create_task(self._keep()))
        ends: set[asyncio.Future[Any]] = {asked, tasks[-1]}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(asked, *tasks, return_exceptions=True)
            try:
                # an error ends it, or Ctrl-C, and goes on to the caller; what was answered is kept, unless a
                # part of it is to be drawn again
                while self._answered:
                    with contextlib.suppress(Exception):
                        self._settle()
            finally:
                self.books.commit(last=True)

    async def _worker(self) -> None:
        """Take one request after another from the list that all workers share."""
        while request := await self._next():
            request.replies = await request.drawing.ask(self._until)
            self._answered.append(request)
            self._news.set()
            failed = any(isinstance(it, NoThought) for it in request.replies)  # which may end the run
            while self._answered and (failed or len(self._answered) > self._most_waiting):
                self._settle()
            await asyncio.sleep(0)  # an expert that never waits must not keep the others waiting

    async def _next(self) -> _Request[RecordT] | None:
        """Return what to ask for next, None where nothing is left; waits where some may be drawn again."""
        while True:
            if self._again:
                return self._again.popleft()
            if not self._over() and (request := next(self.todo, None)):
                return self._begun(*request)
            self._all_asked = True
            if not self._unsettled:
                return None
            self._settled.clear()
            await self._settled.wait()

    def _begun(self, record: RecordT, samples: tuple[int, ...], first: int) -> _Request[RecordT]:
        held = self.books.begin(record, len(samples))
        known = held.__enter__()  # until it is settled, which another task does
        self._unsettled += 1
        drawing = Drawing(
            self.expert,
            record,
            samples,
            checks=self.checks,
            redraws=self.redraws,
            first=first,
            known=known,
        )
        return _Request(drawing, held)

    async def _keep(self) -> None:
        """Settle what was answered, one request in each turn of the loop, and commit, until it is cancelled.

        A transaction waits for the disk, and all answers for it, so it begins when no answer waits, or late.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + _COMMIT_EVERY
        loop.call_at(due, self._news.set)
        while True:
            began = loop.time()
            if began >= due + (_COMMIT_EVERY if self._answered else 0):
                self.books.commit()
                took = loop.time() - began
                due = loop.time() + min(max(_COMMIT_EVERY, took / _COMMIT_SHARE), _LONGEST_PAUSE)
                loop.call_at(due, self._news.set)
            elif self._answered:
                self._settle()
                await asyncio.sleep(0)
            else:
                self._news.clear()
                await self._news.wait()

    def _settle(self) -> None:
        """Settle the request that was answered first, or have it drawn again."""
        request = self._answered.popleft()
        drawn = request.drawing.settle(request.replies)
        if drawn is None:
            self._again.append(request)
        else:
            request.held.__exit__(None, None, None)
            self._unsettled -= 1
            self.books.end(drawn, more=not self._all_asked)
        if self._again or not self._unsettled:
            self._settled.set()

    def _over(self) -> bool:
        late = self._until is not None and asyncio.get_running_loop().time() >= self._until
        return late or self.stopped()


class Vigil:
    """Ends what is hopeless: another model answers than before, or nothing but the same failure comes.

    Args:
        answers_as: the name that the model reported so far, "" for none yet.
        give_up: how many equal failures in a row are too many; 0: never.
        place: where the answers are kept, for the message.
    """

    def __init__(self, answers_as: str, give_up: int, place: str) -> None:
        self.answers_as, self._give_up, self._place = answers_as, give_up, place
        self._failing, self._alike = "", 0

    def refuse_another_model(self, drawn: Drawn) -> None:
        """Raise InputError where another model answered than before."""
        for name in sorted(drawn.answered_by - {self.answers_as}):
            if self.answers_as:
                raise InputError(
                    f"{self._place}: model {self.answers_as!r} answered so far, now {name!r} "
                    "answers at the same address; start the first one again, or choose another --out"
                )
            self.answers_as = name

    def refuse_in_vain(self, drawn: Drawn, *, more: bool) -> None:
        """Raise InputError once `give_up` failures in a row were alike, and there is `more` to ask for."""
        alike = _VARIABLE.sub("#", drawn.unanswered)  # numbers and ids aside
        self._alike = self._alike + 1 if alike and alike == self._failing else bool(alike)
        self._failing = alike
        if more and self._give_up and self._alike >= self._give_up:
            raise InputError(
                f"the last {self._alike} requests all failed alike: {drawn.unanswered}; what was done is "
                "kept; correct that and run the same command again"
            )
