"""Vectors by the text and the encoder that they were made of: one SQLite file, never stale.

```
encoder(number, fingerprint)     vector(encoder, text, body)      text: sha256; body: float32 and a CRC-32
```
A changed model, revision, prompt, length, dtype or text has another key, so nothing stale is ever found.
What was committed survives kill -9.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError
from o1_records.sqlite import explained, transaction

Vector = NDArray[np.float32]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS encoder (number INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS vector (
    encoder INTEGER NOT NULL, text BLOB NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (encoder, text)) WITHOUT ROWID;
"""
_AT_A_TIME = 500


class VectorCache:
    """A cache in the file `path`, or in a temporary file that SQLite removes (None).

    Using it raises InputError when the file is damaged or the disk full.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._place = str(path or "the temporary cache of vectors")

    @functools.cached_property
    def _db(self) -> sqlite3.Connection:
        """Opened when it is needed: a member that cannot be loaded leaves no file."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path or "", isolation_level=None, timeout=60)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_SCHEMA)
        return db

    def get(self, fingerprint: str, texts: Iterable[str]) -> dict[str, Vector]:
        """The vectors that are known of `texts`; the others are left out."""
        number = self._number(fingerprint)
        by_digest = {_digest(text): text for text in texts}
        digests = list(by_digest)
        found = {}
        for start in range(0, len(digests), _AT_A_TIME):
            some = digests[start : start + _AT_A_TIME]
            marks = ",".join("?" * len(some))
            sql = f"SELECT text, body FROM vector WHERE encoder = ? AND text IN ({marks})"  # marks are ?
            with self._explained():
                for digest, body in self._db.execute(sql, (number, *some)):
                    found[by_digest[digest]] = self._opened(digest, body)
        return found

    def put(self, fingerprint: str, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors by their text, in one transaction."""
        number = self._number(fingerprint)
        rows = [(number, digest := _digest(text), _sealed(digest, row)) for text, row in vectors.items()]
        with self._explained(), transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO vector VALUES (?, ?, ?)", rows)

    def _number(self, fingerprint: str) -> int:
        with self._explained():
            self._db.execute("INSERT OR IGNORE INTO encoder (fingerprint) VALUES (?)", (fingerprint,))
            row = self._db.execute("SELECT number FROM encoder WHERE fingerprint = ?", (fingerprint,))
            return int(row.fetchone()[0])

    def _opened(self, digest: bytes, body: bytes) -> Vector:
        content, seal = body[:-4], body[-4:]
        if _seal(digest, content) != seal:
            raise InputError(f"{self._place}: a vector is damaged; remove the file and run again")
        return np.frombuffer(content, dtype=np.float32)

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        remedy = "if the disk is full, free space and run again; if the file is damaged, remove it"
        return explained(self._place, remedy)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _sealed(digest: bytes, vector: Vector) -> bytes:
    content = np.ascontiguousarray(vector, dtype=np.float32).tobytes()
    return content + _seal(digest, content)


def _seal(digest: bytes, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(digest)).to_bytes(4, "little")
