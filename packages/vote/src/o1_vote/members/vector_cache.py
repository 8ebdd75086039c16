"""Vectors by the text and the encoder that they were made of: one SQLite file, never stale.

```
encoder(number, fingerprint)     vector(encoder, text, body)      text: sha256; body: float32 and a CRC-32
```
Another model, revision, prompt, length, dtype or text has another key, so no stale vector is ever found.
What was committed survives kill -9.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError
from o1_records.kit.job import Database

Vector = NDArray[np.float32]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS encoder (number INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS vector (
    encoder INTEGER NOT NULL, text BLOB NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS vector_of_text ON vector (encoder, text);
"""
_REMEDY = "if the disk is full, free space and run again; if the file is damaged, remove it"
_AT_A_TIME = 500


_TEMPORARY: ContextVar[bool] = ContextVar("_TEMPORARY", default=False)


@contextlib.contextmanager
def kept_in_temporary_files() -> Iterator[None]:
    """Let caches that are made inside keep their vectors in temporary files: other processes are at work."""
    before = _TEMPORARY.set(True)
    try:
        yield
    finally:
        _TEMPORARY.reset(before)


class VectorCache:
    """A cache in the file `path`, or in a temporary file that SQLite removes (None).

    Using it raises InputError when the file is damaged or the disk full.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = None if _TEMPORARY.get() else path

    @functools.cached_property
    def _db(self) -> Database:
        """Opened when it is needed: a member that cannot be loaded leaves no file."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        return Database(self._path or "", _SCHEMA, durable=False, remedy=_REMEDY)

    def get(self, fingerprint: str, texts: Iterable[str]) -> dict[str, Vector]:
        """Return the vectors that are known of `texts`; the others are left out."""
        number = self._number(fingerprint)
        by_digest = {_digest(text): text for text in texts}
        digests = list(by_digest)
        found = {}
        for start in range(0, len(digests), _AT_A_TIME):
            some = digests[start : start + _AT_A_TIME]
            marks = ",".join("?" * len(some))
            sql = f"SELECT text, body FROM vector WHERE encoder = ? AND text IN ({marks})"  # marks are ?
            for digest, body in self._db.rows(sql, number, *some):
                found[by_digest[digest]] = self._opened(digest, body)
        return found

    def put(self, fingerprint: str, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors by their text, in one transaction."""
        number = self._number(fingerprint)
        rows = [(number, digest := _digest(text), _sealed(digest, row)) for text, row in vectors.items()]
        with self._db.transaction():
            self._db.execute_many("INSERT OR REPLACE INTO vector VALUES (?, ?, ?)", rows)

    def _number(self, fingerprint: str) -> int:
        sql = "SELECT number FROM encoder WHERE fingerprint = ?"
        if self._db.row(sql, fingerprint) is None:
            self._db.execute("INSERT OR IGNORE INTO encoder (fingerprint) VALUES (?)", fingerprint)
        return int(self._db.row(sql, fingerprint)[0])

    def _opened(self, digest: bytes, body: bytes) -> Vector:
        content, seal = body[:-4], body[-4:]
        if _seal(digest, content) != seal:
            place = self._path or "the temporary cache of vectors"
            raise InputError(f"{place}: a vector is damaged; remove the file and run again")
        return np.frombuffer(content, dtype=np.float32)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _sealed(digest: bytes, vector: Vector) -> bytes:
    content = np.ascontiguousarray(vector, dtype=np.float32).tobytes()
    return content + _seal(digest, content)


def _seal(digest: bytes, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(digest)).to_bytes(4, "little")
