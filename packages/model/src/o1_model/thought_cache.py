"""Thoughts on disk, so that the same model thinks about the same query once. One SQLite file.

An entry is filed under a digest of everything that made it: checkpoint, layout, dtype, engine,
sampling, query_id and the prompt's token ids. Anything else changed is another entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from o1_model.gate import Signal
from o1_model.think import Decoded, Trace
from o1_records import InputError
from o1_records.sqlite import explained, transaction

VERSION = 1  # raised when the same seed comes to choose other tokens

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    key BLOB PRIMARY KEY, samples INTEGER NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
"""


def entry_key(origin: Sequence[object], name: str, prompt: Sequence[int]) -> bytes:
    """The key of what `origin` thinks about the query `name` with this prompt."""
    return hashlib.sha256(repr((VERSION, *origin, name, tuple(prompt))).encode()).digest()


class _StoredTrace(msgspec.Struct):
    token_ids: tuple[int, ...]
    finished: bool
    vector: bytes
    log_likelihood: float | None


class _Stored(msgspec.Struct):
    v_q: bytes
    signal: Signal
    traces: list[_StoredTrace]


class ThoughtCache:
    """A file of thoughts that several processes may share; `":memory:"` keeps none.

    Raises InputError when the file is damaged or the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        with self._explained():
            # a server makes it in one thread and thinks in another, one at a time
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(_SCHEMA)

    def get(self, key: bytes, samples: int) -> Decoded | None:
        """What is filed under the key, when it has as many samples; more are cut off."""
        with self._explained():
            sql = "SELECT digest, body FROM entry WHERE key = ? AND samples >= ?"
            row = self._db.execute(sql, (key, samples)).fetchone()
        if row is None:
            return None
        digest, body = row
        if hashlib.sha256(body).digest() != digest:
            raise InputError(f"{self.path}: an entry is damaged; remove the file")
        stored = msgspec.msgpack.decode(body, type=_Stored)
        traces = [
            Trace(each.token_ids, each.finished, _vector(each.vector), each.log_likelihood)
            for each in stored.traces[:samples]
        ]
        return Decoded(_vector(stored.v_q), stored.signal, traces)

    def put(self, entries: Iterable[tuple[bytes, Decoded]]) -> None:
        """File entries, all of them or none; one with more samples takes the place of an older one."""
        with self._explained(), transaction(self._db):
            self._db.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "samples = excluded.samples, digest = excluded.digest, body = excluded.body "
                "WHERE samples < excluded.samples",
                (_row(key, decoded) for key, decoded in entries),
            )

    def __len__(self) -> int:
        """How many queries were thought about."""
        with self._explained():
            count: int = self._db.execute("SELECT count(*) FROM entry").fetchone()[0]
        return count

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        remedy = (
            "if the disk is full, free space; if the file is damaged or no cache of thoughts, "
            "remove it or choose another"
        )
        return explained(self.path, remedy)


def _row(key: bytes, decoded: Decoded) -> tuple[bytes, int, bytes, bytes]:
    traces = [
        _StoredTrace(trace.token_ids, trace.finished, _bytes(trace.vector), trace.log_likelihood)
        for trace in decoded.traces
    ]
    body = msgspec.msgpack.encode(_Stored(_bytes(decoded.v_q), decoded.signal, traces))
    return key, len(traces), hashlib.sha256(body).digest(), body


def _bytes(vector: torch.Tensor) -> bytes:
    return vector.float().numpy().astype("<f4").tobytes()


def _vector(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))
