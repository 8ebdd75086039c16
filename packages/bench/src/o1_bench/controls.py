"""Thoughts that should not help: what a gain through thinking must be compared with.

Thoughts are texts by query_id here, not records, because the empty thought is one of them and a
`Thought` is never blank: `{"q1": ["first thought", "second thought"], ...}`. Each control keeps
the queries and gives thoughts in the same number, so that sampling and averaging cost and
smooth alike. Every function is pure; none depends on the order of the mapping.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice

from o1_records import InputError, Thought, quoted

Texts = dict[str, list[str]]

# stop words only: no content, and nothing at all to a lexical retriever
_FILLER = ("and", "so", "it", "is", "as", "it", "was", "and", "that", "is", "how", "it", "is")


def thought_texts(thoughts: Iterable[Thought]) -> Texts:
    """The texts of each query's thoughts, by thought_id."""
    found = sorted(thoughts, key=lambda thought: (thought.query_id, thought.thought_id))
    texts: Texts = {}
    for thought in found:
        texts.setdefault(thought.query_id, []).append(thought.text)
    return texts


def empty_thoughts(thoughts: Mapping[str, Sequence[str]]) -> Texts:
    """As many thoughts as each query has, all empty: what does the room for one do?"""
    return {query_id: [""] * len(texts) for query_id, texts in thoughts.items()}


def shuffled_thoughts(thoughts: Mapping[str, Sequence[str]], seed: int = 0) -> Texts:
    """Each query gets all thoughts of another query, never its own: does their content matter?

    The queries stand in a circle in an order that `seed` decides, and each takes its neighbour's.

    Raises:
        InputError: fewer than two queries, so that there is no other.
    """
    if len(thoughts) < 2:
        raise InputError(
            f"shuffling needs the thoughts of two queries or more, got {quoted(sorted(thoughts))}"
        )
    circle = sorted(thoughts, key=lambda query_id: (_draw(seed, query_id), query_id))
    other = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    return {query_id: list(thoughts[other[query_id]]) for query_id in thoughts}


def filler_thoughts(thoughts: Mapping[str, Sequence[str]]) -> Texts:
    """Each thought becomes as many words that say nothing: what does its length alone do?"""
    return {
        query_id: [" ".join(islice(cycle(_FILLER), len(text.split()))) for text in texts]
        for query_id, texts in thoughts.items()
    }


def _draw(seed: int, query_id: str) -> bytes:
    return hashlib.sha256(f"{seed} {query_id}".encode()).digest()
