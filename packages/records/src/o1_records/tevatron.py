"""Tevatron's training JSONL: `query_id`, `query`, `positive_passages`, `negative_passages`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, open_output, quoted
from o1_records.jsonl import decode_line, refuse_repeated_fields
from o1_records.keys import KeySet
from o1_records.lines import Refuse, checked_lines
from o1_records.types import Document, Example, Id, Query


class _Passage(msgspec.Struct):
    docid: Id
    text: str
    title: str = ""


class _Row(msgspec.Struct):
    query_id: Id
    query: str
    positive_passages: list[_Passage]
    negative_passages: list[_Passage] = []


def read(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Example]:
    """Yield the rows of a file as examples. Raises InputError with file and line."""
    decoder = msgspec.json.Decoder(_Row)
    seen = KeySet()

    def decode(line: bytes, place: str) -> Example:
        row = decode_line(decoder, line, place)
        refuse_repeated_fields(line, place)
        if not seen.add((row.query_id,)):
            raise InputError(f"{place}: duplicate query_id {quoted(row.query_id)}; keep one of them")
        return Example(
            query=Query(query_id=row.query_id, text=row.query),
            positives=_documents(row.positive_passages),
            negatives=_documents(row.negative_passages),
        )

    return checked_lines(path, decode, refused)


def write(path: str | Path, examples: Iterable[Example]) -> int:
    """Write examples; returns how many. Thoughts and teacher scores have no place in the format.

    Raises InputError for a query with an instruction, which the format would lose.
    """
    count = 0
    with open_output(path) as file:
        for example in examples:
            count += 1
            try:
                file.write(msgspec.json.encode(_row(example)) + b"\n")
            except UnicodeError as error:
                raise InputError(f"{path}: example {count}: {error}") from error
    return count


def _row(example: Example) -> dict[str, Any]:
    query = example.query
    if query.instruction:
        raise InputError(f"query {quoted(query.query_id)}: Tevatron's rows cannot hold its instruction")
    return {
        "query_id": query.query_id,
        "query": query.text,
        "positive_passages": [_passage(document) for document in example.positives],
        "negative_passages": [_passage(document) for document in example.negatives],
    }


def _passage(document: Document) -> dict[str, str]:
    return {"docid": document.doc_id, "title": document.title, "text": document.text}


def _documents(passages: list[_Passage]) -> tuple[Document, ...]:
    return tuple(Document(doc_id=p.docid, text=p.text, title=p.title) for p in passages)
