"""Rows of foreign formats on their way out: the same fields in all, and counts of what has no place."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import IO, Any

import msgspec

from o1_records.columns import has_columns, write_columns
from o1_records.files import InputError, InputWarning, open_output, quoted
from o1_records.types import Example

_EARLY = 1 << 20
"""Bytes in which a reader may look for the types of columns: `datasets` takes 10 MB, pyarrow 1."""


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]], *, whole: Set[str] = frozenset()) -> int:
    """Write rows as JSON lines, Parquet (`.parquet`) or Lance (`.lance`), as the name ends; returns how many.

    What one row has, all have: readers such as `datasets` take the columns from the first rows and fail
    at one that comes later. A row without a text has "" for it, without anything else null. Those readers
    take the types from the first rows too: a later row that is the first with something in a column
    of nulls and empty lists goes to the front. A field of `whole` is in all rows, or in none.
    """
    fields: dict[str, Any] = {}
    common: set[str] = set()
    filled: set[str] = set()
    ahead: list[tuple[int, bytes]] = []  # (where it is, line)
    count = 0
    with tempfile.TemporaryFile() as spool:
        for row in rows:
            common = common & row.keys() if count else set(row)
            fields |= {name: "" if isinstance(value, str) else None for name, value in row.items()}
            count += 1
            try:
                line = msgspec.json.encode(row) + b"\n"
            except (UnicodeError, TypeError, OverflowError) as error:
                raise InputError(f"{path}: row {count}: {error}; in {quoted(row)}") from error
            place = spool.tell()
            fills = {name for name, value in row.items() if value is not None and value not in ([], {})}
            if place + len(line) > _EARLY and not fills <= filled:
                ahead.append((place, line))
            filled |= fills
            spool.write(line)
        kept = {name: value for name, value in fields.items() if name in common or name not in whole}
        uneven = len(common) < len(fields)

        def as_all(line: bytes) -> bytes:
            if not uneven:
                return line
            row = {**kept, **msgspec.json.decode(line)}
            return msgspec.json.encode({name: row[name] for name in kept}) + b"\n"

        def lines() -> Iterator[bytes]:
            for _, line in ahead:
                yield as_all(line)
            moved = {place for place, _ in ahead}
            spool.seek(0)
            place = 0
            for line in spool:
                if place not in moved:
                    yield as_all(line)
                place += len(line)

        _write_lines(path, lines)
    return count


def _write_lines(path: str | Path, lines: Any) -> None:
    if has_columns(path):
        write_columns(path, lines)
        return
    out: IO[bytes]
    with open_output(path) as out:
        for line in lines():
            out.write(line)


class Left:
    """Counts what a format has no place for; `tell` it when the file is written."""

    def __init__(self, path: str | Path, name: str, holds: Set[str] = frozenset()) -> None:
        self._path, self._name, self._holds = path, name, holds
        self._counts: Counter[str] = Counter()

    def count(self, example: Example) -> None:
        """Count what of an example is beyond the format."""
        self._counts.update(name for name in _PARTS if name not in self._holds and getattr(example, name))

    def add(self, what: str) -> None:
        """Count something else."""
        self._counts[what] += 1

    def tell(self) -> None:
        """Give an InputWarning with the counts, if there is anything."""
        if self._counts:
            told = ", ".join(f"{name} ({count})" for name, count in self._counts.items())
            warnings.warn(
                f"{self._path}: left out, because {self._name} has no place for it: {told}",
                InputWarning,
                stacklevel=3,
            )


def count_unread(line: bytes, known: Iterable[str], unread: Counter[str] | None) -> None:
    """Count the fields of a JSON object that are not known, unless nobody asks."""
    if unread is not None:
        fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        unread.update(name for name in fields if name not in known)


_PARTS = ("thought", "teacher_scores", "reasoning_query", "dataset", "group_size", "batch_size")
"""What an example may have beyond its query and documents."""
