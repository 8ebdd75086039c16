"""Thoughts that should not help: what a gain through thinking must be compared with.

Thoughts are texts by query_id here, not records, because the empty thought is one of them and a
`Thought` is never blank: `{"q1": ["first thought", "second thought"], ...}`. Each control keeps
the queries and the number of thoughts of each, so that sampling and averaging cost the same and
smooth alike. The controls are made in `o1_records.kit.controls`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from o1_records import Query, Thought
from o1_records.kit.controls import (
    Texts,
    copied_thoughts,
    empty_thoughts,
    filler_thoughts,
    shuffled_thoughts,
)

__all__ = [
    "Control",
    "Texts",
    "controls_of",
    "copied_thoughts",
    "empty_thoughts",
    "filler_thoughts",
    "shuffled_thoughts",
    "thought_texts",
]


def thought_texts(thoughts: Iterable[Thought]) -> Texts:
    """Return the texts of each query's thoughts, in the order of thought_id."""
    found = sorted(thoughts, key=lambda thought: (thought.query_id, thought.thought_id))
    texts: Texts = {}
    for thought in found:
        texts.setdefault(thought.query_id, []).append(thought.text)
    return texts


class Control(NamedTuple):
    """Texts that should not help, and the note that results carry."""

    texts: Texts
    note: str


def controls_of(thoughts: Mapping[str, Sequence[str]], queries: Iterable[Query]) -> dict[str, Control]:
    """Return all controls of given thoughts by name; `queries` are those that the thoughts are about.

    Raises InputError as `shuffled_thoughts` and `copied_thoughts` do.
    """
    return {
        "empty": Control(empty_thoughts(thoughts), "room for a thought"),
        "shuffled": Control(shuffled_thoughts(thoughts), "another query's thought"),
        "filler": Control(filler_thoughts(thoughts), "same length"),
        "copy": Control(copied_thoughts(thoughts, queries), "the query again"),
    }
