"""Exact and near-duplicates among texts, in the order in which they come.

Near-duplicates need the extra `dedup`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from o1_records import InputError, MissingExtraError
from o1_records.kit.job import Database
from o1_records.kit.text import jaccard, shingles, words
from o1_vote.curation.sieve import Kind, Removal, Sieved, records_of, sieve

_PERMUTATIONS = 128


class Twin(NamedTuple):
    """The text that came before, by its name, and the share of shingles in common."""

    name: str
    similarity: float


class Duplicates:
    """Find for each text the one like it that came before.

    Two texts are duplicates when they have the same words, case and punctuation aside, and with `near` (above
    0, at most 1) also when they share that part of their word triples or more. MinHash finds the pairs, and
    every pair found is counted exactly; it misses some pairs just above the limit. Texts without a word are
    duplicates of each other. Memory holds a digest, or a MinHash, of each text, not the text.
    """

    def __init__(self, near: float | None = None) -> None:
        if near is not None and not 0 < near <= 1:
            raise InputError(f"near must be above 0 and at most 1, got {near}")
        self._near = near
        self._exact: dict[bytes, str] = {}
        self._index: Any = _lsh(near) if near is not None else None
        self._texts = Database("", "CREATE TABLE text (name TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")

    def first(self, name: str, text: str) -> Twin | None:
        """Return the most similar of the texts before, or None; a text without a twin is remembered."""
        digest = hashlib.blake2b(" ".join(words(text)).encode(), digest_size=16).digest()
        if digest in self._exact:
            return Twin(self._exact[digest], 1.0)
        twin = self._near_twin(name, text) if self._near is not None else None
        if twin is None:
            self._exact[digest] = name
        return twin

    def _near_twin(self, name: str, text: str) -> Twin | None:
        own, sketch = shingles(text), _sketch(text)
        found = []
        for other in self._index.query(sketch):
            (body,) = self._texts.row("SELECT body FROM text WHERE name = ?", other)
            found.append(Twin(other, jaccard(own, shingles(body))))
        best = min(found, key=lambda twin: (-twin.similarity, twin.name), default=None)
        if best is not None and best.similarity >= (self._near or 0):
            return best
        self._index.insert(name, sketch)
        self._texts.execute("INSERT INTO text VALUES (?, ?)", name, text)
        return None


def dedup(
    files: Sequence[str | Path],
    kind: Kind,
    *,
    out: str | Path,
    reasons: str | Path,
    near: float | None = None,
    against: Sequence[str | Path] = (),
) -> Sieved:
    """Keep the first of each text within and across JSONL files; returns how many were kept and removed.

    Args:
        files: what is compared; an earlier file's records come first.
        kind: what the files hold, a value of `KINDS`.
        out: JSONL of what is kept.
        reasons: JSONL of what is removed, and why.
        near: as in `Duplicates`.
        against: files whose records come before all others, and are not written.

    Raises InputError as `Duplicates` and `sieve` do.
    """
    known = Duplicates(near)
    for file, record in records_of(against, kind):
        known.first(f"{file}: {kind.name(record)}", kind.text(record))

    def judge(file: str, record: Any) -> Removal | None:
        name = kind.name(record)
        twin = known.first(f"{file}: {name}", kind.text(record))
        if twin is None:
            return None
        reason = "the same words" if twin.similarity == 1 else "near-duplicate"
        return Removal(file=file, name=name, reason=reason, like=twin.name, share=twin.similarity)

    return sieve(files, kind, judge, out=out, reasons=reasons)


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
