"""Near-copies of texts that must stay unseen in training, by shared shingles (Broder 1997).

A shingle is three neighbouring words, case and punctuation aside. Two texts are near-copies when
at least half of the shingles of both together stand in both (Jaccard >= 0.5). Changing a share e
of the words leaves about s = (1 - e)^3 of the shingles and a Jaccard of s / (2 - s): one half
stands for one word changed in eight. So a vendored or lightly edited function is caught; two
functions that are merely about the same thing are not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

THRESHOLD = 0.5
_WORDS = 3
_WORD = re.compile(r"\w+")

Shingle = tuple[str, ...]


class NearCopies:
    """Says whether a text is a near-copy of one of the texts given here.

    Exact, through an inverted index of shingles: no hashing that could miss a copy.
    """

    def __init__(self, texts: Iterable[str], *, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._sizes: list[int] = []
        self._postings: dict[Shingle, list[int]] = {}
        for row, text in enumerate(texts):
            found = shingles(text)
            self._sizes.append(len(found))
            for shingle in found:
                self._postings.setdefault(shingle, []).append(row)

    def __contains__(self, text: str) -> bool:
        found = shingles(text)
        known = self._postings.keys() & found
        # what both have is part of `known`, and both together have all of `found`
        if len(known) < self._threshold * len(found):
            return False
        shared = Counter(row for shingle in known for row in self._postings[shingle])
        return any(
            both >= self._threshold * (len(found) + self._sizes[row] - both) for row, both in shared.items()
        )


def shingles(text: str) -> set[Shingle]:
    """Every three neighbouring words of a text; of a shorter text, all its words as one."""
    words = _WORD.findall(text.lower())
    if len(words) <= _WORDS:
        return {tuple(words)} if words else set()
    return set(zip(words, words[1:], words[2:], strict=False))
