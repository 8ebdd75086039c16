"""Splitting records into those that are kept and those that are removed: two files, whole or absent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from o1_records import (
    Document,
    Example,
    InputError,
    Query,
    Record,
    Thought,
    quoted,
    read_jsonl,
    refuse_overwriting,
    write_jsonl,
)
from o1_records.files import is_file
from o1_records.jsonl import decode_line
from o1_records.keys import KeySet
from o1_records.lines import checked_lines
from o1_records.types import Count, NonBlank


class Kind(NamedTuple):
    """A type of record, with its name and its text."""

    record: type[Record]
    name: Callable[[Any], str]
    text: Callable[[Any], str]


KINDS: dict[str, Kind] = {
    "query": Kind(Query, lambda r: str(r.query_id), lambda r: str(r.text)),
    "document": Kind(Document, lambda r: str(r.doc_id), lambda r: str(r.full_text)),
    "thought": Kind(Thought, lambda r: f"{r.query_id} {r.thought_id}", lambda r: str(r.text)),
    "example": Kind(Example, lambda r: str(r.query.query_id), lambda r: str(r.query.text)),
}


class Removal(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a record, or a part of it, was removed: which text it is like, and how much.

    `number` is that of the record in its file, from 1. `part` is what of it was removed; empty is all of it.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("file", "number", "part")
    file: str
    number: Count
    name: str
    part: str = ""
    reason: NonBlank
    like: str
    share: float


class Place(NamedTuple):
    """Where a record comes from: its file, and its number there, from 1."""

    file: str
    number: int


class Sieved(NamedTuple):
    """How many records were kept and removed, and how many parts of kept ones were removed."""

    kept: int
    removed: int
    parts: int = 0


Judge = Callable[[Place, Any], tuple[Record | None, Sequence[Removal]]]
"""Returns what is kept of a record, if anything is, and what is removed."""


def records_of(files: Sequence[str | Path], kind: Kind) -> Iterator[tuple[Place, Any]]:
    """Yield each record of all files in order, with its place; raise InputError for a file given twice."""
    listed = [Path(file).resolve() for file in files]
    for number, file in enumerate(files):
        if listed[number] in listed[:number]:
            raise InputError(f"{file}: is given twice; name it once")
        for place, record in enumerate(read_jsonl(file, kind.record), 1):
            yield Place(str(file), place), record


def sieve(
    files: Sequence[str | Path],
    kind: Kind,
    judge: Judge,
    *,
    out: str | Path,
    reasons: str | Path,
    later: Callable[[], Iterator[tuple[Place, Record]]] | None = None,
) -> Sieved:
    """Write what `judge` keeps to `out`, and why the rest was removed to `reasons`.

    `later` yields further records to keep when all are judged. Raises InputError where two files have a
    record of one key and both would be kept, and for an output that is an input.
    """
    inputs = {f"file {number}": file for number, file in enumerate(files, 1)}
    refuse_overwriting(inputs, {"out": out, "reasons": reasons})
    seen = KeySet()
    parts = 0
    with tempfile.TemporaryFile() as removed:

        def judged() -> Iterator[tuple[Place, Record]]:
            nonlocal parts
            for place, record in records_of(files, kind):
                kept, removals = judge(place, record)
                for removal in removals:
                    parts += bool(removal.part)
                    removed.write(msgspec.json.encode(removal) + b"\n")
                if kept is not None:
                    yield place, kept
            yield from later() if later else ()

        def kept() -> Iterator[Record]:
            for place, record in judged():
                if not seen.add(record.key):
                    raise _clash(files, place.file, kind, record)
                yield record

        count = write_jsonl(out, kept())
        removed.seek(0)
        decoder = msgspec.json.Decoder(Removal)
        total = write_jsonl(reasons, map(decoder.decode, removed))
        return Sieved(count, total - parts, parts)


def _clash(files: Sequence[str | Path], last: str, kind: Kind, record: Record) -> InputError:
    """Return what to raise for a key that a file and one before it have, with the lines of all of them."""
    places = ", ".join(place for file in files for place in _places(file, kind, record.key))
    return InputError(
        f"{last}: another file has the key {quoted(record.key)} too ({places}); give each record an id of "
        "its own; nothing was written"
    )


def _places(file: str | Path, kind: Kind, key: object) -> list[str]:
    if not is_file(file):  # a pipe was read already
        return []
    decoder = msgspec.json.Decoder(kind.record)
    keys = checked_lines(file, lambda line, place: (place, decode_line(decoder, line, place).key))
    return [place for place, own in keys if own == key]
