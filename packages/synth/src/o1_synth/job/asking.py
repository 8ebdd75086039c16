"""Asking: workers of one event loop take requests from one list, and books keep what comes of each.

The same in the process of a command, whose books are the journal, and in each process of a cluster, whose
books are the notes of a block.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from o1_records import InputError, Record
from o1_synth.checks import Checking, Known
from o1_synth.expert import ExpertOn
from o1_synth.job.draw import Drawn, draw

RecordT = TypeVar("RecordT", bound=Record)
RecordIn = TypeVar("RecordIn", bound=Record, contravariant=True)

_COMMIT_EVERY, _LONGEST_PAUSE = 0.1, 1.0  # seconds
_COMMIT_SHARE = 0.05  # of the time, at most, the disk keeps all answers waiting
_VARIABLE = re.compile(r"[\w-]*\d[\w-]*")  # a number or an id in an error, which is another every time


class Books(Protocol[RecordIn]):
    """What happened so far."""

    def begin(self, record: RecordIn, samples: int) -> AbstractContextManager[Known]:
        """Count a request that begins; the context holds what is known of its record while it runs."""

    def end(self, drawn: Drawn, *, more: bool) -> None:
        """Keep what came of a request; `more` says whether there are others. Raises InputError to end all."""

    def commit(self, *, last: bool = False) -> None:
        """Write to the disk what `end` was told; the `last` time, even if that was nothing."""


@dataclass
class Asking(Generic[RecordT]):
    """Asks an expert for all that remains, many requests at a time, and has every outcome kept.

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
        self._all_asked = False
        self._until = None if self.deadline is None else asyncio.get_running_loop().time() + self.deadline
        workers = [asyncio.create_task(self._worker()) for _ in range(concurrency)]
        pending, pause = set(workers), _COMMIT_EVERY
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=pause, return_when=asyncio.FIRST_EXCEPTION
                )
                began = time.monotonic()
                self.books.commit()
                took = time.monotonic() - began
                pause = min(max(_COMMIT_EVERY, took / _COMMIT_SHARE), _LONGEST_PAUSE)
                for task in done:
                    task.result()
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self.books.commit(last=True)

    async def _worker(self) -> None:
        """Take one request after another from the list that all workers share."""
        while not self._over() and (request := next(self.todo, None)):
            record, samples, first = request
            with self.books.begin(record, len(samples)) as known:
                drawn = await draw(
                    self.expert,
                    record,
                    samples,
                    checks=self.checks,
                    redraws=self.redraws,
                    first=first,
                    known=known,
                    deadline=self._until,
                )
            self.books.end(drawn, more=not self._all_asked)
            await asyncio.sleep(0)  # an expert that never waits must not keep the others waiting
        self._all_asked = True

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
