"""The journal of a job: which thoughts are asked for, which are settled. One SQLite file.

```
T.jsonl.job/journal.sqlite   job(source)   query(query_id, text, instruction, wanted)
                             outcome(query_id, sample, reason, body)
T.jsonl.job/lock             who works on the job now; the kernel frees it when they die
```
A row that was committed survives kill -9 and power cuts (WAL, synchronous=FULL). It is never
paired by position: every row carries its query_id and sample.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from o1_records import InputError, Query, Record, Source, Thought, quoted
from o1_records.jsonl import encode
from o1_synth.expert import Reason
from o1_synth.lock import held

_SCHEMA = """
CREATE TABLE IF NOT EXISTS job (one INTEGER PRIMARY KEY CHECK (one = 1), source TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS query (
    query_id TEXT PRIMARY KEY, text TEXT NOT NULL, instruction TEXT NOT NULL,
    wanted INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcome (
    query_id TEXT NOT NULL, sample INTEGER NOT NULL, reason TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (query_id, sample)) WITHOUT ROWID;
"""
_WANTED = "JOIN query USING (query_id) WHERE wanted AND sample < ?"
_PAGE = 500
_THOUGHT = ""  # the reason of a row that holds a thought
RecordT = TypeVar("RecordT", bound=Record)


class Failure(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sample that has no thought yet; running the same command again asks for it again."""

    key_fields = ("query_id", "sample")
    query_id: str
    sample: int
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Outcome:
    """How one sample ended: an encoded Thought (reason "") or an encoded Failure."""

    query_id: str
    sample: int
    reason: str
    body: bytes


def thought_outcome(sample: int, thought: Thought) -> Outcome:
    """The outcome of a sample with a thought; InputError when it is blank or not UTF-8."""
    place = f"thought {thought.thought_id!r}"
    return Outcome(thought.query_id, sample, _THOUGHT, encode(thought, place))


def failed_outcome(failure: Failure) -> Outcome:
    """The outcome of a sample without one."""
    body = encode(failure, f"failure of {failure.query_id!r}")
    return Outcome(failure.query_id, failure.sample, failure.reason, body)


class Journal:
    """The journal beside `out`, opened for one process at a time; a context manager.

    Raises InputError when another process holds the job, when the job was begun by another
    source, when the file is damaged or the disk full.
    """

    def __init__(self, out: str | Path, source: Source) -> None:
        out = Path(out)
        self.folder = out.with_name(out.name + ".job")
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(self.folder / "lock"))
            self._db = stack.enter_context(contextlib.closing(self._connect()))
            self._prepare()
            self._check_source(source)
            self._stack = stack.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def plan(self, queries: Iterable[Query]) -> int:
        """Say which queries are wanted from now on; returns how many.

        Raises InputError for a query_id that stands twice, and for one whose thoughts were
        written about another text. Nothing is changed then.
        """
        count = 0
        with self._transaction():
            self._db.execute("UPDATE query SET wanted = 0 WHERE wanted")
            for query in queries:
                self._want(query)
                count += 1
        return count

    def remaining(self, samples: int) -> Iterator[tuple[Query, int]]:
        """Yield what has no thought yet and is not exhausted, in order of query_id; lazily."""
        after = ""
        while page := self._page(after):
            for query_id, text, instruction in page:
                query = Query(query_id=query_id, text=text, instruction=instruction)
                done = self._settled(query_id)
                yield from ((query, sample) for sample in range(samples) if sample not in done)
            after = page[-1][0]

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Commit outcomes in one transaction; a thought is never replaced."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO outcome VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET reason = excluded.reason, body = excluded.body WHERE reason != ''",
                ((made.query_id, made.sample, made.reason, made.body) for made in outcomes),
            )

    def counts(self, samples: int) -> dict[str, int]:
        """How many wanted samples ended in each reason; thoughts stand under the empty string."""
        sql = f"SELECT reason, count(*) FROM outcome {_WANTED} GROUP BY reason"
        return dict(self._rows(sql, samples))

    def thoughts(self, samples: int) -> Iterator[Thought]:
        """The wanted thoughts, ordered by query_id and sample."""
        yield from self._bodies("reason = ''", samples, Thought)

    def failures(self, samples: int) -> Iterator[Failure]:
        """The wanted samples that failed, ordered by query_id and sample."""
        yield from self._bodies(f"reason NOT IN ('', '{Reason.EXHAUSTED}')", samples, Failure)

    def _connect(self) -> sqlite3.Connection:
        with self._explained():
            # one thread at a time uses it, but `think` may lend it to another
            return sqlite3.connect(
                self.folder / "journal.sqlite", isolation_level=None, check_same_thread=False
            )

    def _prepare(self) -> None:
        with self._explained():
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)

    def _check_source(self, source: Source) -> None:
        with self._transaction():
            row = self._db.execute("SELECT source FROM job").fetchone()
            if row is None:
                encoded = encode(source, f"{self.folder}: source")
                self._db.execute("INSERT INTO job VALUES (1, ?)", (encoded,))
                return
        begun = msgspec.json.decode(row[0], type=Source)
        if begun != source:
            raise InputError(
                f"{self.folder}: was begun with {_difference(begun, source)}, "
                f"this is {_difference(source, begun)}; remove it or choose another --out"
            )

    def _want(self, query: Query) -> None:
        known = self._db.execute("SELECT * FROM query WHERE query_id = ?", (query.query_id,))
        _, text, instruction, wanted = known.fetchone() or (None, None, None, 0)
        if wanted:
            raise InputError(f"query_id {quoted(query.query_id)} stands twice; keep one of them")
        changed = text is not None and (text, instruction) != (query.text, query.instruction)
        if changed and self._settled(query.query_id):
            raise InputError(
                f"{self.folder}: holds thoughts about {quoted(text)}, but query "
                f"{quoted(query.query_id)} is now {quoted(query.text)}; remove it or choose "
                "another --out"
            )
        row = (query.query_id, query.text, query.instruction)
        self._db.execute("INSERT OR REPLACE INTO query VALUES (?, ?, ?, 1)", row)

    def _settled(self, query_id: str) -> set[int]:
        sql = "SELECT sample FROM outcome WHERE query_id = ? AND reason IN (?, ?)"
        return {sample for (sample,) in self._rows(sql, query_id, _THOUGHT, Reason.EXHAUSTED)}

    def _page(self, after: str) -> list[tuple[str, str, str]]:
        sql = (
            "SELECT query_id, text, instruction FROM query "
            "WHERE wanted AND query_id > ? ORDER BY query_id LIMIT ?"
        )
        return list(self._rows(sql, after, _PAGE))

    def _bodies(self, condition: str, samples: int, kind: type[RecordT]) -> Iterator[RecordT]:
        decoder = msgspec.json.Decoder(kind)
        sql = f"SELECT body FROM outcome {_WANTED} AND {condition} ORDER BY query_id, sample"
        yield from (decoder.decode(body) for (body,) in self._rows(sql, samples))

    def _rows(self, sql: str, *values: object) -> Iterator[Any]:
        with self._explained():
            yield from self._db.execute(sql, values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(
                f"{self.folder / 'journal.sqlite'}: {error}; if the disk is full, free space and "
                "run the same command again; if the file is damaged, remove its folder"
            ) from error


def _difference(source: Source, other: Source) -> str:
    """The fields of `source` that differ in `other`, as text."""
    pairs = ((name, getattr(source, name), getattr(other, name)) for name in source.__struct_fields__)
    return ", ".join(f"{name} {quoted(mine)}" for name, mine, theirs in pairs if mine != theirs)
