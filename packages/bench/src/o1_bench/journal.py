"""What the stages of one run have made so far: a SQLite file, so that a crash loses only the part in flight.

A stage (think, embed, search) works on the queries in parts. Each part is kept with its seconds,
the peak of memory and the sha256 of its bytes; a rerun takes it from here.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from o1_bench.machine import peak_memory, reset_peak_memory
from o1_records import InputError, quoted

_TABLES = """
CREATE TABLE IF NOT EXISTS made_from (what TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    stage TEXT, number INTEGER, seconds REAL, peak INTEGER, sha256 TEXT, content BLOB,
    PRIMARY KEY (stage, number)
);
"""


Value = TypeVar("Value")


@dataclass(frozen=True)
class Codec(Generic[Value]):
    """How the work of a stage becomes bytes and comes back."""

    encode: Callable[[Value], bytes]
    decode: Callable[[bytes], Value]


class Journal:
    """The parts of one run.

    `made_from` is everything that the parts depend on. Raises InputError when the file holds the
    parts of another run (it names what differs), is damaged, or another process writes it.
    """

    def __init__(self, path: Path, made_from: Mapping[str, str]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._open(made_from)
        except sqlite3.DatabaseError as error:
            self._database.close()
            why = "another process is at work in this folder" if "locked" in str(error) else f"{error}"
            raise InputError(f"{path}: {why}; wait for it, or remove the folder to start again") from error
        except InputError:
            self._database.close()
            raise

    def _open(self, made_from: Mapping[str, str]) -> None:
        # the lock is held until the file is closed, so that no two processes do the same work
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN EXCLUSIVE")
        known = dict(self._database.execute("SELECT what, value FROM made_from"))
        if not known:
            self._database.executemany("INSERT INTO made_from VALUES (?, ?)", made_from.items())
        self._database.execute("COMMIT")
        for what, value in {**known, **made_from}.items():
            if known and (known.get(what), value) != (value, made_from.get(what)):
                raise InputError(
                    f"{self.path.parent}: was made with {what} {quoted(known.get(what))}, this run has "
                    f"{quoted(made_from.get(what))}; remove the folder or choose another"
                )

    def part(self, stage: str, number: int, work: Callable[[], Value], codec: Codec[Value]) -> Value:
        """A part: what is kept of it, else what `work` makes, timed and kept."""
        row = self._database.execute(
            "SELECT content, sha256 FROM parts WHERE stage = ? AND number = ?", (stage, number)
        ).fetchone()
        if row is None:
            return self._make(stage, number, work, codec)
        content: bytes = row[0]
        if hashlib.sha256(content).hexdigest() != row[1]:
            raise InputError(f"{self.path}: part {number} of {stage} is damaged; remove the folder")
        return codec.decode(content)

    def _make(self, stage: str, number: int, work: Callable[[], Value], codec: Codec[Value]) -> Value:
        reset_peak_memory()
        began = time.perf_counter()
        value = work()
        seconds, peak = time.perf_counter() - began, peak_memory()
        content = codec.encode(value)
        row = (stage, number, seconds, peak, hashlib.sha256(content).hexdigest(), content)
        self._database.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?)", row)
        return value

    def seconds(self, stage: str) -> float:
        """How long all parts of a stage took."""
        found = self._database.execute("SELECT total(seconds) FROM parts WHERE stage = ?", (stage,))
        return float(found.fetchone()[0])

    def peak_memory(self) -> int:
        """The most memory, in bytes, that was in use during a part."""
        return int(self._database.execute("SELECT ifnull(max(peak), 0) FROM parts").fetchone()[0])

    def close(self) -> None:
        """Let the file go."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
