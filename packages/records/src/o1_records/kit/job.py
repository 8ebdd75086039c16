"""The work of a long command on disk: one lock, one kind of SQLite file, one policy for earlier work.

```
OUT                          what the command publishes, whole or not at all
OUT.job/journal.sqlite       made_from(name, value)   note(name, value)   and the tables of the command
OUT.job/lock                 held by the process at work; the system releases it when that process dies
```
**The policy.** `made_from` names everything that the work depends on. Earlier work with the same
`made_from` is continued. With another it is refused, and the error names the difference; `new_job` moves the
earlier work aside, to `NAME.old1`. Nothing is deleted, and no file is overwritten that the job did not write.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from o1_records.files import InputError, quoted, sha256_file, sync_folder

_REMEDY = "if the disk is full, free space and run the same command again; if the file is damaged, remove it"
_OWN = ("journal.sqlite", "lock")
_OUTPUTS = "outputs"  # the note with the digests of what was published
_CLAIMED = "claimed"  # the note with the files that the job may write


class ChangedJobError(InputError):
    """Earlier work was made from something else than this; the message names both."""


# --- lock ---------------------------------------------------------------------------------------------


class Lock:
    """Hold the lock file `path` until `close`, or until this process ends, even by kill -9.

    Raises InputError, naming the holder, when another process or another Lock of this process holds it.
    Closing other handles of the file does not release it. Works wherever filelock does.
    """

    def __init__(self, path: str | Path) -> None:
        from filelock import FileLock, Timeout  # here: it takes longer to import than the records do

        self.path = Path(path)
        self._lock = FileLock(self.path, blocking=False, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                f"{self.path.parent}: {_holder(self.path)} is at work there; wait for it, or stop it first"
            ) from None
        try:
            self.path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        except BaseException as error:  # a full disk, say: who comes next must not find the lock held
            self._lock.release()
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(self.path)
            raise

    def close(self) -> None:
        """Release the lock; the file stays."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def holder(path: str | Path) -> str:
    """Return who holds the lock file `path` now; "" when nobody does."""
    from filelock import FileLock, Timeout

    path = Path(path)
    if not path.exists():
        return ""
    lock = FileLock(path, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return _holder(path)
    lock.release()
    return ""


def _holder(path: Path) -> str:
    try:
        name = path.read_text(encoding="utf-8", errors="replace")[:300]
    except FileNotFoundError:  # whoever held it has just finished and removed it
        name = ""
    return name or "another process"


# --- SQLite -------------------------------------------------------------------------------------------


class Database:
    """A SQLite file; a context manager.

    What a transaction committed survives kill -9 and power cuts (WAL, synchronous=FULL; without `durable`,
    for caches, a power cut may lose the last commits). Errors of SQLite become InputError with the file and
    `remedy`. One thread uses it at a time, not always the same one. `path` "" is a temporary file that
    SQLite removes, ":memory:" none at all.
    """

    def __init__(
        self, path: str | Path, schema: str = "", *, durable: bool = True, remedy: str = _REMEDY
    ) -> None:
        self.path, self._remedy = path, remedy
        with self.explained():
            self.connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
                self.connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self.connection.executescript(schema)
            except BaseException:
                self.connection.close()
                raise

    @classmethod
    def read_only(cls, path: Path, *, remedy: str = _REMEDY) -> Self:
        """Open an existing file for reading, also while another process writes it."""
        database = cls.__new__(cls)
        database.path, database._remedy = path, remedy
        with database.explained():
            database.connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60, check_same_thread=False
            )
        return database

    def rows(self, sql: str, *values: object) -> Iterator[Any]:
        """Yield the rows of a query."""
        with self.explained():
            # not `yield from`: a consumer that stops early would close the cursor, perhaps after the database
            for row in self.connection.execute(sql, values):  # noqa: UP028
                yield row

    def row(self, sql: str, *values: object) -> Any:
        """Return the first row of a query, or None."""
        with self.explained():
            return self.connection.execute(sql, values).fetchone()

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """Execute one statement."""
        with self.explained():
            return self.connection.execute(sql, values)

    def execute_many(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Execute one statement for each row of values."""
        with self.explained():
            self.connection.executemany(sql, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what happens inside, or nothing of it."""
        with self.explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise errors of SQLite as InputError, with the file and what may correct it."""
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path or 'a temporary database'}: {error}; {self._remedy}") from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- job ----------------------------------------------------------------------------------------------

_SCHEMA = """
CREATE TABLE IF NOT EXISTS made_from (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Job:
    """The work whose result is published as `out`, opened by one process at a time; a context manager.

    Args:
        out: the file or folder that the job publishes.
        made_from: everything that the work depends on, by name.
        schema: SQL that creates the tables of the command, if they do not exist.
        outputs: everything that is published (default: `out`); moved aside together with the job.
        inputs: tables of the schema that hold copies of the input, not work.
        reading: files that this work reads; one that the earlier job wrote stays where it is.
        new_job: move earlier work with another `made_from` aside, instead of refusing it.

    A job without work, because its input was refused, say, leaves nothing behind and stops nobody.

    Raises:
        ChangedJobError: there is earlier work with another `made_from`, or an output that no job wrote.
        InputError: another process holds the job, its file is damaged, the disk is full.
    """

    def __init__(
        self,
        out: str | Path,
        made_from: Mapping[str, str],
        *,
        schema: str = "",
        outputs: Iterable[str | Path] = (),
        inputs: Iterable[str] = (),
        reading: Iterable[str | Path] = (),
        new_job: bool = False,
    ) -> None:
        self.out = Path(out)
        self.folder = job_folder(out)
        self.outputs = [Path(path) for path in outputs] or [self.out]
        self._schema = _SCHEMA + schema
        self._not_work = {"made_from", "note", *inputs}
        try:
            self._open(made_from)
        except ChangedJobError:
            if not new_job:
                raise
            read = {Path(path).resolve() for path in reading}
            earlier = (path for path in self._claimed_before() if path.resolve() not in read)
            self.moved = move_aside(self.folder, *dict.fromkeys((*self.outputs, *earlier)))
            self._open(made_from)
        else:
            self.moved = []

    def note(self, name: str) -> str | None:
        """Return what was noted under a name."""
        row = self.db.row("SELECT value FROM note WHERE name = ?", name)
        return row[0] if row else None

    def set_note(self, name: str, value: str) -> None:
        """Note something about the job."""
        with self.db.transaction():
            self.db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", name, value)

    def made_from(self) -> dict[str, str]:
        """Return what the work depends on, by name."""
        return dict(self.db.rows("SELECT name, value FROM made_from"))

    def finish(self) -> None:
        """Note the digests of the published files, so that the next run knows there is nothing to do."""
        self.set_note(_OUTPUTS, msgspec.json.encode(self._digests()).decode())

    @property
    def finished(self) -> bool:
        """Whether all outputs are as `finish` left them."""
        noted = self.note(_OUTPUTS)
        if noted is None or not all(path.exists() for path in self.outputs):
            return False
        return msgspec.json.decode(noted, type=dict[str, str]) == self._digests()

    def close(self) -> None:
        """Close the journal and release the lock."""
        empty = not self._holds_work()
        self._stack.close()
        if empty:
            _remove_empty_job(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _holds_work(self) -> bool:
        """Return whether anything was done or published, or somebody else put a file beside the journal."""
        if self.note(_OUTPUTS) is not None or any(
            not path.name.startswith(_OWN) for path in self.folder.iterdir()
        ):
            return True
        tables = [name for (name,) in self.db.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return any(
            self.db.row(f"SELECT 1 FROM {name} LIMIT 1") for name in tables if name not in self._not_work
        )

    def _digests(self) -> dict[str, str]:
        return {self._name(path): sha256_file(path) for path in self.outputs if path.exists()}

    def _name(self, path: Path) -> str:
        """Return the name of an output from where the job lies, which is the same from any directory."""
        return os.path.relpath(path, self.folder.parent)

    def _claimed_before(self) -> list[Path]:
        """Return what the earlier job may have written, the outputs that this call does not name included."""
        journal = self.folder / "journal.sqlite"
        if not journal.exists():
            return []
        with Database.read_only(journal) as db:
            row = db.row("SELECT value FROM note WHERE name = ?", _CLAIMED)
        names = msgspec.json.decode(row[0], type=list[str]) if row else []
        return [Path(os.path.normpath(self.folder.parent / name)) for name in names]

    def _claim_outputs(self) -> None:
        """Note what this job may write. Raises ChangedJobError for a file that it never said it would."""
        claimed = set(msgspec.json.decode(self.note(_CLAIMED) or "[]", type=list[str]))
        for path in self.outputs:
            if path.exists() and self._name(path) not in claimed:
                raise ChangedJobError(
                    f"{path}: exists, and no job beside it says what it was made from; "
                    f"move it, choose another name, or give --new-job to move it aside"
                )
        names = sorted(claimed | {self._name(path) for path in self.outputs})
        self.db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", _CLAIMED, msgspec.json.encode(names))

    def _open(self, made_from: Mapping[str, str]) -> None:
        fresh = not (self.folder / "journal.sqlite").exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(Lock(self.folder / "lock"))
                self.db = stack.enter_context(Database(self.folder / "journal.sqlite", self._schema))
                if self.made_from() != made_from:
                    if self._holds_work():
                        refuse_changed(self.out, self.made_from(), made_from)
                    with self.db.transaction():
                        for name in self._not_work:
                            self.db.execute(f"DELETE FROM {name}")
                        self.db.execute_many("INSERT INTO made_from VALUES (?, ?)", made_from.items())
                self._claim_outputs()
                self._stack = stack.pop_all()
        except ChangedJobError:
            if fresh:
                _remove_empty_job(self.folder)
            raise


def job_folder(out: str | Path) -> Path:
    """Return the folder of the job that publishes `out`."""
    out = Path(out)
    return out.with_name(out.name + ".job")


def refuse_changed(
    place: str | Path,
    begun: Mapping[str, str],
    now: Mapping[str, str],
    *,
    remedy: str = "choose another name, or give --new-job to move the earlier work aside",
) -> None:
    """Raise ChangedJobError, naming every difference, where earlier work was not made from the same."""
    names = [name for name in {**begun, **now} if begun.get(name) != now.get(name)]
    if names:
        raise ChangedJobError(
            f"{place}: the earlier work was made with {_listed(begun, now, names)}, this run has "
            f"{_listed(now, begun, names)}; {remedy}"
        )


def move_aside(*paths: Path) -> list[Path]:
    """Rename the paths that exist to `NAME.old1`, or the first number that is free for all of them.

    Returns the new names. The holder of a lock inside should have released it before.
    """
    existing = [path for path in paths if path.exists()]
    number = 1
    while any(path.with_name(f"{path.name}.old{number}").exists() for path in existing):
        number += 1
    moved = [path.rename(path.with_name(f"{path.name}.old{number}")) for path in existing]
    for folder in {path.parent for path in moved}:
        sync_folder(folder)
    return moved


def _remove_empty_job(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name.startswith(_OWN):
            path.unlink()
    folder.rmdir()


def _listed(mine: Mapping[str, str], other: Mapping[str, str], names: Iterable[str]) -> str:
    """Name the values that differ; of long ones, what stands where they begin to differ."""
    return ", ".join(f"{name} {_shown(mine.get(name), other.get(name))}" for name in names)


def _shown(value: str | None, other: str | None) -> str:
    if value is None:
        return "not given"
    places = range(min(len(value), len(other or "")))
    differ = next((place for place in places if value[place] != (other or "")[place]), len(places))
    start = max(0, differ - 20) if differ > 60 else 0
    return ("..." if start else "") + quoted(value[start:])
