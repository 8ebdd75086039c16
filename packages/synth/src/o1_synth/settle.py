"""One request to its end: a query's samples are drawn, checked, drawn again, and become outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from o1_records import InputError, Query, Thought
from o1_synth.checks import Checking, Siblings
from o1_synth.expert import REDRAWN, Expert, GroupExpert, NoThought, Reason, Reply
from o1_synth.journal import Journal, Outcome, failed_outcome, thought_outcome
from o1_synth.ledger import Failure
from o1_synth.watch import Watch

_ANSWERS_AS = "answers as"
_ALIKE = "nearly another thought about the same query"


class Settler:
    """Asks an expert about a query's samples and files each answer under the sample it is for.

    `redraws` is how often a sample whose text failed a check is drawn again. Raises InputError when
    another model begins to answer in the middle of a job.
    """

    def __init__(
        self, expert: Expert, journal: Journal, watch: Watch, *, checks: Checking | None, redraws: int
    ) -> None:
        self._expert, self._journal, self._watch = expert, journal, watch
        self._checks, self._redraws = checks, redraws
        self._siblings = Siblings(self._known)
        self._answers_as = journal.note(_ANSWERS_AS) or ""

    async def settle(self, query: Query, samples: Sequence[int], deadline: float | None) -> list[Outcome]:
        """The outcomes of all samples, whatever happens before the deadline (the loop's time)."""
        settled: dict[int, Outcome] = {}
        self._siblings.begin(query.query_id)
        try:
            async with asyncio.timeout_at(deadline):
                await self._draw(query, samples, settled)
        except TimeoutError:
            for sample in samples:
                none = NoThought(Reason.DEADLINE, "in flight when the time of the run was over")
                settled.setdefault(sample, _failed(query, sample, none))
        finally:
            self._siblings.end(query.query_id)
        return list(settled.values())

    async def _draw(self, query: Query, samples: Sequence[int], settled: dict[int, Outcome]) -> None:
        for draw in range(self._redraws + 1):
            again = []
            replies = await self._replies(query, samples, draw)
            self._watch.spent(replies)
            for sample, reply in zip(samples, replies, strict=True):
                outcome = self._outcome(query, sample, reply)
                if outcome.reason in REDRAWN and draw < self._redraws:
                    again.append(sample)
                elif outcome.reason == Reason.DUPLICATE:  # the model has no more to say
                    settled[sample] = _failed(query, sample, NoThought(Reason.EXHAUSTED, _ALIKE))
                else:
                    settled[sample] = outcome
            samples = again
            if not samples:
                break

    async def _replies(self, query: Query, samples: Sequence[int], draw: int) -> list[Reply | NoThought]:
        try:
            if len(samples) == 1:
                return [await self._expert.think(query, samples[0], draw)]
            return await cast("GroupExpert", self._expert).think_together(query, samples, draw)
        except NoThought as none:
            return [none] * len(samples)

    def _outcome(self, query: Query, sample: int, reply: Reply | NoThought) -> Outcome:
        try:
            if isinstance(reply, NoThought):
                raise reply
            self._refuse_another(reply.answered_by)
            self._check(query, reply)
            thought = Thought(
                query_id=query.query_id,
                thought_id=f"{query.query_id}#{sample}",
                text=reply.text,
                source=reply.source,
            )
            return _filed(sample, thought)
        except NoThought as none:
            return _failed(query, sample, none)

    def _check(self, query: Query, reply: Reply) -> None:
        if not reply.text.strip():
            raise NoThought(Reason.EMPTY)
        if self._checks is None:
            return
        fault = self._checks.fault(query, reply.text, reply.source.finish_reason)
        if fault is not None:
            raise NoThought(fault, reply.text[:200])
        if Reason.DUPLICATE in self._checks.names:
            new = self._siblings.take(query.query_id, self._checks.compared(reply.text))
            if not new:
                raise NoThought(Reason.DUPLICATE, _ALIKE)

    def _known(self, query_id: str) -> list[str]:
        """What is compared of the thoughts that the journal has about a query, where anything is."""
        if self._checks is None or Reason.DUPLICATE not in self._checks.names:
            return []
        return [self._checks.compared(text) for text in self._journal.texts(query_id)]

    def _refuse_another(self, name: str) -> None:
        if name and not self._answers_as:
            self._answers_as = name
            self._journal.set_note(_ANSWERS_AS, name)
        if name and name != self._answers_as:
            raise InputError(
                f"{self._journal.folder}: was answered by model {self._answers_as!r} so far, now "
                f"{name!r} answers at the same address; start the first again, or begin a new job"
            )


def _filed(sample: int, thought: Thought) -> Outcome:
    try:
        return thought_outcome(sample, thought)
    except InputError as error:
        raise NoThought(Reason.MALFORMED, str(error)) from error


def _failed(query: Query, sample: int, none: NoThought) -> Outcome:
    return failed_outcome(
        Failure(query_id=query.query_id, sample=sample, reason=none.reason, detail=_text(none.detail))
    )


def _text(detail: str) -> str:
    """A detail that a file can hold, whatever a model wrote."""
    return detail.encode(errors="backslashreplace").decode()
