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
from o1_records.files import open_input
from o1_records.jsonl import decode_line
from o1_records.keys import KeySet
from o1_records.lines import numbered_lines
from o1_records.types import Id, NonBlank


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
    """Why a record was removed: which text it is like, and how much."""

    key_fields: ClassVar[tuple[str, ...]] = ("file", "name")
    file: str
    name: Id
    reason: NonBlank
    like: str
    share: float


class Sieved(NamedTuple):
    """How many records were kept and removed."""

    kept: int
    removed: int


def records_of(files: Sequence[str | Path], kind: Kind) -> Iterator[tuple[str, Any]]:
    """Yield (file, record) of all files in order."""
    for file in files:
        for record in read_jsonl(file, kind.record):
            yield str(file), record


def sieve(
    files: Sequence[str | Path],
    kind: Kind,
    judge: Callable[[str, Any], Removal | None],
    *,
    out: str | Path,
    reasons: str | Path,
) -> Sieved:
    """Write what `judge(file, record)` finds nothing against to `out`, the rest to `reasons`.

    Raises InputError where two files have a record of one key and both would be kept, and for an output that
    is an input.
    """
    inputs = {f"file {number}": file for number, file in enumerate(files, 1)}
    refuse_overwriting(inputs, {"out": out, "reasons": reasons})
    seen = KeySet()
    with tempfile.TemporaryFile() as removed:

        def kept() -> Iterator[Record]:
            for file, record in records_of(files, kind):
                removal = judge(file, record)
                if removal is None:
                    if not seen.add(record.key):
                        raise _clash(files, file, kind, record)
                    yield record
                else:
                    removed.write(msgspec.json.encode(removal) + b"\n")

        count = write_jsonl(out, kept())
        removed.seek(0)
        decoder = msgspec.json.Decoder(Removal)
        return Sieved(count, write_jsonl(reasons, map(decoder.decode, removed)))


def _clash(files: Sequence[str | Path], last: str, kind: Kind, record: Record) -> InputError:
    """Return what to raise for a key that a file and one before it have, with the lines of all of them."""
    places = ", ".join(place for file in files for place in _places(file, kind, record.key))
    return InputError(
        f"{last}: another file has the key {quoted(record.key)} too ({places}); give each record an id of "
        "its own; nothing was written"
    )


def _places(file: str | Path, kind: Kind, key: object) -> Iterator[str]:
    if not Path(file).is_file():  # a pipe was read already
        return
    decoder = msgspec.json.Decoder(kind.record)
    with open_input(file) as lines:
        for number, line in numbered_lines(lines, file):
            place = f"{file}:{number}"
            if decode_line(decoder, line, place).key == key:
                yield place
