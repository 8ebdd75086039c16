"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, atomic_write, open_output, quoted
from o1_records.jsonl import decode_line
from o1_records.keys import KeySet
from o1_records.lines import Refuse, checked_lines
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
    return read_corpus_file(Path(folder) / "corpus.jsonl")


def read_queries(folder: str | Path) -> Iterator[Query]:
    """Yield the queries of all splits in file order. Raises InputError with file and line."""
    return read_queries_file(Path(folder) / "queries.jsonl")


def read_corpus_file(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Document]:
    """Yield the documents of one `corpus.jsonl`."""
    for line in _read(path, _BeirDocument, "doc_id", refused):
        yield Document(doc_id=line.doc_id, text=line.text, title=line.title)


def read_queries_file(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Query]:
    """Yield the queries of one `queries.jsonl`."""
    for line in _read(path, _BeirQuery, "query_id", refused):
        yield Query(query_id=line.query_id, text=line.text)


def read_qrels(folder: str | Path, split: str = "test") -> Iterator[Qrel]:
    """Yield the judgements of `qrels/<split>.tsv` in file order. Raises InputError with file and line."""
    return read_qrels_file(Path(folder) / "qrels" / f"{split}.tsv")


def read_qrels_file(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Qrel]:
    """Yield the judgements of one `query-id corpus-id score` file, with or without that header."""
    seen = KeySet()

    def decode(line: bytes, place: str) -> Qrel | None:
        fields = _text(line, place).split("\t")
        if fields == _HEADER and place.endswith(":1"):
            return None
        qrel = _qrel(fields, place)
        if not seen.add((qrel.query_id, qrel.doc_id)):
            raise InputError(f"{place}: judged twice: {quoted(qrel.query_id)}, {quoted(qrel.doc_id)}")
        return qrel

    return (qrel for qrel in checked_lines(path, decode, refused) if qrel is not None)


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
    write_corpus_file(folder / "corpus.jsonl", documents)
    write_queries_file(folder / "queries.jsonl", queries)
    for split, judgements in qrels.items():
        write_qrels_file(folder / "qrels" / f"{split}.tsv", judgements)


def write_corpus_file(path: str | Path, documents: Iterable[Document]) -> int:
    """Write one `corpus.jsonl`; returns the number of documents."""
    return _write(path, (_document_row(document) for document in documents))


def write_queries_file(path: str | Path, queries: Iterable[Query]) -> int:
    """Write one `queries.jsonl`; returns the number of queries."""
    return _write(path, (_query_row(query) for query in queries))


def write_qrels_file(path: str | Path, qrels: Iterable[Qrel]) -> int:
    """Write one `qrels/<split>.tsv` with its header; returns the number of judgements."""
    count = 0
    with atomic_write(path) as file:
        file.write("\t".join(_HEADER).encode() + b"\n")
        for qrel in qrels:
            count += 1
            for name in (qrel.query_id, qrel.doc_id):
                if not name or set(name) & set("\t\r\n"):
                    raise InputError(f"{path}: id {quoted(name)} is empty or has a tab or a new line")
            file.write(f"{qrel.query_id}\t{qrel.doc_id}\t{qrel.relevance}\n".encode())
    return count


def _read(path: str | Path, line_type: type[Any], key: str, refused: Refuse | None) -> Iterator[Any]:
    decoder = msgspec.json.Decoder(line_type)
    seen = KeySet()

    def decode(line: bytes, place: str) -> Any:
        decoded = decode_line(decoder, line, place)
        if not seen.add((getattr(decoded, key),)):
            raise InputError(f"{place}: duplicate _id {quoted(getattr(decoded, key))}; keep one of them")
        return decoded

    return checked_lines(path, decode, refused)


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


def _write(path: str | Path, rows: Iterable[dict[str, str]]) -> int:
    seen = KeySet()
    with open_output(path) as file:
        for row in rows:
            if not seen.add((row["_id"],)):
                raise InputError(f"{path}: duplicate _id {quoted(row['_id'])}; nothing was written")
            try:
                file.write(msgspec.json.encode(row) + b"\n")
            except UnicodeError as error:
                raise InputError(f"{path}: {quoted(row)}: {error}") from error
    return len(seen)
