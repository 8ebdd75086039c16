"""The records whose texts can be compared, on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from o1_records import Document, Example, Query, Record, Thought, read_jsonl
from o1_records.types import Id, NonBlank


class Kind(NamedTuple):
    """A type of record, its name and its text."""

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


def declare(command: argparse.ArgumentParser) -> None:
    """The files, what they hold, and where the rest goes."""
    add = command.add_argument
    add("files", nargs="+", help="JSONL; an earlier file's records come first")
    add("--type", required=True, choices=KINDS, help="what the files hold; of an example its query counts")
    add("--out", required=True, help="JSONL of what is kept")
    add("--reasons", required=True, help="JSONL of what is removed, and why")


def records(files: Sequence[str], kind: Kind) -> Iterator[tuple[str, Any]]:
    """Yield (file, record) of all files in order."""
    for file in files:
        for record in read_jsonl(file, kind.record):
            yield file, record
