"""A SQLite file as a journal or a cache uses it: errors that say what mends them, whole transactions."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from o1_records.files import InputError


@contextlib.contextmanager
def explained(place: str | Path, remedy: str) -> Iterator[None]:
    """Errors of SQLite as InputError, with the place and what may mend it."""
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(f"{place}: {error}; {remedy}") from error


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what happens inside, or nothing of it; `db` has `isolation_level=None`."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
