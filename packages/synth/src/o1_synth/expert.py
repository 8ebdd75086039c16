"""What an expert is: it writes a thought about a query, or says why there is none.

`ChatExpert` asks a language model behind a server, `DocstringExpert` reads what people wrote; a class of your
own needs the three members of `Expert`. What all experts that ask a language model share is at the end.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from o1_records import InputError, Query, Record, Source, quoted
from o1_synth.answer import Answer
from o1_synth.prompt import Prompt, Prompting
from o1_synth.template import Message

RecordT = TypeVar("RecordT", bound=Record, contravariant=True)


class Reason(StrEnum):
    """Why a sample has no thought. All but EXHAUSTED are failures, which a rerun asks for again."""

    EXHAUSTED = "exhausted"  # the expert has no further thought about this query
    TIMEOUT = "timeout"  # no complete answer within the timeout of the request
    STALLED = "stalled"  # a stream that began and then brought no token for too long
    HTTP_STATUS = "http_status"  # the last attempt was answered with a 4xx or 5xx status
    UNREACHABLE = "unreachable"  # no connection, or a broken one
    REJECTED = "rejected"  # the engine in this process does not accept the prompt
    ABORTED = "aborted"  # the server or the engine ended the answer, neither the model nor max_tokens did
    MALFORMED = "malformed"  # not a chat completion: HTML, truncated JSON, no choice
    DEADLINE = "deadline"  # still in flight at the deadline of the whole run
    NOT_ASKED = "not_asked"  # the run ended before its turn
    PENDING = "pending"  # asked for in a batch file; its result is not there yet
    EMPTY = "empty"  # a well-formed answer without visible text, or without what its template keeps
    TRUNCATED = "truncated"  # cut off by max_tokens, where the checks refuse that
    REFUSAL = "refusal"  # the model, or a filter, declined
    ECHO = "echo"  # repeats the query and adds nothing
    SCAFFOLD = "scaffold"  # repeats the prompt: its labels, its instructions, another query with an answer
    LEAK = "leak"  # copies a passage that it should not know, or one that the prompt showed
    LOOP = "loop"  # ends in repeating itself
    LANGUAGE = "language"  # in another script than the query
    UNPARSED = "unparsed"  # not in the requested form: no <score>, no <query>, neither yes nor no
    DEPENDENT = "dependent"  # a query that refers to the document it was written from
    LENGTH = "length"  # a query of another length than was drawn for it
    OVERLAP = "overlap"  # a query in the words of its document
    DUPLICATE = "duplicate"  # a near-copy of another sample; counted as exhausted after the last draw


REDRAWN = frozenset(
    {
        Reason.ABORTED,
        Reason.EMPTY,
        Reason.TRUNCATED,
        Reason.REFUSAL,
        Reason.ECHO,
        Reason.SCAFFOLD,
        Reason.LEAK,
        Reason.LOOP,
        Reason.LANGUAGE,
        Reason.UNPARSED,
        Reason.DEPENDENT,
        Reason.LENGTH,
        Reason.OVERLAP,
        Reason.DUPLICATE,
    }
)
"""Reasons for which another seed may do better."""

UNANSWERED = frozenset(
    {
        Reason.TIMEOUT,
        Reason.STALLED,
        Reason.HTTP_STATUS,
        Reason.UNREACHABLE,
        Reason.REJECTED,
        Reason.MALFORMED,
    }
)
"""Reasons that say nothing about the text: there was none."""


class NoThought(Exception):  # noqa: N818  an outcome that the scheduler counts, not a defect
    """An expert has no thought for one sample, for a typed reason.

    Where a model answered all the same, these are the tokens of its answer. `asked` is False where no request
    went out.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        counted: bool = True,
        asked: bool = True,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.prompt_tokens, self.completion_tokens, self.counted = prompt_tokens, completion_tokens, counted
        self.asked = asked


class NotSamplingError(InputError):
    """A model gives the same text whatever the seed, although it was asked to sample."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The text of one thought and its source.

    `answered_by` is the model name that the server reports, `counted` says whether the server counted tokens.
    """

    text: str
    source: Source
    answered_by: str = ""
    counted: bool = True


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


class ModelExpert(ABC):
    """Asks one model with one prompt and one sampling; a subclass says how the model is reached.

    What it is asked about goes to the prompt as it is: a Query, or whatever record that prompt is for.
    `request` is JSON: what else shapes the answers, for their source. `continues` says whether the model
    can be made to go on after the prefix of the template.
    """

    def __init__(
        self,
        model: str,
        revision: str,
        prompt: Prompting | None,
        sampling: Sampling | None,
        *,
        request: Mapping[str, Any] | None = None,
        continues: bool = False,
    ) -> None:
        self.prompt: Prompting = prompt or Prompt()
        self.sampling = sampling or Sampling()
        self.prefix = self.prompt.template.prefix if continues else ""
        more = self.prompt.template.stop_after_prefix if self.prefix else ()
        self.stop: tuple[str, ...] = (*self.prompt.template.stop, *more)
        request = {**(request or {}), **({"prefix": self.prefix} if self.prefix else {})}
        unset = request.get("omit", ())
        self._seeded = "seed" not in unset
        self._source = Source(
            model=model,
            revision=revision,
            prompt_digest=self.prompt.digest,
            **{
                name: getattr(self.sampling, name)
                for name in ("temperature", "top_p", "max_tokens")
                if name not in unset
            },
            seed=self.sampling.seed if self._seeded else 0,
            request=msgspec.json.encode(request, order="sorted").decode() if request else "",
        )
        self._repeats = _Repeats()

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
        """Ask for several thoughts in one request, with the prompt and the seed of the first sample.

        Raises NotSamplingError where texts repeat whatever the seed.
        """
        seed = sample_seed(self.sampling.seed, key_of(query), samples[0], draw)
        messages = self.prompt.messages(query, samples[0])
        answers = await self._answers(messages, seed, len(samples))
        if self.sampling.temperature > 0:
            said = [answer.text for answer in answers if isinstance(answer, Answer) and answer.whole]
            if self._repeats.add(messages, said):
                raise NotSamplingError(self._repeats.told(self._source.model, self.sampling.temperature))
        return [answer if isinstance(answer, NoThought) else self._reply(answer, seed) for answer in answers]

    @abstractmethod
    async def close(self) -> None:
        """Release what the requests of this run opened."""

    @abstractmethod
    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        """Return `count` answers to one request; raises as `think` does."""

    def _reply(self, answer: Answer, seed: int) -> Reply | NoThought:
        """Return what an answer is worth: only the model, or max_tokens, can have ended a thought."""
        none = partial(
            NoThought,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            counted=answer.counted,
        )
        if answer.finish_reason == "content_filter" or (answer.refusal and not answer.text):
            return none(Reason.REFUSAL, quoted(answer.refusal or answer.finish_reason, 200))
        if not answer.whole:
            return none(Reason.ABORTED, f"finish_reason {answer.finish_reason!r}")
        text = self.prompt.template.clean(answer.text, continued=bool(self.prefix))
        if not text:
            after = f", after {len(answer.reasoning)} characters of reasoning" if answer.reasoning else ""
            said = f"; the model said {quoted(answer.text, 100)}" if answer.text else ""
            return none(Reason.EMPTY, f"finish_reason {answer.finish_reason!r}{after}{said}")
        source = msgspec.structs.replace(
            self._source,
            seed=seed if self._seeded else 0,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        return Reply(text=text, source=source, answered_by=answer.model, counted=answer.counted)


class _Repeats:
    """Notices a model that does not sample, by the texts that it repeats under different seeds.

    Until two answers to one prompt differed, repeated texts are counted. One says little, and short ones (a
    refusal, say) less than long ones: it takes eight with 60 words in those of a dozen or more, or 20.
    """

    _WORDS, _FEWEST, _TEXTS, _LONG = 60, 8, 20, 12
    _REMEMBERED = 10_000  # prompts

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._words = self._texts = 0
        self._sampled = False

    def add(self, messages: list[Message], said: Sequence[str]) -> bool:
        """Take the texts that answer a prompt; return whether the model does not sample."""
        if self._sampled:
            return False
        prompt = hashlib.sha256(msgspec.json.encode(messages)).hexdigest()
        for text in said:
            if self._sampled:
                return False
            before = self._said.setdefault(prompt, text)
            if before is not text and before == text:
                self._texts += 1
                self._words += len(text.split()) * (len(text.split()) >= self._LONG)
            elif before != text:
                self._sampled = True
                self._said.clear()
            if len(self._said) > self._REMEMBERED:
                self._said.pop(next(iter(self._said)))
        long = self._words >= self._WORDS and self._texts >= self._FEWEST
        return long or self._texts >= self._TEXTS

    def told(self, model: str, temperature: float) -> str:
        """Return what to tell the user."""
        return (
            f"{model!r} gives the same text whatever the seed (temperature {temperature:g}): it does not "
            "sample, or what is between does not pass the sampling on; correct that and run the same command "
            "again, or ask for --samples 1 with --temperature 0"
        )


class ExpertOf(Protocol):
    """Makes an expert that asks with a prompt, as `functools.partial(ChatExpert, url, model)` does."""

    def __call__(self, *, prompt: Prompting) -> ExpertOn[Any]:
        """Return the expert; what it is asked about is what the prompt builds messages of."""
