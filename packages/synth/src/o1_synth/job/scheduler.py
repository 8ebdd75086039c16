"""The scheduler: asks an expert for every (query, sample), many at a time, and keeps every outcome.

A fixed number of workers take requests from one lazy list, so memory does not grow with the number of
queries. Outcomes are committed ten times a second, on a slow disk once; a killed run loses no more. Inside a
running event loop (a notebook) the work gets a loop and a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from o1_records import Document, InputError, Query, Record, Source, Thought, write_jsonl
from o1_records.kit.cluster import Cluster, WorkerError
from o1_synth.chat.batch import BatchExpert
from o1_synth.checks import Checking, Known, Siblings
from o1_synth.expert import Expert, ExpertOn, NotSamplingError, Reason, key_of
from o1_synth.job.asking import Asking, Vigil
from o1_synth.job.cluster import Stage, ask_on, folder_of, harvest
from o1_synth.job.draw import Drawn, Failure, Outcome, Rejected, Spent, draw, failure_of, fault_of
from o1_synth.job.journal import ANSWERS_AS, SETTLED, Journal
from o1_synth.job.watch import Prices, Watch, of_document
from o1_synth.prompt import Prompting

RecordT = TypeVar("RecordT", bound=Record)

FAILURES = ".failures.jsonl"
"""What follows the name of the output in the name of the list of failures."""

_CHECKS, _SEED = "checks", "seed"  # the notes with the checks and the seed of the last run


@dataclass(frozen=True, kw_only=True)
class Previewed:
    """One sample that was asked for to be looked at: what the model was told, and what came of it."""

    key: str
    sample: int
    messages: list[dict[str, str]]
    outcome: Thought | Failure


@dataclass(frozen=True, kw_only=True)
class Job:
    """How a job is run.

    Args:
        checks: what every text has to pass; with other checks than before, finished work is checked again.
        redraws: how often a sample that fails a check is drawn again in one run; draws go on in the next.
        n_per_request: how many samples of a query one request asks for.
        deadline: after so many seconds, what is in flight is given up and listed.
        give_up: after so many equal failures of the server, with no answer between, the run ends, if there is
            more to ask for; 0: never.
        stop: once set, what is in flight is finished and nothing more is asked for.
        new_job: move earlier work with another model, prompt or sampling aside, with its outputs.
        prices: to show the cost.
        cluster: ask from the workers of a Ray cluster, each with its part of the concurrency and the limits.
        preview: ask only about so many records, hand what came of it to `show`, and write nothing. Refused
            with a BatchExpert, which has no answer yet.
        show: what is called with each of them.
    """

    checks: Checking[Any] | None = None
    redraws: int = 2
    n_per_request: int = 1
    deadline: float | None = None
    give_up: int = 20
    stop: threading.Event = field(default_factory=threading.Event)
    new_job: bool = False
    prices: Prices = field(default_factory=Prices)
    cluster: Cluster | None = None
    preview: int = 0
    show: Callable[[Previewed], object] = lambda previewed: None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a job ended: every (query, sample) is a thought, exhausted or a failure.

    `failures` counts the samples by reason, `examples` has the detail of one of each; `not_asked` are those
    that had no turn yet. `asked` counts the samples asked for in this run. When `interrupted`, nothing was
    published. `spent` is of all runs. `withdrawn` thoughts failed checks that were not made before,
    `restored` texts pass now. `moved` is where earlier work lies that `new_job` moved aside.
    """

    queries: int
    thoughts: int
    exhausted: int
    failures: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    failures_path: Path
    asked: int
    interrupted: bool = False
    spent: Spent = field(default_factory=Spent)
    withdrawn: int = 0
    restored: int = 0
    moved: tuple[Path, ...] = ()

    @property
    def failed(self) -> int:
        """Return the number of samples without a thought, which a rerun asks for again."""
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
) -> Summary:
    """Write `samples` thoughts about each query to `out`, ordered by query_id and sample.

    `out` appears whole at the end. Until then, and for the next run, the work is kept in `<out>.job`.
    Failures are listed in `<out>.failures.jsonl`, which is absent where there are none. Call it again to
    resume: finished samples are not asked for again, failed ones are.

    Raises InputError for a duplicate query_id, for earlier work with another expert or about another text,
    for a job that another process is working on, and where the expert says that no sample can succeed.
    """
    job = job or Job()
    return run_job(
        queries,
        Query,
        expert,
        job.checks,
        command="think",
        outputs=[Path(out)],
        samples=samples,
        concurrency=concurrency,
        progress=progress,
        job=job,
        publish=lambda answers: write_jsonl(out, (thought for _, thought in answers())),
    )


def think_about_documents(
    documents: Iterable[Document],
    expert: ExpertOn[Document],
    *,
    out: str | Path,
    samples: int = 1,
    concurrency: int = 64,
    progress: bool = False,
    job: Job | None = None,
) -> Summary:
    """Write `samples` thoughts about each document to `out`, DocumentThought records; otherwise as `think`.

    The expert's prompt is a `DocumentPrompt`.
    """
    job = job or Job()
    return run_job(
        documents,
        Document,
        expert,
        job.checks,
        command="think about documents",
        outputs=[Path(out)],
        samples=samples,
        concurrency=concurrency,
        progress=progress,
        job=job,
        publish=lambda answers: write_jsonl(out, (of_document(thought) for _, thought in answers())),
    )


Answers = Callable[[], Iterator[tuple[RecordT, Thought]]]


def run_job(
    records: Iterable[RecordT],
    kind: type[RecordT],
    expert: ExpertOn[RecordT],
    checks: Checking[RecordT] | None,
    *,
    command: str,
    outputs: Sequence[Path],
    samples: int,
    concurrency: int,
    progress: bool,
    job: Job,
    publish: Callable[[Answers[RecordT]], object],
) -> Summary:
    """Ask for `samples` texts about each record, and publish what is made of them; `think` of any record.

    Args:
        records: what to ask about, of one `kind`.
        kind: their type.
        expert: whom to ask.
        checks: what every text has to pass.
        command: names what the texts are; one job is for one command.
        outputs: the files that `publish` writes, the one that the job is named after first.
        samples: texts for each record.
        concurrency: requests in flight.
        progress: show progress on stderr.
        job: see `Job`.
        publish: writes the outputs. It may call its argument, which yields every record with its texts,
            ordered by key and sample, several times.

    Raises InputError as `think` does.
    """
    for name, value, least in (
        ("samples", samples, 1),
        ("concurrency", concurrency, 1),
        ("n_per_request", job.n_per_request, 1),
        ("redraws", job.redraws, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be {least} or more, got {value}")
    if job.n_per_request > 1 and not hasattr(expert, "think_together"):
        raise InputError(
            f"n_per_request must be 1 with an expert that has no think_together, got {job.n_per_request}"
        )
    if job.checks is not None and job.checks is not checks:
        raise InputError(f"job.checks has no effect: {command} has checks of its own; leave it out")
    failures_path = path_beside(outputs[0], FAILURES)
    if job.cluster is not None and (job.preview or isinstance(expert, BatchExpert)):
        idle = "a preview" if job.preview else "writing requests for a batch API"
        raise InputError(f"a cluster has no effect on {idle}; leave out --ray")
    if job.preview and isinstance(expert, BatchExpert):
        raise InputError(
            "--preview has no answer to show with --batch, and would write requests; leave it out and look "
            f"into the requests that are written to {expert.folder} before you send them"
        )
    if job.preview:
        _run(_preview(islice(records, job.preview), expert, checks, samples, job.show))
        return Summary(
            queries=0, thoughts=0, exhausted=0, failures_path=failures_path, asked=job.preview * samples
        )
    with Journal(
        outputs[0],
        kind,
        _made_from(command, expert.source, job),
        outputs=[*outputs, failures_path],
        new_job=job.new_job,
    ) as journal:
        total = journal.plan(records) * samples
        journal.set_note("samples", str(samples))
        journal.set_note("prices", msgspec.json.encode(job.prices).decode())
        earlier, harvested = journal.spent()[0], Spent()

        def harvested_earlier(block: list[Drawn]) -> None:
            vigil = Vigil(journal.note(ANSWERS_AS) or "", 0, str(journal.folder))
            for drawn in block:
                vigil.refuse_another_model(drawn)
                journal.set_note(ANSWERS_AS, vigil.answers_as)
                journal.record(drawn.outcomes, rejected=drawn.rejected, earlier=True)
                harvested.add(drawn.spent)

        harvest(journal, harvested_earlier)
        withdrawn, restored = _check_again(journal, checks)
        if journal.note(_SEED) != str(expert.source.seed):
            journal.ask_for_duplicates()
            journal.set_note(_SEED, str(expert.source.seed))
        before = journal.counts(samples)
        settled = sum(before.get(reason, 0) for reason in SETTLED)
        with Watch(total, settled, job.prices, earlier, shown=progress) as watch:
            watch.spent.add(harvested)
            books = _Bookkeeper(journal, watch, checks, job.give_up)
            try:
                if job.cluster is None:
                    todo = journal.remaining(samples, job.n_per_request)
                    asking = Asking(expert, checks, job.redraws, books, todo, job.stop.is_set, job.deadline)
                    _run(_asked(asking, concurrency))
                else:
                    stage = Stage(
                        expert,
                        checks,
                        kind,
                        redraws=job.redraws,
                        give_up=job.give_up,
                        concurrency=concurrency,
                        until=None if job.deadline is None else time.time() + job.deadline,
                        answers_as=journal.note(ANSWERS_AS) or "",
                        place=str(journal.folder),
                    )
                    todo = journal.remaining(samples, job.n_per_request, record_by_record=True)
                    for block in ask_on(
                        job.cluster, stage, todo, books.written_before, folder_of(journal), stop=job.stop
                    ):
                        books.take(block)
                    harvest(journal, books.take)  # what was in flight when it was stopped
            except (NotSamplingError, WorkerError) as error:
                if getattr(error, "kind", NotSamplingError.__name__) != NotSamplingError.__name__:
                    raise
                journal.ask_for_duplicates()  # they were no sign that there is nothing else to say
                raise
        counts = journal.counts(samples)
        whole = sum(counts.get(reason, 0) for reason in SETTLED) == total
        interrupted = job.stop.is_set() and not whole
        if not interrupted:
            journal.publishing(samples)
            publish(partial(journal.answers, samples))
            if whole:
                failures_path.unlink(missing_ok=True)
            else:
                write_jsonl(failures_path, journal.failures(samples))
        if not_asked := total - sum(counts.values()):
            counts[Reason.NOT_ASKED] = not_asked
        return Summary(
            queries=total // samples,
            thoughts=counts.pop("", 0),
            exhausted=counts.pop(Reason.EXHAUSTED, 0) + counts.pop(Reason.DUPLICATE, 0),
            failures=counts,
            examples=journal.details(samples),
            failures_path=failures_path,
            asked=watch.asked,
            interrupted=interrupted,
            spent=journal.spent()[0],
            withdrawn=withdrawn,
            restored=restored,
            moved=tuple(journal.moved),
        )


async def _asked(asking: Asking[Any], concurrency: int) -> None:
    try:
        await asking.work(concurrency)
    finally:
        await asking.expert.close()


async def _preview(
    records: Iterable[RecordT],
    expert: ExpertOn[RecordT],
    checks: Checking[RecordT] | None,
    samples: int,
    show: Callable[[Previewed], object],
) -> None:
    try:
        for record in records:
            known = Known()
            for sample in range(samples):
                drawn = await draw(expert, record, (sample,), checks=checks, known=known)
                (outcome,) = drawn.outcomes
                prompt: Prompting | None = getattr(expert, "prompt", None)
                previewed = Previewed(
                    key=outcome.key,
                    sample=sample,
                    messages=prompt.messages(record, sample) if prompt else [],
                    outcome=_decoded(outcome),
                )
                show(previewed)
    finally:
        await expert.close()


def _decoded(outcome: Outcome) -> Thought | Failure:
    if outcome.reason:
        return msgspec.json.decode(outcome.body, type=Failure)
    return msgspec.json.decode(outcome.body, type=Thought)


def _check_again(journal: Journal[RecordT], checks: Checking[RecordT] | None) -> tuple[int, int]:
    """Apply changed checks to finished work; return how many thoughts fail now, and how many texts pass."""
    digest = "none" if checks is None else checks.digest
    before = journal.note(_CHECKS)
    if before == digest:
        return 0, 0
    if before is None:
        journal.set_note(_CHECKS, digest)
        return 0, 0
    counts = [0, 0]

    def changes() -> Iterator[tuple[Outcome, Rejected | None]]:
        for record, texts in journal.texts_of_all():
            key, known = key_of(record), Known()
            for sample, thought, passed in texts:
                ended = thought.source.finish_reason
                fault = fault_of(record, sample, thought.text, ended, checks, known)
                body = msgspec.json.encode(thought)
                if passed and fault is not None:
                    counts[0] += 1
                    yield failure_of(key, sample, fault), Rejected(key, sample, 0, body)
                elif not passed and fault is None:
                    counts[1] += 1
                    yield Outcome(key, sample, "", body), None

    journal.change(changes(), notes={_CHECKS: digest})
    return counts[0], counts[1]


def path_beside(out: str | Path, suffix: str) -> Path:
    """Return the path of a file beside an output, such as the list of its failures."""
    return Path(f"{out}{suffix}")


def _made_from(command: str, source: Source, job: Job) -> dict[str, str]:
    fields = {name: str(value) for name, value in msgspec.to_builtins(source).items() if name != "seed"}
    return {"command": command, **fields, "n_per_request": str(job.n_per_request)}


class _Bookkeeper(Generic[RecordT]):
    """What happened so far: outcomes until they are committed, what is known of each record, the counts."""

    def __init__(
        self, journal: Journal[RecordT], watch: Watch, checks: Checking[RecordT] | None, give_up: int
    ) -> None:
        self._journal, self._watch, self._checks, self._give_up = journal, watch, checks, give_up
        self._siblings = Siblings(self.written_before)
        self._vigil = Vigil(journal.note(ANSWERS_AS) or "", give_up, str(journal.folder))
        self._finished: list[Outcome] = []
        self._rejected: list[Rejected] = []

    def begin(self, record: RecordT, samples: int) -> AbstractContextManager[Known]:
        """Count a request that begins; the context holds what is known of its record while it runs."""
        self._watch.begin(samples)
        return self._siblings.of(key_of(record))

    def end(self, drawn: Drawn, *, more: bool) -> None:
        """Keep what came of a request; `more` says whether there are others to ask for.

        Raises InputError where another model answered than before, and where nothing but the same failure of
        the server has come for a while and there is more to ask for.
        """
        self._watch.spent.add(drawn.spent)
        before = self._vigil.answers_as
        self._vigil.refuse_another_model(drawn)
        if self._vigil.answers_as != before:
            self._journal.set_note(ANSWERS_AS, self._vigil.answers_as)
        self._finished += drawn.outcomes
        self._rejected += drawn.rejected
        self._watch.end(drawn.outcomes)
        self._vigil.refuse_in_vain(drawn, more=more)

    def take(self, block: Iterable[Drawn]) -> None:
        """Count and commit what came of a block of requests elsewhere."""
        for drawn in block:
            self._watch.begin(len(drawn.outcomes))
            self.end(drawn, more=False)
        self.commit(last=True)

    def commit(self, *, last: bool = False) -> None:
        """Write finished outcomes to the journal, and from time to time and at the `last` one the status."""
        state = self._watch.state() if last else self._watch.tick()
        if self._finished or state:
            self._journal.record(
                self._finished,
                rejected=self._rejected,
                spent=self._watch.spent,
                seconds=self._watch.seconds,
                status=msgspec.json.encode(state).decode() if state else None,
            )
            self._finished.clear()
            self._rejected.clear()

    def written_before(self, key: str) -> list[str]:
        """Return what is compared of the texts in the journal, where the checks compare texts."""
        if self._checks is None or Reason.DUPLICATE not in self._checks.names:
            return []
        return [self._checks.compared(text) for text in self._journal.texts(key)]


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end: in this thread or, where a loop is running in it already, in another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    _run_in_a_thread(work)


def _run_in_a_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run in a thread of its own; Ctrl-C here cancels the work there and waits for its last commit."""
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
    except KeyboardInterrupt:  # here, or while the thread was starting
        loop.call_soon_threadsafe(task.cancel)
        raise
    finally:
        wait([done])
        loop.close()
