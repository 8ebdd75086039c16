"""The journal of a job: which thoughts are asked for, which are settled. One SQLite file.

```
T.jsonl.job/journal.sqlite   job(source)   query(query_id, text, instruction, wanted)
                             outcome(query_id, sample, reason, body)   note(name, value)
T.jsonl.job/lock             who works on the job now; the kernel frees it when they die
```
A row that was committed survives kill -9 and power cuts (WAL, synchronous=FULL). It is never
paired by position: every row carries its query_id and sample.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from o1_records import InputError, Query, Source, Thought, quoted
from o1_records.jsonl import encode
from o1_records.sqlite import transaction
from o1_synth.ledger import Failure, Ledger, folder_of
from o1_synth.lock import held

_SCHEMA = """
CREATE TABLE IF NOT EXISTS job (one INTEGER PRIMARY KEY CHECK (one = 1), source TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS query (
    query_id TEXT PRIMARY KEY, text TEXT NOT NULL, instruction TEXT NOT NULL,
    wanted INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcome (
    query_id TEXT NOT NULL, sample INTEGER NOT NULL, reason TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (query_id, sample)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_THOUGHT = ""  # the reason of a row that holds a thought
_THOUGHT_DECODER = msgspec.json.Decoder(Thought)


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
    return Outcome(thought.query_id, sample, _THOUGHT, encode(thought, place, _THOUGHT_DECODER))


def failed_outcome(failure: Failure) -> Outcome:
    """The outcome of a sample without one."""
    body = encode(failure, f"failure of {failure.query_id!r}")
    return Outcome(failure.query_id, failure.sample, failure.reason, body)


class Journal(Ledger):
    """The journal beside `out`, opened for one process at a time; a context manager.

    `fingerprint` is what the thoughts of one job share beyond their source. Raises InputError when
    another process holds the job, when the job was begun by another source or fingerprint (unless
    `new_job` moves that journal aside), when the file is damaged or the disk full.
    """

    def __init__(
        self,
        out: str | Path,
        source: Source,
        fingerprint: Mapping[str, str] | None = None,
        *,
        new_job: bool = False,
    ) -> None:
        self.folder = folder_of(out)
        try:
            self._open(source, fingerprint or {})
        except _ChangedJobError:
            if not new_job:
                raise
            self.folder.rename(_free_name(self.folder))
            self._open(source, fingerprint or {})

    def __enter__(self) -> Journal:
        return self

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

    def record(self, outcomes: Iterable[Outcome], *, status: str | None = None) -> None:
        """Commit outcomes, and how the run stands, in one transaction; a thought is never replaced."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO outcome VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET reason = excluded.reason, body = excluded.body WHERE reason != ''",
                ((made.query_id, made.sample, made.reason, made.body) for made in outcomes),
            )
            if status is not None:
                self._note("status", status)

    def set_note(self, name: str, value: str) -> None:
        """Write down something about the job."""
        with self._transaction():
            self._note(name, value)

    def _open(self, source: Source, fingerprint: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(self.folder / "lock"))
            with self.explained():
                # one thread at a time uses it, but `think` may lend it to another
                path = self.folder / "journal.sqlite"
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                stack.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(_SCHEMA)
            self._check_source(source)
            self._check_fingerprint(fingerprint)
            self._stack = stack.pop_all()

    def _check_source(self, source: Source) -> None:
        with self._transaction():
            row = self._db.execute("SELECT source FROM job").fetchone()
            if row is None:
                encoded = encode(source, f"{self.folder}: source")
                self._db.execute("INSERT INTO job VALUES (1, ?)", (encoded,))
                return
        begun = msgspec.json.decode(row[0], type=Source)
        if begun != source:
            raise _ChangedJobError(self.folder, _difference(begun, source), _difference(source, begun))

    def _check_fingerprint(self, fingerprint: Mapping[str, str]) -> None:
        for name, value in fingerprint.items():
            begun = self.note(name)
            if begun is None:
                self.set_note(name, value)
            elif begun != value:
                raise _ChangedJobError(self.folder, f"{name} {begun}", f"{name} {value}")

    def _want(self, query: Query) -> None:
        known = self._db.execute("SELECT * FROM query WHERE query_id = ?", (query.query_id,))
        _, *begun, wanted = known.fetchone() or (None, query.text, query.instruction, 0)
        if wanted:
            raise InputError(f"query_id {quoted(query.query_id)} stands twice; keep one of them")
        pairs = zip(begun, (query.text, query.instruction), strict=True)
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        if changed and self.settled(query.query_id):
            old, new = _where_they_differ(*changed[0])
            raise InputError(
                f"{self.folder}: holds thoughts about {old}, but query {quoted(query.query_id)} is now "
                f"{new}; remove it or choose another --out"
            )
        row = (query.query_id, query.text, query.instruction)
        self._db.execute("INSERT OR REPLACE INTO query VALUES (?, ?, ?, 1)", row)

    def _note(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, value))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self.explained(), transaction(self._db):
            yield


class _ChangedJobError(InputError):
    """A job was begun by another source or fingerprint than this one."""

    def __init__(self, folder: Path, begun: str, now: str) -> None:
        super().__init__(
            f"{folder}: was begun with {begun}, this is {now}; "
            "choose another --out, or move the old job aside with --new-job"
        )


def _where_they_differ(old: str, new: str) -> tuple[str, str]:
    """Both, or what stands in them where they begin to differ."""
    places = range(min(len(old), len(new)))
    differ = next((place for place in places if old[place] != new[place]), len(places))
    start = differ - 20 if differ > 60 else 0
    dots = "..." if start else ""
    return dots + quoted(old[start:]), dots + quoted(new[start:])


def _free_name(folder: Path) -> Path:
    """Where an older job can be kept."""
    number = 1
    while (name := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return name


def _difference(source: Source, other: Source) -> str:
    """The fields of `source` that differ in `other`, as text."""
    pairs = ((name, getattr(source, name), getattr(other, name)) for name in source.__struct_fields__)
    return ", ".join(f"{name} {quoted(mine)}" for name, mine, theirs in pairs if mine != theirs)
