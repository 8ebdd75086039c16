"""What an expert is: someone who writes a thought about a query, or says why there is none.

`ChatExpert` asks a language model, `DocstringExpert` reads what people wrote; anything with the
attributes of `Expert` can stand in for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from o1_records import Query, Source


class Reason(StrEnum):
    """Why a sample has no thought. All but EXHAUSTED are failures, asked again by a rerun."""

    EXHAUSTED = "exhausted"  # the expert has no further thought about this query
    TIMEOUT = "timeout"  # no whole answer before the deadline of the request
    STALLED = "stalled"  # tokens came, then none for too long
    HTTP_STATUS = "http_status"  # the server said no: 4xx, 429 or 5xx to the last attempt
    UNREACHABLE = "unreachable"  # no connection, or one that broke
    REJECTED = "rejected"  # the engine in this process does not take the prompt, or cut the answer
    MALFORMED = "malformed"  # an answer that is not a chat completion: HTML, cut JSON, no choice
    DEADLINE = "deadline"  # in flight when the time of the whole run was over
    NOT_ASKED = "not_asked"  # the run ended before its turn
    EMPTY = "empty"  # a well-formed answer without a visible character
    TRUNCATED = "truncated"  # ended by max_tokens, where that is refused
    REFUSAL = "refusal"  # the model or its filter declined
    ECHO = "echo"  # the query's own words and nothing else
    LEAK = "leak"  # a passage that the thought should not know, copied
    LOOP = "loop"  # the same words over and over
    LANGUAGE = "language"  # another script than the query's
    UNPARSED = "unparsed"  # not in the form that was asked for: no <score>, no <query>, not yes or no
    DEPENDENT = "dependent"  # a query that speaks of the document it was written of
    DUPLICATE = "duplicate"  # nearly another sample of the query; exhausted after the last draw


# Another seed may do better.
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


class NoThought(Exception):  # noqa: N818  an outcome that the scheduler counts, not a defect
    """An expert has no thought for one sample, for a typed reason."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One thought's text and where it comes from; `answered_by` is what the server calls itself."""

    text: str
    source: Source
    answered_by: str = ""


class Expert(Protocol):
    """Writes thoughts about queries."""

    @property
    def source(self) -> Source:
        """What all its thoughts share: model, revision, prompt, sampling. A job has one source."""

    async def think(self, query: Query, sample: int, draw: int = 0) -> Reply:
        """Write the thought number `sample` (from 0) about a query.

        `draw` counts how often the same sample was drawn in vain before.
        Raises NoThought for this sample alone; InputError when no sample can succeed.
        """

    async def close(self) -> None:
        """Free what `think` opened; called once, in the same event loop."""


class GroupExpert(Expert, Protocol):
    """An expert that can write several thoughts about a query in one request."""

    async def think_together(
        self, query: Query, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Write the thoughts numbered `samples`, in that order; raises as `think` does."""


def sample_seed(seed: int, query_id: str, sample: int, draw: int = 0) -> int:
    """A seed of 31 bits of its own for each (query_id, sample, draw), the same in every process."""
    number = f"{sample}.{draw}" if draw else str(sample)
    digest = hashlib.sha256(f"{seed}\0{number}\0{query_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
