"""One request: samples of a query are asked for, checked, drawn again where they fail, and become outcomes.

`draw` touches neither the journal nor the scheduler, so that another driver can call it as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import msgspec

from o1_records import InputError, Record, Thought
from o1_records.jsonl import encode
from o1_synth.checks import Checking, Known
from o1_synth.expert import REDRAWN, ExpertOn, GroupExpert, NoThought, Reason, Reply, key_of

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


@dataclass
class Drawn:
    """What came of one request: an outcome for each sample, the tokens spent, the models that answered."""

    outcomes: list[Outcome] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answered_by: set[str] = field(default_factory=set)


async def draw(
    expert: ExpertOn[RecordT],
    query: RecordT,
    samples: Sequence[int],
    *,
    checks: Checking[RecordT] | None = None,
    redraws: int = 0,
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
        known: what the query has so far, to recognise near-copies by; accepted texts are added.
        deadline: a time of the event loop; samples without an outcome by then fail with DEADLINE.

    Raises InputError where no sample can succeed.
    """
    key, drawn, settled = key_of(query), Drawn(), dict[int, Outcome]()
    known = known or Known()
    left = samples
    try:
        async with asyncio.timeout_at(deadline) as limit:
            for number in range(redraws + 1):
                replies = await _replies(expert, query, left, number)
                _count(replies, drawn)
                again = []
                for sample, reply in zip(left, replies, strict=True):
                    made = _judged(query, key, sample, reply, checks, known)
                    if isinstance(made, Outcome):
                        settled[sample] = made
                    elif made.reason in REDRAWN and number < redraws:
                        again.append(sample)
                    elif made.reason == Reason.DUPLICATE:  # the model has nothing else to say
                        settled[sample] = _failed(key, sample, NoThought(Reason.EXHAUSTED, made.detail))
                    else:
                        settled[sample] = _failed(key, sample, made)
                left = again
                if not left:
                    break
    except TimeoutError as error:
        late = NoThought(Reason.DEADLINE, "in flight at the deadline of the run")
        none = late if limit.expired() else NoThought(Reason.TIMEOUT, str(error))
        for sample in samples:
            settled.setdefault(sample, _failed(key, sample, none))
    drawn.outcomes = list(settled.values())
    return drawn


async def _replies(
    expert: ExpertOn[RecordT], query: RecordT, samples: Sequence[int], number: int
) -> list[Reply | NoThought]:
    try:
        if len(samples) == 1:
            return [await expert.think(query, samples[0], number)]
        return await cast("GroupExpert[RecordT]", expert).think_together(query, samples, number)
    except NoThought as none:
        return [none] * len(samples)


def _count(replies: Sequence[Reply | NoThought], drawn: Drawn) -> None:
    """Add the tokens of one request; its prompt counts once, however many samples it asked for."""
    prompt_tokens = 0
    for reply in replies:
        if isinstance(reply, Reply):
            prompt_tokens = max(prompt_tokens, reply.source.prompt_tokens)
            drawn.completion_tokens += reply.source.completion_tokens
            if reply.answered_by:
                drawn.answered_by.add(reply.answered_by)
    drawn.prompt_tokens += prompt_tokens


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
    if checks is not None:
        fault = checks.fault(query, reply.text, reply.source.finish_reason)
        if fault is not None:
            return NoThought(fault, reply.text[:200])
        if Reason.DUPLICATE in checks.names and not known.add(checks.compared(reply.text)):
            return NoThought(Reason.DUPLICATE, "nearly the same as another sample of this query")
    thought = Thought(query_id=key, thought_id=f"{key}#{sample}", text=reply.text, source=reply.source)
    try:
        return thought_outcome(sample, thought)
    except InputError as error:  # a lone surrogate, say
        return NoThought(Reason.MALFORMED, str(error))


def thought_outcome(sample: int, thought: Thought) -> Outcome:
    """Return the outcome of a sample with a thought. Raises InputError where it is blank or not UTF-8."""
    return Outcome(
        thought.query_id, sample, "", encode(thought, f"thought {thought.thought_id!r}", _THOUGHTS)
    )


def failed_outcome(failure: Failure) -> Outcome:
    """Return the outcome of a sample without one."""
    body = encode(failure, f"failure of {failure.query_id!r}", _FAILURES)
    return Outcome(failure.query_id, failure.sample, failure.reason, body)


def _failed(key: str, sample: int, none: NoThought) -> Outcome:
    detail = none.detail.encode(errors="backslashreplace").decode()  # whatever the model wrote
    return failed_outcome(Failure(query_id=key, sample=sample, reason=none.reason, detail=detail))
