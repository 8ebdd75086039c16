"""Tevatron's training JSONL: `query_id`, `query`, `positive_passages`, `negative_passages`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, quoted
from o1_records.jsonl import decode_line, refuse_repeated_fields
from o1_records.keys import KeySet
from o1_records.lines import Refuse, checked_lines
from o1_records.rows import Left, count_unread, write_rows
from o1_records.types import Document, Example, Query


class _Passage(msgspec.Struct):
    docid: str | int
    text: str
    title: str | None = None


class _Row(msgspec.Struct):
    query_id: str | int
    query: str
    positive_passages: list[_Passage]
    negative_passages: list[_Passage] | None = None


def read(
    path: str | Path, *, refused: Refuse | None = None, unread: Counter[str] | None = None
) -> Iterator[Example]:
    """Yield the rows of a file as examples; `unread` counts fields that an example has no place for.

    Ids may be whole numbers. Raises InputError with file and line.
    """
    decoder = msgspec.json.Decoder(_Row)
    seen = KeySet()

    def decode(line: bytes, place: str) -> Example:
        row = decode_line(decoder, line, place)
        refuse_repeated_fields(line, place)
        query_id = str(row.query_id)
        if not query_id or not seen.add((query_id,)):
            raise InputError(f"{place}: query_id {quoted(query_id)} is a duplicate or empty; name each row")
        count_unread(line, _Row.__struct_fields__, unread)
        return Example(
            query=Query(query_id=query_id, text=row.query),
            positives=_documents(row.positive_passages, place),
            negatives=_documents(row.negative_passages or [], place),
        )

    return checked_lines(path, decode, refused)


def write(path: str | Path, examples: Iterable[Example]) -> int:
    """Write examples; returns how many. Warns of what the format has no place for, thoughts and scores say.

    Raises InputError for a query with an instruction, which the format would lose.
    """
    left = Left(path, "Tevatron")

    def rows() -> Iterator[dict[str, Any]]:
        for example in examples:
            left.count(example)
            yield _row(example)

    count = write_rows(path, rows())
    left.tell()
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


def _documents(passages: list[_Passage], place: str) -> tuple[Document, ...]:
    for passage in passages:
        if passage.docid == "":
            raise InputError(f"{place}: the docid of {quoted(passage.text)} is empty; name it")
    return tuple(Document(doc_id=str(p.docid), text=p.text, title=p.title or "") for p in passages)
