"""One request: samples of a query are asked for, checked, drawn again where they fail, and become outcomes.

Neither the journal nor the scheduler is touched here, so that another driver can draw as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import msgspec

from o1_records import InputError, Record, Thought
from o1_records.jsonl import encode
from o1_synth.checks import Checking, Known
from o1_synth.expert import REDRAWN, UNANSWERED, ExpertOn, GroupExpert, NoThought, Reason, Reply, key_of

RecordT = TypeVar("RecordT", bound=Record)


class Failure(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sample without a thought; running the same command again asks for it again."""

    key_fields = ("query_id", "sample")
    query_id: str
    sample: int
    reason: Reason
    detail: str = ""


_THOUGHTS, _FAILURES = msgspec.json.Decoder(Thought), msgspec.json.Decoder(Failure)


@dataclass(frozen=True)
class Outcome:
    """How one sample ended: `body` is an encoded Thought (reason "") or an encoded Failure."""

    key: str
    sample: int
    reason: str
    body: bytes


@dataclass(frozen=True)
class Rejected:
    """A sample whose answer failed a check: how many draws failed so far, and the last of these answers."""

    key: str
    sample: int
    draws: int
    body: bytes


@dataclass
class Spent:
    """Requests and tokens; `uncounted` are the answers whose tokens the server did not count."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def add(self, other: Spent) -> None:
        """Add what was spent elsewhere."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.uncounted += other.uncounted


@dataclass
class Drawn:
    """What came of samples of a record.

    An outcome for each sample, the answers that failed checks, what was spent, the models that answered, and
    the last reason why the server gave no answer ("" where it gave one).
    """

    outcomes: list[Outcome] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    answered_by: set[str] = field(default_factory=set)
    unanswered: str = ""


class Drawing(Generic[RecordT]):
    """One request: samples of a record are asked for until every one of them has an outcome.

    `ask` is one draw of those that have none, `settle` judges what came of it; in between other requests may
    begin. Arguments as those of `draw`.
    """

    def __init__(
        self,
        expert: ExpertOn[RecordT],
        record: RecordT,
        samples: Sequence[int],
        *,
        checks: Checking[RecordT] | None = None,
        redraws: int = 0,
        first: int = 0,
        known: Known | None = None,
    ) -> None:
        self._expert, self._record, self._key, self._checks = expert, record, key_of(record), checks
        self._left, self._number, self._last = samples, first, first + redraws
        self._known = known or Known()
        self._settled: dict[int, Outcome] = {}
        self._rejected: dict[int, Rejected] = {}
        self._drawn = Drawn()

    async def ask(self, deadline: float | None = None) -> Sequence[Reply | NoThought]:
        """Return a reply for each sample that has no outcome. Raises InputError where none can succeed."""
        late = NoThought(Reason.DEADLINE, "in flight at the deadline of the run", asked=False)
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return [late] * len(self._left)  # before a request goes out, and is paid for
        try:
            async with asyncio.timeout_at(deadline) as limit:
                return await self._replies()
        except TimeoutError as error:
            none = late if limit.expired() else NoThought(Reason.TIMEOUT, str(error), asked=False)
            return [none] * len(self._left)

    def settle(self, replies: Sequence[Reply | NoThought]) -> Drawn | None:
        """Judge what `ask` returned; return what came of all, or None where some are asked for again."""
        _count(replies, self._drawn)
        again = []
        for sample, reply in zip(self._left, replies, strict=True):
            made = _judged(self._record, self._key, sample, reply, self._checks, self._known)
            if isinstance(made, Outcome):
                self._settled[sample] = made
                continue
            if made.reason in REDRAWN:
                kept = _kept(self._key, sample, reply)
                self._rejected[sample] = Rejected(self._key, sample, self._number + 1, kept)
            if made.reason in REDRAWN and self._number < self._last:
                again.append(sample)
            else:
                self._settled[sample] = failure_of(self._key, sample, made)
        self._left, self._number = again, self._number + 1
        if again:
            return None
        self._drawn.outcomes, self._drawn.rejected = [*self._settled.values()], [*self._rejected.values()]
        return self._drawn

    async def _replies(self) -> Sequence[Reply | NoThought]:
        try:
            if len(self._left) == 1:
                return [await self._expert.think(self._record, self._left[0], self._number)]
            together = cast("GroupExpert[RecordT]", self._expert)
            return await together.think_together(self._record, self._left, self._number)
        except NoThought as none:
            # the tokens of a request that failed as a whole count once
            rest = NoThought(none.reason, none.detail, asked=none.asked)
            return [none, *[rest] * (len(self._left) - 1)]


async def draw(
    expert: ExpertOn[RecordT],
    query: RecordT,
    samples: Sequence[int],
    *,
    checks: Checking[RecordT] | None = None,
    redraws: int = 0,
    first: int = 0,
    known: Known | None = None,
    deadline: float | None = None,
) -> Drawn:
    """Ask an expert for samples of a query; every sample gets an outcome.

    Args:
        expert: is asked for all samples in one request, where there are several.
        query: a Query, or whatever record the expert takes.
        samples: the numbers of the samples.
        checks: what a text has to pass.
        redraws: how often a sample that fails a check is drawn again.
        first: the number of the first draw: how many were drawn, and failed a check, in earlier runs.
        known: what the query has so far, to recognise near-copies by; accepted texts are added.
        deadline: a time of the event loop; samples without an outcome by then fail with DEADLINE.

    Raises InputError where no sample can succeed.
    """
    drawing = Drawing(expert, query, samples, checks=checks, redraws=redraws, first=first, known=known)
    while (drawn := drawing.settle(await drawing.ask(deadline))) is None:
        pass
    return drawn


def _count(replies: Sequence[Reply | NoThought], drawn: Drawn) -> None:
    """Add the tokens of one request; its prompt counts once, however many samples it asked for."""
    prompt_tokens, drawn.unanswered = 0, ""
    for reply in replies:
        spent = reply.source if isinstance(reply, Reply) else reply
        prompt_tokens = max(prompt_tokens, spent.prompt_tokens)
        drawn.spent.completion_tokens += spent.completion_tokens
        drawn.spent.uncounted += not reply.counted
        if isinstance(reply, Reply) and reply.answered_by:
            drawn.answered_by.add(reply.answered_by)
        elif isinstance(reply, NoThought) and reply.asked and reply.reason in UNANSWERED:
            drawn.unanswered = str(reply)
    drawn.spent.prompt_tokens += prompt_tokens
    drawn.spent.requests += any(isinstance(reply, Reply) or reply.asked for reply in replies)


def _judged(
    query: RecordT,
    key: str,
    sample: int,
    reply: Reply | NoThought,
    checks: Checking[RecordT] | None,
    known: Known,
) -> Outcome | NoThought:
    """Return the outcome of a reply that passes, else the reason why it does not."""
    if isinstance(reply, NoThought):
        return reply
    if not reply.text.strip():
        return NoThought(Reason.EMPTY)
    fault = fault_of(query, sample, reply.text, reply.source.finish_reason, checks, known)
    if fault is not None:
        return fault
    try:
        return Outcome(key, sample, "", thought_of(key, sample, reply))
    except InputError as error:  # a lone surrogate, say
        return NoThought(Reason.MALFORMED, str(error))


def fault_of(
    query: RecordT,
    sample: int,
    text: str,
    finish_reason: str,
    checks: Checking[RecordT] | None,
    known: Known,
) -> NoThought | None:
    """Return what is wrong with a text by the checks, or None; a text that passes is known from then on."""
    if checks is None:
        return None
    fault = checks.fault(query, text, finish_reason, sample)
    if fault is not None:
        return NoThought(fault, text[:200])
    if Reason.DUPLICATE in checks.names and not known.add(checks.compared(text)):
        return NoThought(Reason.DUPLICATE, "nearly the same as another sample of this query")
    return None


def _kept(key: str, sample: int, reply: Reply | NoThought) -> bytes:
    """Return an answer that failed a check, for when the checks change; b"" where there is no text."""
    try:
        return thought_of(key, sample, reply) if isinstance(reply, Reply) else b""
    except InputError:
        return b""


def thought_of(key: str, sample: int, reply: Reply) -> bytes:
    """Return a sample as an encoded thought. Raises InputError where it is blank or not UTF-8."""
    thought = Thought(query_id=key, thought_id=f"{key}#{sample}", text=reply.text, source=reply.source)
    return thought_outcome(sample, thought).body


def thought_outcome(sample: int, thought: Thought) -> Outcome:
    """Return the outcome of a sample with a thought. Raises InputError where it is blank or not UTF-8."""
    return Outcome(
        thought.query_id, sample, "", encode(thought, f"thought {thought.thought_id!r}", _THOUGHTS)
    )


def failed_outcome(failure: Failure) -> Outcome:
    """Return the outcome of a sample without one."""
    body = encode(failure, f"failure of {failure.query_id!r}", _FAILURES)
    return Outcome(failure.query_id, failure.sample, failure.reason, body)


def failure_of(key: str, sample: int, none: NoThought) -> Outcome:
    """Return the outcome of a sample that has no thought."""
    detail = none.detail.encode(errors="backslashreplace").decode()  # whatever the model wrote
    return failed_outcome(Failure(query_id=key, sample=sample, reason=none.reason, detail=detail))
