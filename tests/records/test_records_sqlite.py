"""A SQLite file of a journal or a cache: errors say what mends them, transactions are whole."""

import contextlib
import re
import sqlite3
import subprocess
import sys

import pytest

from o1_records import InputError
from o1_records.sqlite import explained, transaction


@pytest.fixture
def db():
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("CREATE TABLE word (word TEXT NOT NULL)")
        yield db


def insert(db, *new, error=None):
    for word in new:
        db.execute("INSERT INTO word VALUES (?)", (word,))
    if error is not None:
        raise error


def words(db):
    return [word for (word,) in db.execute("SELECT word FROM word")]


def test_an_error_names_the_file_and_what_mends_it(tmp_path):
    path = tmp_path / "words.sqlite"
    path.write_bytes(b"this is no database" * 100)
    expected = f"{path}: file is not a database; remove it"
    with (
        contextlib.closing(sqlite3.connect(path)) as db,
        pytest.raises(InputError, match=f"^{re.escape(expected)}$") as caught,
        explained(path, "remove it"),
    ):
        db.execute("SELECT 1 FROM word")
    assert isinstance(caught.value.__cause__, sqlite3.Error)


def test_another_error_stays_what_it_is(db):
    with pytest.raises(KeyError), explained("place", "remedy"), transaction(db):
        raise KeyError("word")


def test_a_transaction_commits_what_happened_inside(db):
    with transaction(db):
        insert(db, "one")
    assert not db.in_transaction
    assert words(db) == ["one"]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_transaction_that_fails_leaves_nothing_and_lets_the_next_one_begin(db, error):
    with pytest.raises(error), transaction(db):
        insert(db, "one", error=error)
    assert words(db) == []
    with transaction(db):
        insert(db, "two")
    assert words(db) == ["two"]


def test_a_statement_that_fails_takes_the_earlier_ones_back(db):
    with pytest.raises(InputError, match="NOT NULL"), explained("place", "remedy"), transaction(db):
        insert(db, "one", None)
    assert words(db) == []


def test_who_does_not_use_it_does_not_import_sqlite():
    code = "import sys, o1_records; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
