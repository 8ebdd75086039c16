"""The scheduler: asks an expert for every (query, sample), many at a time, and files each answer.

A fixed number of workers draw from one lazy list, so memory does not grow with the number of
queries. What is finished is committed ten times a second; a killed run loses only what was in
flight. Inside a running event loop (a notebook) the work has a loop and a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from o1_records import InputError, Query, Thought, write_jsonl
from o1_synth.expert import Expert, NoThought, Reason
from o1_synth.journal import Failure, Journal, Outcome, failed_outcome, thought_outcome

if TYPE_CHECKING:
    from tqdm import tqdm

_COMMIT_EVERY = 0.1


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a job stands: every (query, sample) is a thought, exhausted or a failure."""

    queries: int
    thoughts: int
    exhausted: int
    failures: dict[str, int] = field(default_factory=dict)
    failures_path: Path
    asked: int

    @property
    def failed(self) -> int:
        """Samples without a thought that a rerun asks for again."""
        return sum(self.failures.values())


def think(
    queries: Iterable[Query],
    expert: Expert,
    *,
    out: str | Path,
    samples: int = 3,
    concurrency: int = 64,
    progress: bool = False,
) -> Summary:
    """Write `samples` thoughts per query to `out`, ordered by query_id and sample.

    `out` appears whole at the end; until then, and for the next run, the work is kept in
    `<out>.job`. What failed is listed in `<out>.failures.jsonl`, which is absent when nothing did.
    Call it again to resume: finished samples are not asked for again, failed ones are.

    Raises InputError for a repeated query_id, another expert or another text than the job was
    begun with, a job that another process works on, and what the expert calls hopeless.
    """
    for name, value in (("samples", samples), ("concurrency", concurrency)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be 1 or more")
    out = Path(out)
    with Journal(out, expert.source) as journal:
        count = journal.plan(queries)
        asked = _run(_work(journal, expert, count * samples, samples, concurrency, progress))
        return _published(journal, out, samples, count, asked)


def _published(journal: Journal, out: Path, samples: int, queries: int, asked: int) -> Summary:
    """Write thoughts and failures as they stand."""
    write_jsonl(out, journal.thoughts(samples))
    counts = journal.counts(samples)
    thoughts, exhausted = counts.pop("", 0), counts.pop(Reason.EXHAUSTED, 0)
    failures_path = path_of_failures(out)
    if counts:
        write_jsonl(failures_path, journal.failures(samples))
    else:
        failures_path.unlink(missing_ok=True)
    return Summary(
        queries=queries,
        thoughts=thoughts,
        exhausted=exhausted,
        failures=counts,
        failures_path=failures_path,
        asked=asked,
    )


def path_of_failures(out: Path) -> Path:
    """Where the failures of the job of `out` are listed."""
    return out.with_name(out.name + ".failures.jsonl")


def _run(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end, in this thread or, where a loop runs in it already, beside it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _run_beside(work)


def _run_beside(work: Coroutine[Any, Any, int]) -> int:
    """Run in a thread of its own; Ctrl-C here cancels it there and waits for its last commit."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with contextlib.closing(loop), ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(loop.run_until_complete, task)
        try:
            return future.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)
            raise


async def _work(
    journal: Journal, expert: Expert, total: int, samples: int, concurrency: int, progress: bool
) -> int:
    """Ask for all that remains; returns how many samples were asked for."""
    finished: list[Outcome] = []
    todo = journal.remaining(samples)
    with _Progress(total, journal.counts(samples), progress) as bar:
        workers = [asyncio.create_task(_worker(todo, expert, finished, bar)) for _ in range(concurrency)]
        pending = set(workers)
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=_COMMIT_EVERY, return_when=asyncio.FIRST_EXCEPTION
                )
                _commit(journal, finished)
                for task in done:
                    task.result()
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            _commit(journal, finished)
            await expert.close()
        return bar.asked


def _commit(journal: Journal, finished: list[Outcome]) -> None:
    if finished:
        journal.record(finished)
        finished.clear()


async def _worker(
    todo: Iterator[tuple[Query, int]], expert: Expert, finished: list[Outcome], bar: _Progress
) -> None:
    """Take one sample after another from the list that all workers share."""
    for query, sample in todo:
        bar.begin()
        outcome = await _ask(expert, query, sample)
        finished.append(outcome)
        bar.end(outcome)
        await asyncio.sleep(0)  # an expert that never waits must not keep the others waiting


async def _ask(expert: Expert, query: Query, sample: int) -> Outcome:
    """One sample's outcome, filed under the query it was asked for."""
    try:
        reply = await expert.think(query, sample)
        if not reply.text.strip():
            raise NoThought(Reason.EMPTY)
        thought = Thought(
            query_id=query.query_id,
            thought_id=f"{query.query_id}#{sample}",
            text=reply.text,
            source=reply.source,
        )
        return _filed(sample, thought)
    except NoThought as none:
        return failed_outcome(
            Failure(query_id=query.query_id, sample=sample, reason=none.reason, detail=none.detail)
        )


def _filed(sample: int, thought: Thought) -> Outcome:
    try:
        return thought_outcome(sample, thought)
    except InputError as error:
        raise NoThought(Reason.MALFORMED, str(error)) from error


class _Progress:
    """A bar of done / failed / in flight on stderr; it counts even when it is not shown."""

    def __init__(self, total: int, settled: dict[str, int], shown: bool) -> None:
        from tqdm import tqdm

        done = settled.get("", 0) + settled.get(Reason.EXHAUSTED, 0)
        self.asked = self._failed = self._in_flight = 0
        self._bar: tqdm[None] = tqdm(
            total=total, initial=done, desc="think", unit="sample", disable=not shown
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self) -> None:
        self.asked += 1
        self._in_flight += 1

    def end(self, outcome: Outcome) -> None:
        self._in_flight -= 1
        self._failed += outcome.reason not in ("", Reason.EXHAUSTED)
        self._bar.set_postfix_str(f"{self._failed} failed, {self._in_flight} in flight", refresh=False)
        self._bar.update()
