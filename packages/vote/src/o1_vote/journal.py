"""The journal of a long command: what it read, and what it has done so far. One SQLite file.

```
OUT.job/journal.sqlite   job(made_from, staged)   entry(part, place, body)   and what staging.py keeps
OUT.job/lock             who works on the job now; the kernel frees it when they die
```
A row that was committed survives kill -9 and power cuts. The folder goes when the command is done.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from o1_records.lock import lock
from o1_records.sqlite import explained, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    one INTEGER PRIMARY KEY CHECK (one = 1), made_from BLOB NOT NULL, staged INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS entry (
    part TEXT NOT NULL, place INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (part, place)) WITHOUT ROWID;
"""
_REMEDY = (
    "if the disk is full, free space and run the same command again; "
    "if the file is damaged, remove its folder"
)


class Journal:
    """The journal beside `out`, for one process at a time; a context manager.

    `made_from` names everything that the entries depend on; a journal of anything else is begun anew,
    and `began_anew` says so. A job that did nothing leaves nothing behind. Raises InputError when
    another process holds the job, the file is damaged or the disk full.
    """

    def __init__(self, out: Path, made_from: Mapping[str, str]) -> None:
        self.folder = _folder_of(out)
        self.began_anew = False
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock(self.folder / "lock"))
            self.db = stack.enter_context(contextlib.closing(self._connect()))
            self._begin(msgspec.json.encode(dict(made_from), order="sorted"))
            self._stack = stack.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder.exists() and not self._holds_work():
            self.finish()
        self._stack.close()

    def finish(self) -> None:
        """Close the journal and remove it: the outputs are whole."""
        self._stack.close()
        shutil.rmtree(self.folder)

    @property
    def staged(self) -> bool:
        """Whether the input lies in the journal whole."""
        return bool(next(self.rows("SELECT staged FROM job"))[0])

    def count(self, part: str) -> int:
        """How many entries a part has: places 0 to count - 1."""
        return int(next(self.rows("SELECT count(*) FROM entry WHERE part = ?", part))[0])

    def append(self, part: str, bodies: Sequence[bytes]) -> None:
        """Commit the next entries of a part."""
        start = self.count(part)
        with self.transaction():
            self.db.executemany(
                "INSERT INTO entry VALUES (?, ?, ?)",
                ((part, place, body) for place, body in enumerate(bodies, start)),
            )

    def read(self, part: str, start: int = 0, count: int = -1) -> Iterator[bytes]:
        """Yield entries in order, from place `start`; all of them where `count` is -1."""
        sql = "SELECT body FROM entry WHERE part = ? AND place >= ? ORDER BY place LIMIT ?"
        return (body for (body,) in self.rows(sql, part, start, count))

    def stage(self, steps: Iterable[None]) -> None:
        """Let `steps` fill tables, in one transaction: the input is there whole or not at all."""
        with self.transaction():
            for _ in steps:
                pass
            self.db.execute("UPDATE job SET staged = 1")

    def rows(self, sql: str, *values: object) -> Iterator[Any]:
        """The rows of a query."""
        with self._explained():
            yield from self.db.execute(sql, values)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what happens inside, or nothing of it."""
        with self._explained(), transaction(self.db):
            yield

    def _holds_work(self) -> bool:
        """Whether there is an entry, or a file that someone else put here: vectors."""
        own = ("journal.sqlite", "lock")
        others = any(not path.name.startswith(own) for path in self.folder.iterdir())
        return others or any(self.rows("SELECT 1 FROM entry LIMIT 1"))

    def _connect(self) -> sqlite3.Connection:
        with self._explained():
            return sqlite3.connect(self.folder / "journal.sqlite", isolation_level=None)

    def _begin(self, made_from: bytes) -> None:
        with self._explained():
            self.db.execute("PRAGMA journal_mode = WAL")
            self.db.execute("PRAGMA synchronous = FULL")
            self.db.executescript(_SCHEMA)
        begun = list(self.rows("SELECT made_from FROM job"))
        if begun == [(made_from,)]:
            return
        self.began_anew = bool(begun)
        with self.transaction():
            for (table,) in list(self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")):
                self.db.execute(f"DELETE FROM {table}")  # names that this package chose
            self.db.execute("INSERT INTO job VALUES (1, ?, 0)", (made_from,))

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return explained(self.folder / "journal.sqlite", _REMEDY)


def clear(out: Path) -> None:
    """Remove the journal of a command that is done: a kill may have come just before it could."""
    if _folder_of(out).exists():
        with lock(_folder_of(out) / "lock"):
            shutil.rmtree(_folder_of(out))


def _folder_of(out: Path) -> Path:
    return out.with_name(out.name + ".job")
