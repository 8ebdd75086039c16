"""Thoughts as records and on disk: Thought records, their token ids, and the thought cache."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from o1_model.layout import text_ids
from o1_model.thinking.decode import Decoded, Trace
from o1_model.thinking.gate import Signal
from o1_records import InputError, Query, Source, Thought, quoted
from o1_records.kit.job import Database

Brought = str | Thought  # a thought that the caller brings: its text, or a record
Thoughts = Sequence[Sequence[Brought]] | Sequence[Brought]


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a name for what each token id means: ids are only used with the vocabulary that made them."""
    lines = "".join(f"{number} {token}\n" for token, number in sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def record(query: Query, sample: int, text: str, trace: Trace, source: Source) -> Thought:
    """Return a thought as a record; `source` says what all thoughts of this run have in common."""
    own = replace(
        source,
        finish_reason="stop" if trace.finished else "length",
        completion_tokens=len(trace.token_ids),
    )
    return Thought(
        query_id=query.query_id,
        thought_id=f"{query.query_id}#{sample}",
        text=text,
        source=own,
        token_ids=trace.token_ids,
    )


def thought_ids(
    tokenizer: PreTrainedTokenizerBase, vocabulary: str, thoughts: Sequence[Brought], most: int
) -> list[list[int]]:
    """Return the token ids of thoughts: their own if this vocabulary made them, else those of the text.

    Tokenised again, a text can give other ids than those the model chose. Of a text with more than `most`,
    one token more comes back.
    """
    known = [
        not isinstance(t, str) and bool(t.token_ids) and t.source.tokenizer == vocabulary for t in thoughts
    ]
    texts = [t if isinstance(t, str) else t.text for t, own in zip(thoughts, known, strict=True) if not own]
    tokenised = iter(text_ids(tokenizer, texts, most))
    return [
        list(t.token_ids) if own and isinstance(t, Thought) else next(tokenised)
        for t, own in zip(thoughts, known, strict=True)
    ]


def by_query(queries: Sequence[Query], thoughts: Thoughts) -> list[list[Brought]]:
    """Return each query's thoughts; `thoughts` are lists in the queries' order, or records in any order.

    Raises InputError for a wrong number of lists, a string instead of a list, and a record of another query.
    """
    records = [t for t in thoughts if isinstance(t, Thought)]
    if len(records) == len(thoughts):
        lists: dict[str, list[Brought]] = {query.query_id: [] for query in queries}
        for thought in records:
            _refuse_stranger(thought, lists)
            lists[thought.query_id].append(thought)
        return [lists[query.query_id] for query in queries]
    if len(thoughts) != len(queries):
        raise InputError(f"{len(queries)} queries but thoughts for {len(thoughts)}")
    own = [list(each) for each in thoughts if isinstance(each, Iterable) and not isinstance(each, str)]
    if len(own) != len(queries):
        raise InputError("give each query a list of thoughts, not a string; an empty list if it has none")
    for query, row in zip(queries, own, strict=True):
        for each in row:
            if isinstance(each, Thought):
                _refuse_stranger(each, [query.query_id])
    return own


def _refuse_stranger(thought: Thought, query_ids: Collection[str]) -> None:
    if thought.query_id not in query_ids:
        raise InputError(
            f"thought {quoted(thought.thought_id)} belongs to query {quoted(thought.query_id)}, "
            f"not to {quoted(next(iter(query_ids), None))}"
        )


# --- the cache ----------------------------------------------------------------------------------------

VERSION = 2  # raised when the same seed comes to choose other tokens

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    key BLOB PRIMARY KEY, samples INTEGER NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
"""
_REMEDY = (
    "if the disk is full, free space; if the file is damaged or is not a thought cache, remove it or "
    "choose another"
)


def entry_key(origin: Sequence[object], prompt: Sequence[int]) -> bytes:
    """Return the key under which `origin` files its thoughts about a query with this prompt."""
    return hashlib.sha256(repr((VERSION, *origin, tuple(prompt))).encode()).digest()


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
    """Thoughts with their vectors in a SQLite file, so that a model thinks about a query only once.

    An entry is filed under a digest of everything that made it: checkpoint, layout, dtype, engine,
    sampling and the prompt's token ids. Several processes may share a file; ":memory:" is none.
    Raises InputError when the file is damaged or the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = Database(path, _SCHEMA, remedy=_REMEDY)

    def get(self, key: bytes, samples: int) -> Decoded | None:
        """Return the entry of a key if it has at least `samples` thoughts, cut to that number; else None."""
        row = self._db.row("SELECT digest, body FROM entry WHERE key = ? AND samples >= ?", key, samples)
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
        """Add entries, all or none; one with more samples replaces an older one."""
        with self._db.transaction():
            self._db.execute_many(
                "INSERT INTO entry VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "samples = excluded.samples, digest = excluded.digest, body = excluded.body "
                "WHERE samples < excluded.samples",
                (_row(key, decoded) for key, decoded in entries),
            )

    def __len__(self) -> int:
        """Count the queries with thoughts."""
        count: int = self._db.row("SELECT count(*) FROM entry")[0]
        return count

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
