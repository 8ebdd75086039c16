"""The driver of a job on a Ray cluster: requests are dealt out in blocks, and what they cost is never lost.

A worker notes every answer when it comes (`o1_records.kit.cluster`), so a request is paid for twice only
where a worker died while it was in flight. The process of the command commits to the journal, nobody else.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from o1_records import InputError, Record
from o1_records.kit.cluster import Cluster, Notes, Work, leftovers, run_on
from o1_synth.checks import Checking, Known, Siblings
from o1_synth.expert import ExpertOn, key_of
from o1_synth.job.asking import Asking, Vigil
from o1_synth.job.draw import Drawn
from o1_synth.job.journal import Journal

RecordT = TypeVar("RecordT", bound=Record)

BLOCK = 64
"""Records that a worker is asked about at a time, unless the cluster says otherwise."""

_DRAWN = msgspec.json.Decoder(Drawn)


class _Item(msgspec.Struct):
    """A record, the texts it has that others are compared with, and what is asked: samples, the next draw."""

    record: msgspec.Raw
    texts: list[str]
    requests: list[tuple[tuple[int, ...], int]]


@dataclass(frozen=True)
class Stage(Generic[RecordT]):
    """What each worker of the cluster does; calling it makes the stage for one of so many workers."""

    expert: ExpertOn[RecordT]
    checks: Checking[RecordT] | None
    kind: type[RecordT]
    redraws: int
    give_up: int
    concurrency: int
    until: float | None
    answers_as: str
    place: str

    def __call__(self, workers: int) -> Work:
        """Return what asks for the samples of a block. Raises InputError for less than a request each."""
        if self.concurrency < workers:
            raise InputError(
                f"concurrency must be at least the number of workers, got {self.concurrency} for {workers}"
            )
        if hasattr(self.expert, "share"):
            self.expert.share(workers)
        loop, vigil = asyncio.new_event_loop(), Vigil(self.answers_as, self.give_up, self.place)
        block = msgspec.json.Decoder(list[_Item])

        def work(content: bytes, notes: Notes) -> bytes | None:
            items = block.decode(content)
            books: _Noted[RecordT] = _Noted(items, self.kind, self.checks, notes, vigil)
            left = None if self.until is None else max(0.0, self.until - time.time())
            todo = books.remaining(items)
            asking = Asking(self.expert, self.checks, self.redraws, books, todo, lambda: notes.stopped, left)
            loop.run_until_complete(asking.work(self.concurrency // workers))
            return None if notes.stopped else b"\n".join(books.lines)

        return work


class _Noted(Generic[RecordT]):
    """The books of one block: what was drawn before this attempt, and what is drawn in it."""

    def __init__(
        self,
        items: Iterable[_Item],
        kind: type[RecordT],
        checks: Checking[RecordT] | None,
        notes: Notes,
        vigil: Vigil,
    ) -> None:
        self.lines, self._synced = list(notes.kept), len(notes.kept)
        self._notes, self._vigil, self._kind = notes, vigil, msgspec.json.Decoder(kind)
        outcomes = [outcome for line in self.lines for outcome in _DRAWN.decode(line).outcomes]
        self._settled = {(outcome.key, outcome.sample) for outcome in outcomes}
        texts = {key_of(self._kind.decode(item.record)): list(item.texts) for item in items}
        if checks is not None:
            for outcome in outcomes:
                if not outcome.reason:
                    text = msgspec.json.decode(outcome.body)["text"]
                    texts.setdefault(outcome.key, []).append(checks.compared(text))
        self._siblings = Siblings(lambda key: texts[key])

    def remaining(self, items: Iterable[_Item]) -> Iterator[tuple[RecordT, tuple[int, ...], int]]:
        """Yield what no earlier attempt has an outcome of."""
        for item in items:
            record = self._kind.decode(item.record)
            for samples, first in item.requests:
                left = tuple(sample for sample in samples if (key_of(record), sample) not in self._settled)
                if left:
                    yield record, left, first

    def begin(self, record: RecordT, samples: int) -> AbstractContextManager[Known]:
        """Return what is known of a record."""
        return self._siblings.of(key_of(record))

    def end(self, drawn: Drawn, *, more: bool) -> None:
        """Keep what was drawn. Raises InputError as a Vigil does."""
        self._vigil.refuse_another_model(drawn)
        self.lines.append(msgspec.json.encode(drawn))
        self._notes.keep(self.lines[-1])
        self._vigil.refuse_in_vain(drawn, more=more)

    def commit(self, *, last: bool = False) -> None:
        """Put on the disk what is noted."""
        if len(self.lines) > self._synced:
            self._synced = len(self.lines)
            self._notes.sync()


def ask_on(
    cluster: Cluster,
    stage: Stage[Any],
    requests: Iterable[tuple[RecordT, tuple[int, ...], int]],
    texts: Callable[[str], list[str]],
    folder: Path,
    *,
    stop: threading.Event,
) -> Iterator[list[Drawn]]:
    """Yield what came of the requests, block by block; requests of one record come one after another.

    `texts` says which texts a record has so far that others are compared with. Raises InputError as `run_on`
    and the stage do.
    """
    blocks = _blocks(requests, texts, cluster.block or BLOCK)
    for _, result in run_on(cluster, stage, blocks, folder, stop=stop):
        yield [_DRAWN.decode(line) for line in result.split(b"\n") if line]


def _blocks(
    requests: Iterable[tuple[RecordT, tuple[int, ...], int]], texts: Callable[[str], list[str]], rows: int
) -> Iterator[bytes]:
    """Yield blocks of so many records, with all that is asked about each of them."""
    items: list[_Item] = []
    for key, group in groupby(requests, lambda request: key_of(request[0])):
        own = list(group)
        asked = [(samples, first) for _, samples, first in own]
        items.append(_Item(msgspec.Raw(msgspec.json.encode(own[0][0])), texts(key), asked))
        if len(items) == rows:
            yield msgspec.json.encode(items)
            items = []
    if items:
        yield msgspec.json.encode(items)


def harvest(journal: Journal[Any], commit: Callable[[list[Drawn]], object]) -> None:
    """Have what workers noted and nobody committed committed, block by block, and remove the notes.

    They are removed as well where that raises InputError, because another model answered.
    """
    for path, lines in leftovers(folder_of(journal)):
        block = [drawn for drawn in map(_DRAWN.decode, lines) if not journal.holds(drawn.outcomes)]
        try:
            commit(block)
        finally:
            shutil.rmtree(path)


def folder_of(journal: Journal[Any]) -> Path:
    """Return the folder in which the workers of a job note their answers."""
    return journal.folder / "ray"
