"""The scheduler: asks an expert for every (query, sample), many at a time, and files each answer.

A fixed number of workers draw from one lazy list, so memory does not grow with the number of
queries. What is finished is committed ten times a second; a killed run loses only what was in
flight. Inside a running event loop (a notebook) the work has a loop and a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from o1_records import InputError, Query, Thought, write_jsonl
from o1_synth.checks import Checking
from o1_synth.expert import Expert, Reason
from o1_synth.journal import Journal, Outcome
from o1_synth.settle import Settler
from o1_synth.watch import Prices, Watch

_COMMIT_EVERY = 0.1


Answers = Callable[[], Iterator[tuple[Query, Thought]]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """How a job is worked on.

    `checks` are applied to every text; one that fails is drawn again up to `redraws` times. A
    request asks for `n_per_request` samples of a query. After `deadline` seconds what is in
    flight is given up and listed. Once `stop` is set, what is in flight is finished and no more
    is asked for. A journal of another model, prompt or sampling is moved aside when `new_job`.
    """

    checks: Checking | None = None
    redraws: int = 2
    n_per_request: int = 1
    deadline: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    new_job: bool = False
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a job stands: every (query, sample) is a thought, exhausted or a failure.

    `failures` maps a reason to its count; `not_asked` are the samples that had no turn yet.
    `asked` counts the samples asked for in this run. When `interrupted`, nothing was published.
    """

    queries: int
    thoughts: int
    exhausted: int
    failures: dict[str, int] = field(default_factory=dict)
    failures_path: Path
    asked: int
    interrupted: bool = False

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
    job: Job | None = None,
    publish: Callable[[Answers], None] | None = None,
) -> Summary:
    """Write `samples` thoughts per query to `out`, ordered by query_id and sample.

    `out` appears whole at the end; until then, and for the next run, the work is kept in
    `<out>.job`. What failed is listed in `<out>.failures.jsonl`, which is absent when nothing did.
    Call it again to resume: finished samples are not asked for again, failed ones are. `publish`
    writes `out` itself, of the queries with their thoughts, in that order.

    Raises InputError for a repeated query_id, another expert or another text than the job was
    begun with, a job that another process works on, and what the expert calls hopeless.
    """
    job = job or Job()
    for name, value, least in (
        ("samples", samples, 1),
        ("concurrency", concurrency, 1),
        ("n_per_request", job.n_per_request, 1),
        ("redraws", job.redraws, 0),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; it must be {least} or more")
    if job.n_per_request > 1 and not hasattr(expert, "think_together"):
        raise InputError(f"n_per_request is {job.n_per_request}, but this expert answers one at a time")
    out = Path(out)
    fingerprint = {"n_per_request": str(job.n_per_request)}
    with Journal(out, expert.source, fingerprint, new_job=job.new_job) as journal:
        count = journal.plan(queries)
        journal.set_note("samples", str(samples))
        journal.set_note("publishes", "something else" if publish else "thoughts")
        total = count * samples
        before = journal.counts(samples)
        settled = before.get("", 0) + before.get(Reason.EXHAUSTED, 0)
        with Watch(total, settled, job.prices, shown=progress) as watch:
            settler = Settler(expert, journal, watch, checks=job.checks, redraws=job.redraws)
            todo = journal.remaining(samples, job.n_per_request)
            _run(_Scheduler(journal, settler, watch, job, todo).work(expert, concurrency))
        after = journal.counts(samples)
        whole = after.get("", 0) + after.get(Reason.EXHAUSTED, 0) == total
        interrupted = job.stop.is_set() and not whole
        if not interrupted:
            if publish:
                publish(partial(journal.answers, samples))
            else:
                write_jsonl(out, journal.thoughts(samples))
            _list_failures(journal, out, samples, whole=whole)
        return _summary(journal, out, samples, count, watch.asked, interrupted=interrupted)


def path_of_failures(out: Path) -> Path:
    """Where the failures of the job of `out` are listed."""
    return out.with_name(out.name + ".failures.jsonl")


def _list_failures(journal: Journal, out: Path, samples: int, *, whole: bool) -> None:
    """Write failures as they stand, where there are any."""
    if whole:
        path_of_failures(out).unlink(missing_ok=True)
    else:
        write_jsonl(path_of_failures(out), journal.failures(samples))


def _summary(
    journal: Journal, out: Path, samples: int, queries: int, asked: int, *, interrupted: bool
) -> Summary:
    counts = journal.counts(samples)
    not_asked = queries * samples - sum(counts.values())
    if not_asked:
        counts[Reason.NOT_ASKED] = not_asked
    return Summary(
        queries=queries,
        thoughts=counts.pop("", 0),
        exhausted=counts.pop(Reason.EXHAUSTED, 0),
        failures=counts,
        failures_path=path_of_failures(out),
        asked=asked,
        interrupted=interrupted,
    )


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, in this thread or, where a loop runs in it already, beside it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    _run_beside(work)


def _run_beside(work: Coroutine[Any, Any, None]) -> None:
    """Run in a thread of its own; Ctrl-C here cancels it there and waits for its last commit."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    done: Future[None] = Future()

    def body() -> None:
        try:
            done.set_result(loop.run_until_complete(task))
        except BaseException as error:  # noqa: BLE001  raised again where the caller waits
            done.set_exception(error)

    try:
        threading.Thread(target=body).start()
        done.result()
    except KeyboardInterrupt:  # here, or while the thread began
        loop.call_soon_threadsafe(task.cancel)
        raise
    finally:
        wait([done])
        loop.close()


class _Scheduler:
    """Workers that share one list, and one committer."""

    def __init__(
        self,
        journal: Journal,
        settler: Settler,
        watch: Watch,
        job: Job,
        todo: Iterator[tuple[Query, tuple[int, ...]]],
    ) -> None:
        self._journal, self._settler, self._watch, self._job = journal, settler, watch, job
        self._todo = todo
        self._finished: list[Outcome] = []
        self._deadline: float | None = None

    async def work(self, expert: Expert, concurrency: int) -> None:
        """Ask for all that remains, until it is done, the time is over or the job is stopped."""
        if self._job.deadline is not None:
            self._deadline = asyncio.get_running_loop().time() + self._job.deadline
        workers = [asyncio.create_task(self._worker()) for _ in range(concurrency)]
        pending = set(workers)
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=_COMMIT_EVERY, return_when=asyncio.FIRST_EXCEPTION
                )
                self._commit()
                for task in done:
                    task.result()
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            try:
                self._commit()
            finally:
                await expert.close()

    async def _worker(self) -> None:
        """Take one request after another from the list that all workers share."""
        while not self._over() and (item := next(self._todo, None)):
            query, samples = item
            self._watch.begin(len(samples))
            outcomes = await self._settler.settle(query, samples, self._deadline)
            self._finished += outcomes
            self._watch.end(outcomes)
            await asyncio.sleep(0)  # an expert that never waits must not keep the others waiting

    def _over(self) -> bool:
        late = self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline
        return late or self._job.stop.is_set()

    def _commit(self) -> None:
        state = self._watch.tick()
        if self._finished or state:
            status = msgspec.json.encode(state).decode() if state else None
            self._journal.record(self._finished, status=status)
            self._finished.clear()
