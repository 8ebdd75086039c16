"""What a thinker is: it writes thoughts about queries, in a style that says what is asked for and kept.

Styles are those of `o1_records.styles`; a checkpoint has learnt its own way and has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from o1_model.thinking.settings import Thinking
from o1_records import InputError, Query, Source, Thought, quoted
from o1_records.styles import QUERY_STYLES, Style

if TYPE_CHECKING:  # imported at run time only where something is decoded: it needs PyTorch
    from o1_model.thinking.decode import Aloud


class Thinker(Protocol):
    """Whatever writes thoughts about queries."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that changes a thought beside query and `Thinking`, in values that JSON can hold."""

    @property
    def usual(self) -> Thinking:
        """How it thinks unless it is told otherwise."""

    def think(self, queries: Sequence[Query], thinking: Thinking) -> list[list[Thought]]:
        """Return the thoughts about each query, at most `thinking.samples`; blank ones are left out."""


@runtime_checkable
class ThinksAloud(Thinker, Protocol):
    """A thinker that can be listened to."""

    def think_aloud(self, query: Query, thinking: Thinking, aloud: Aloud) -> list[Thought]:
        """Return what `think` returns for one query; `aloud` hears it while it is written."""


def style_of(style: str | Style) -> Style:
    """Return a style by its name, or itself. Raises InputError for a name that is none."""
    if isinstance(style, Style):
        return style
    if style not in QUERY_STYLES:
        raise InputError(f"unknown style {quoted(style)}; choose one of {', '.join(QUERY_STYLES)}")
    return QUERY_STYLES[style]


def style_name(style: Style) -> str:
    """Return the name of a style that every package knows, else a digest of its content."""
    known = next((name for name, each in QUERY_STYLES.items() if each == style), None)
    return known or f"sha256:{style_digest(style)}"


def style_digest(style: Style) -> str:
    """Return what names a style by its content."""
    return hashlib.sha256(msgspec.json.encode(style)).hexdigest()[:16]


def sample_of(query: Query, sample: int, text: str, source: Source, ids: Sequence[int] = ()) -> Thought:
    """Return a thought as a record, named as all thoughts are: `QUERY_ID#SAMPLE`."""
    return Thought(
        query_id=query.query_id,
        thought_id=f"{query.query_id}#{sample}",
        text=text,
        source=source,
        token_ids=tuple(ids),
    )
