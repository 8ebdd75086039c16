"""Exact and near-duplicates among texts, in the order in which they come.

Near ones need the extra `dedup`.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any, NamedTuple

from o1_records import InputError, MissingExtraError
from o1_vote.shingles import jaccard, shingles, words

_PERMUTATIONS = 128


class Twin(NamedTuple):
    """The text that came before, by its name, and the share of shingles in common."""

    name: str
    similarity: float


class Duplicates:
    """Says of each text whether one like it came before.

    Two texts are duplicates when they have the same words, case and punctuation aside. With `near` (0 to
    1) they also are when they share that part of their word triples or more; MinHash finds the pairs,
    and every pair found is counted exactly. It misses some pairs just above the limit. Texts without a
    word are duplicates of each other. Memory holds a digest, or a MinHash, of each text, not the text.
    """

    def __init__(self, near: float | None = None) -> None:
        if near is not None and not 0 < near <= 1:
            raise InputError(f"a share of {near} in common is not above 0 and at most 1")
        self._near = near
        self._exact: dict[bytes, str] = {}
        self._index: Any = _lsh(near) if near is not None else None
        # SQLite's own temporary file, removed with the connection
        self._texts = sqlite3.connect("", isolation_level=None)
        self._texts.execute("CREATE TABLE text (name TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")

    def first(self, name: str, text: str) -> Twin | None:
        """The most alike of the texts before, or None; a text without a twin is remembered."""
        digest = hashlib.blake2b(" ".join(words(text)).encode(), digest_size=16).digest()
        if digest in self._exact:
            return Twin(self._exact[digest], 1.0)
        twin = self._near_twin(name, text) if self._near is not None else None
        if twin is None:
            self._exact[digest] = name
        return twin

    def _near_twin(self, name: str, text: str) -> Twin | None:
        own, sketch = shingles(text), _sketch(text)
        found = [
            Twin(other, jaccard(own, shingles(self._text(other)))) for other in self._index.query(sketch)
        ]
        best = min(found, key=lambda twin: (-twin.similarity, twin.name), default=None)
        if best is not None and best.similarity >= (self._near or 0):
            return best
        self._index.insert(name, sketch)
        self._texts.execute("INSERT INTO text VALUES (?, ?)", (name, text))
        return None

    def _text(self, name: str) -> str:
        row = self._texts.execute("SELECT body FROM text WHERE name = ?", (name,)).fetchone()
        return str(row[0])


def _lsh(near: float) -> Any:
    try:
        import datasketch
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-vote", "dedup", "Finding near-duplicates") from error
    # a pair missed is worse than a pair looked at in vain
    return datasketch.MinHashLSH(threshold=near, num_perm=_PERMUTATIONS, weights=(0.2, 0.8))


def _sketch(text: str) -> Any:
    import datasketch

    sketch = datasketch.MinHash(num_perm=_PERMUTATIONS)
    if own := sorted(shingles(text)):
        sketch.update_batch([shingle.encode() for shingle in own])
    return sketch
