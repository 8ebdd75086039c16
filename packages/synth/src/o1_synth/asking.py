"""What experts that ask a language model share: how it draws, where a thought comes from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from o1_records import InputError, Query, Source, quoted
from o1_synth.expert import NoThought, Reason, Reply
from o1_synth.prompt import Message, Prompt
from o1_synth.wire import Answer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the model draws: temperature, nucleus, tokens at most, and the seed of all seeds."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no model can draw with."""
        for name, value, fits, range_ in (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1"),
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more"),
        ):
            if not fits:
                raise InputError(f"{name} is {value}; it must be {range_}")


class Prompting(Protocol):
    """Builds the messages that ask about a query; `digest` names everything that shapes them."""

    digest: str

    def messages(self, query: Query) -> list[Message]:
        """The chat messages of a query, always the same."""


class ModelExpert(ABC):
    """Asks one model with one prompt and one sampling; its kinds say how the model is reached."""

    def __init__(
        self, model: str, revision: str, prompt: Prompting | None, sampling: Sampling | None
    ) -> None:
        self.prompt, self.sampling = prompt or Prompt(), sampling or Sampling()
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
        """Model, revision, prompt digest and sampling; `seed` is the seed of all seeds."""
        return self._source

    async def think(self, query: Query, sample: int, draw: int = 0) -> Reply:
        """Ask for one thought; the reply's `seed` is the one that it was drawn with.

        Raises NoThought with the reason why there is none, InputError when no request can succeed.
        """
        (reply,) = await self.think_together(query, (sample,), draw)
        if isinstance(reply, NoThought):
            raise reply
        return reply

    @abstractmethod
    async def think_together(
        self, query: Query, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Ask for several thoughts in one request, whose seed is that of the first sample."""

    @abstractmethod
    async def close(self) -> None:
        """Free what the requests of this run opened."""

    def _reply(self, answer: Answer, seed: int, count: int = 1) -> Reply | NoThought:
        """The thought in an answer to a request for `count`, whose completion tokens they share."""
        if answer.finish_reason == "content_filter" or (answer.refusal and not answer.text):
            return NoThought(Reason.REFUSAL, quoted(answer.refusal or answer.finish_reason, 200))
        if not answer.text:
            thought = f", after {len(answer.reasoning)} characters of reasoning" if answer.reasoning else ""
            return NoThought(Reason.EMPTY, f"finish_reason {answer.finish_reason!r}{thought}")
        source = msgspec.structs.replace(
            self._source,
            seed=seed,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens // count,
        )
        return Reply(text=answer.text, source=source, answered_by=answer.model)
