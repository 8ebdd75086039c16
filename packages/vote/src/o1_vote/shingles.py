"""How alike two texts are by the words that follow each other in them."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
SHINGLE = 3
"""Words of a shingle; a shorter text is one shingle."""


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation."""
    return _WORD.findall(text.casefold())


def shingles(text: str, size: int = SHINGLE) -> frozenset[str]:
    """The distinct runs of `size` words; empty for a text without a word."""
    found = words(text)
    if 0 < len(found) < size:
        return frozenset([" ".join(found)])
    return frozenset(" ".join(found[i : i + size]) for i in range(len(found) - size + 1))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared shingles over all; 1 for two texts without a word."""
    together = len(one | other)
    return len(one & other) / together if together else 1.0
