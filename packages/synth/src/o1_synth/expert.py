"""What an expert is: it writes a thought about a query, or says why there is none.

`ChatExpert` asks a language model behind a server, `DocstringExpert` reads what people wrote; a class of your
own needs the three members of `Expert`. What all experts that ask a language model share is at the end.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import msgspec

from o1_records import InputError, Query, Record, Source, quoted
from o1_synth.prompt import Message, Prompt, Prompting

RecordT = TypeVar("RecordT", bound=Record, contravariant=True)


class Reason(StrEnum):
    """Why a sample has no thought. All but EXHAUSTED are failures, which a rerun asks for again."""

    EXHAUSTED = "exhausted"  # the expert has no further thought about this query
    TIMEOUT = "timeout"  # no complete answer within the timeout of the request
    STALLED = "stalled"  # a stream that began and then brought no token for too long
    HTTP_STATUS = "http_status"  # the last attempt was answered with a 4xx or 5xx status
    UNREACHABLE = "unreachable"  # no connection, or a broken one
    REJECTED = "rejected"  # the engine in this process does not accept the prompt, or aborted the answer
    MALFORMED = "malformed"  # not a chat completion: HTML, truncated JSON, no choice
    DEADLINE = "deadline"  # still in flight at the deadline of the whole run
    NOT_ASKED = "not_asked"  # the run ended before its turn
    EMPTY = "empty"  # a well-formed answer without visible text
    TRUNCATED = "truncated"  # cut off by max_tokens, where the checks refuse that
    REFUSAL = "refusal"  # the model, or a filter, declined
    ECHO = "echo"  # repeats the query and adds nothing
    LEAK = "leak"  # copies a passage that the thought should not know
    LOOP = "loop"  # ends in repeating itself
    LANGUAGE = "language"  # in another script than the query
    UNPARSED = "unparsed"  # not in the requested form: no <score>, no <query>, neither yes nor no
    DEPENDENT = "dependent"  # a query that refers to the document it was written from
    DUPLICATE = "duplicate"  # a near-copy of another sample; counted as exhausted after the last draw


REDRAWN = frozenset(
    {
        Reason.EMPTY,
        Reason.TRUNCATED,
        Reason.REFUSAL,
        Reason.ECHO,
        Reason.LEAK,
        Reason.LOOP,
        Reason.LANGUAGE,
        Reason.UNPARSED,
        Reason.DEPENDENT,
        Reason.DUPLICATE,
    }
)
"""Reasons for which another seed may do better."""


class NoThought(Exception):  # noqa: N818  an outcome that the scheduler counts, not a defect
    """An expert has no thought for one sample, for a typed reason."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The text of one thought and its source; `answered_by` is the model name that the server reports."""

    text: str
    source: Source
    answered_by: str = ""


class ExpertOn(Protocol[RecordT]):
    """Writes texts about records of one kind; `Expert` is the kind that writes about queries."""

    @property
    def source(self) -> Source:
        """Return what all its thoughts share: model, revision, prompt, sampling. A job has one source."""

    async def think(self, query: RecordT, sample: int, draw: int = 0) -> Reply:
        """Write thought number `sample` (from 0) about a query.

        `draw` counts earlier draws of the same sample that failed a check.
        Raises NoThought where only this sample fails, InputError where no sample can succeed.
        """

    async def close(self) -> None:
        """Release what `think` opened; called once at the end of a run, in the same event loop."""


class Expert(ExpertOn[Query], Protocol):
    """Writes thoughts about queries."""


class GroupExpert(ExpertOn[RecordT], Protocol[RecordT]):
    """An expert that can also write several thoughts about a query in one request."""

    async def think_together(
        self, query: RecordT, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Write the thoughts with the numbers `samples`, in that order; raises as `think` does."""


def key_of(record: Record) -> str:
    """Return the key of a record in a job: its key fields, joined by tabs."""
    return "\t".join([getattr(record, field) for field in record.key_fields])


def sample_seed(seed: int, key: str, sample: int, draw: int = 0) -> int:
    """Return the seed (31 bits) of one draw of a sample of the record `key`; the same in every process."""
    number = f"{sample}.{draw}" if draw else str(sample)
    digest = hashlib.sha256(f"{seed}\0{number}\0{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


# --- experts that ask a language model ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the model samples. `seed` is what the seed of every request is derived from."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for values that no model can sample with."""
        for name, value, valid, wanted in (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more"),
        ):
            if not valid:
                raise InputError(f"{name} must be {wanted}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of a model. `text` is stripped, without reasoning, and may be empty.

    `prompt_tokens` are those of the request, `completion_tokens` those of this answer; where only their sum
    over several answers is known, an equal share of it. `model` is the name that the server reports.
    """

    text: str
    reasoning: str = ""
    refusal: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""


def split_reasoning(content: str) -> tuple[str, str]:
    """Return (answer, reasoning) of a message whose reasoning stands between `<think>` and `</think>`.

    Only a block that opens the message counts. Without `</think>` everything after `<think>` is reasoning;
    without `<think>`, which some chat templates put into the prompt, everything before `</think>` is.
    """
    opening, closing = "<think>", "</think>"
    content = content.strip()
    if not content.startswith(opening):
        before, found, after = content.partition(closing)
        return (after.strip(), before.strip()) if found and opening not in before else (content, "")
    reasoning, _, answer = content.removeprefix(opening).partition(closing)
    return answer.strip(), reasoning.strip()


class ModelExpert(ABC):
    """Asks one model with one prompt and one sampling; a subclass says how the model is reached.

    What it is asked about goes to the prompt as it is: a Query, or whatever record that prompt is for.
    """

    def __init__(
        self, model: str, revision: str, prompt: Prompting | None, sampling: Sampling | None
    ) -> None:
        self.prompt: Prompting = prompt or Prompt()
        self.sampling = sampling or Sampling()
        self._source = Source(
            model=model,
            revision=revision,
            prompt_digest=self.prompt.digest,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_tokens,
            seed=self.sampling.seed,
        )

    @property
    def source(self) -> Source:
        """Return model, revision, prompt digest and sampling; `seed` is that of the sampling."""
        return self._source

    async def think(self, query: Record, sample: int, draw: int = 0) -> Reply:
        """Ask for one thought; the `seed` of the reply's source is the one it was sampled with.

        Raises NoThought with the reason why there is none, InputError where no request can succeed.
        """
        (reply,) = await self.think_together(query, (sample,), draw)
        if isinstance(reply, NoThought):
            raise reply
        return reply

    async def think_together(
        self, query: Record, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Ask for several thoughts in one request, with the seed of the first sample."""
        seed = sample_seed(self.sampling.seed, key_of(query), samples[0], draw)
        answers = await self._answers(self.prompt.messages(query), seed, len(samples))
        return [answer if isinstance(answer, NoThought) else self._reply(answer, seed) for answer in answers]

    @abstractmethod
    async def close(self) -> None:
        """Release what the requests of this run opened."""

    @abstractmethod
    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        """Return `count` answers to one request; raises as `think` does."""

    def _reply(self, answer: Answer, seed: int) -> Reply | NoThought:
        if answer.finish_reason == "content_filter" or (answer.refusal and not answer.text):
            return NoThought(Reason.REFUSAL, quoted(answer.refusal or answer.finish_reason, 200))
        if not answer.text:
            after = f", after {len(answer.reasoning)} characters of reasoning" if answer.reasoning else ""
            return NoThought(Reason.EMPTY, f"finish_reason {answer.finish_reason!r}{after}")
        source = msgspec.structs.replace(
            self._source,
            seed=seed,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        return Reply(text=answer.text, source=source, answered_by=answer.model)


class ExpertOf(Protocol):
    """Makes an expert that asks with a prompt, as `functools.partial(ChatExpert, url, model)` does."""

    def __call__(self, *, prompt: Prompting) -> ExpertOn[Any]:
        """Return the expert; what it is asked about is what the prompt builds messages of."""
