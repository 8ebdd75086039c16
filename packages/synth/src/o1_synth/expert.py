"""What an expert is: someone who writes a thought about a query, or says why there is none.

`ChatExpert` asks a language model, `DocstringExpert` reads what people wrote; anything with the
attributes of `Expert` can stand in for them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from o1_records import Query, Source


class Reason(StrEnum):
    """Why a sample has no thought. All but EXHAUSTED are failures, asked again by a rerun."""

    EXHAUSTED = "exhausted"  # the expert has no further thought about this query
    TIMEOUT = "timeout"  # no whole answer before the deadline
    HTTP_STATUS = "http_status"  # the server said no: 4xx, 429 or 5xx to the last attempt
    UNREACHABLE = "unreachable"  # no connection, or one that broke
    MALFORMED = "malformed"  # an answer that is not a chat completion: HTML, cut JSON, no choice
    EMPTY = "empty"  # a well-formed answer without a visible character


class NoThought(Exception):  # noqa: N818  an outcome that the scheduler counts, not a defect
    """An expert has no thought for one sample, for a typed reason."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One thought's text and where it comes from."""

    text: str
    source: Source


class Expert(Protocol):
    """Writes thoughts about queries."""

    @property
    def source(self) -> Source:
        """What all its thoughts share: model, revision, prompt, sampling. A job has one source."""

    async def think(self, query: Query, sample: int) -> Reply:
        """Write the thought number `sample` (from 0) about a query.

        Raises NoThought for this sample alone; InputError when no sample can succeed.
        """

    async def close(self) -> None:
        """Free what `think` opened; called once, in the same event loop."""


def sample_seed(seed: int, query_id: str, sample: int) -> int:
    """A seed of 31 bits of its own for each (query_id, sample), the same in every process."""
    digest = hashlib.sha256(f"{seed}\0{sample}\0{query_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
