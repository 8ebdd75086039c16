"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, atomic_write, quoted
from o1_records.jsonl import numbered_lines
from o1_records.types import Document, Id, Qrel, Query

_HEADER = ["query-id", "corpus-id", "score"]


class _BeirDocument(msgspec.Struct, frozen=True, kw_only=True, rename={"doc_id": "_id"}):
    """A line of corpus.jsonl; other fields (`metadata`) are the set's own and are not read."""

    doc_id: Id
    text: str
    title: str = ""


class _BeirQuery(msgspec.Struct, frozen=True, kw_only=True, rename={"query_id": "_id"}):
    """A line of queries.jsonl; other fields (`metadata`) are the set's own and are not read."""

    query_id: Id
    text: str


def read_corpus(folder: str | Path) -> Iterator[Document]:
    """Yield the documents in file order. Raises InputError with file and line."""
    for line in _read(Path(folder) / "corpus.jsonl", _BeirDocument, "doc_id"):
        yield Document(doc_id=line.doc_id, text=line.text, title=line.title)


def read_queries(folder: str | Path) -> Iterator[Query]:
    """Yield the queries of all splits in file order. Raises InputError with file and line."""
    for line in _read(Path(folder) / "queries.jsonl", _BeirQuery, "query_id"):
        yield Query(query_id=line.query_id, text=line.text)


def read_qrels(folder: str | Path, split: str = "test") -> Iterator[Qrel]:
    """Yield the judgements of `qrels/<split>.tsv` in file order. Raises InputError with file and line."""
    return read_qrels_file(Path(folder) / "qrels" / f"{split}.tsv")


def read_qrels_file(path: str | Path) -> Iterator[Qrel]:
    """Yield the judgements of one `query-id corpus-id score` file, with or without that header."""
    seen: set[tuple[str, str]] = set()
    with open(path, "rb") as file:
        for number, line in numbered_lines(file, path):
            place = f"{path}:{number}"
            fields = _text(line, place).split("\t")
            if number == 1 and fields == _HEADER:
                continue
            qrel = _qrel(fields, place)
            if (qrel.query_id, qrel.doc_id) in seen:
                raise InputError(f"{place}: judged twice: {quoted(qrel.query_id)}, {quoted(qrel.doc_id)}")
            seen.add((qrel.query_id, qrel.doc_id))
            yield qrel


def write_beir(
    folder: str | Path,
    *,
    documents: Iterable[Document],
    queries: Iterable[Query],
    qrels: Mapping[str, Iterable[Qrel]],
) -> None:
    """Write a BEIR folder; `qrels` maps a split's name to its judgements. Each file is whole or absent.

    Raises InputError for what the format cannot hold: repeated ids, instructions, tabs in ids.
    """
    folder = Path(folder)
    _write(folder / "corpus.jsonl", (_document_row(document) for document in documents))
    _write(folder / "queries.jsonl", (_query_row(query) for query in queries))
    for split, judgements in qrels.items():
        with atomic_write(folder / "qrels" / f"{split}.tsv") as file:
            file.write("\t".join(_HEADER).encode() + b"\n")
            for qrel in judgements:
                for name in (qrel.query_id, qrel.doc_id):
                    if not name or set(name) & set("\t\r\n"):
                        raise InputError(f"{folder}: id {quoted(name)} is empty or has a tab or a new line")
                file.write(f"{qrel.query_id}\t{qrel.doc_id}\t{qrel.relevance}\n".encode())


def _read(path: Path, line_type: type[Any], key: str) -> Iterator[Any]:
    decoder = msgspec.json.Decoder(line_type)
    seen: set[str] = set()
    with open(path, "rb") as file:
        for number, line in numbered_lines(file, path):
            place = f"{path}:{number}"
            try:
                decoded = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise InputError(f"{place}: {error}; in {quoted(line[:200])}") from error
            name = getattr(decoded, key)
            if name in seen:
                raise InputError(f"{place}: _id {quoted(name)} stands twice; keep one of them")
            seen.add(name)
            yield decoded


def _qrel(fields: list[str], place: str) -> Qrel:
    if len(fields) != 3:
        raise InputError(
            f"{place}: expected 3 columns between tabs ({' '.join(_HEADER)}), got {quoted(fields)}"
        )
    query_id, doc_id, relevance = fields
    try:
        value = int(relevance)
    except ValueError:
        raise InputError(f"{place}: score {quoted(relevance)} is not an integer") from None
    if not query_id or not doc_id:
        raise InputError(f"{place}: an id is empty in {quoted(fields)}")
    return Qrel(query_id=query_id, doc_id=doc_id, relevance=value)


def _text(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8: {error}") from error


def _document_row(document: Document) -> dict[str, str]:
    return {"_id": document.doc_id, "title": document.title, "text": document.text}


def _query_row(query: Query) -> dict[str, str]:
    if query.instruction:
        raise InputError(f"query {quoted(query.query_id)}: BEIR cannot hold its instruction; write JSONL")
    return {"_id": query.query_id, "text": query.text}


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    seen: set[str] = set()
    with atomic_write(path) as file:
        for row in rows:
            if row["_id"] in seen:
                raise InputError(f"{path}: _id {quoted(row['_id'])} stands twice; nothing was written")
            seen.add(row["_id"])
            try:
                file.write(msgspec.json.encode(row) + b"\n")
            except UnicodeError as error:
                raise InputError(f"{path}: {quoted(row)}: {error}") from error
