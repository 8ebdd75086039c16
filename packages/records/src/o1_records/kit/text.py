"""How alike two texts are: words, shingles (runs of words) and the share of them in common.

Case and punctuation do not count. Broder (1997) calls runs of words shingles and their shared part the
resemblance of two texts.
"""

from __future__ import annotations

import re
from collections.abc import Set

_WORD = re.compile(r"\w+")
SHINGLE = 3
"""Words of a shingle, unless said otherwise."""


def words(text: str) -> list[str]:
    """Return the words of a text, case folded, without punctuation."""
    return _WORD.findall(text.casefold())


def shingles(text: str, size: int = SHINGLE) -> frozenset[str]:
    """Return the distinct runs of `size` words; a shorter text is one run, a text without words none."""
    return runs(words(text), size)


def runs(found: list[str], size: int) -> frozenset[str]:
    """Return the distinct runs of `size` words of a list; a shorter list is one run, an empty one none."""
    if 0 < len(found) < size:
        return frozenset([" ".join(found)])
    return frozenset(" ".join(found[start : start + size]) for start in range(len(found) - size + 1))


def jaccard(one: Set[str], other: Set[str]) -> float:
    """Return shared shingles over all shingles of both; 1 for two texts without words."""
    together = len(one | other)
    return len(one & other) / together if together else 1.0


def contained(part: Set[str], whole: Set[str]) -> float:
    """Return the share of the shingles of `part` that `whole` has too; 0 where `part` has none."""
    return len(part & whole) / len(part) if part else 0.0
