"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, InputWarning, open_output, quoted
from o1_records.jsonl import decode_line
from o1_records.keys import KeySet
from o1_records.lines import Refuse, checked_lines
from o1_records.rows import count_unread
from o1_records.types import Document, Id, Qrel, Query

_HEADER = ["query-id", "corpus-id", "score"]
_GRADES = ("score", "relevance", "rel", "label")
"""What the last column of a header is called."""


class _BeirDocument(msgspec.Struct, frozen=True, kw_only=True, rename={"doc_id": "_id"}):
    """A line of corpus.jsonl; other fields (`metadata`) are the set's own and are not read."""

    doc_id: Id | int
    text: str
    title: str | None = None


class _BeirQuery(msgspec.Struct, frozen=True, kw_only=True, rename={"query_id": "_id"}):
    """A line of queries.jsonl; other fields (`metadata`) are the set's own and are not read."""

    query_id: Id | int
    text: str


def read_corpus(folder: str | Path) -> Iterator[Document]:
    """Yield the documents in file order. Raises InputError with file and line."""
    return read_corpus_file(file_in(folder, "corpus.jsonl"))


def read_queries(folder: str | Path) -> Iterator[Query]:
    """Yield the queries of all splits in file order. Raises InputError with file and line."""
    return read_queries_file(file_in(folder, "queries.jsonl"))


def file_in(folder: str | Path, name: str) -> Path:
    """Return a file of a BEIR folder: the plain one, or where there is none `NAME.gz` or `NAME.zst`."""
    path = Path(folder) / name
    packed = [path.with_name(f"{path.name}{suffix}") for suffix in (".gz", ".zst")]
    return next((each for each in (path, *packed) if each.exists()), path)


def read_corpus_file(
    path: str | Path, *, refused: Refuse | None = None, unread: Counter[str] | None = None
) -> Iterator[Document]:
    """Yield the documents of one `corpus.jsonl`; `unread` counts fields that a document has no place for."""
    return checked_lines(path, corpus_decoder(path, unread), refused)


def corpus_decoder(path: str | Path, unread: Counter[str] | None = None) -> Callable[[bytes, str], Document]:
    """Return what makes a document of (line, place) for `read_corpus_file`; it remembers the ids."""
    decode = _decoder(path, _BeirDocument, "doc_id", unread)

    def document(line: bytes, place: str) -> Document:
        row = decode(line, place)
        return Document(doc_id=str(row.doc_id), text=row.text, title=row.title or "")

    return document


def read_queries_file(
    path: str | Path, *, refused: Refuse | None = None, unread: Counter[str] | None = None
) -> Iterator[Query]:
    """Yield the queries of one `queries.jsonl`; `unread` counts fields that a query has no place for."""
    return checked_lines(path, queries_decoder(path, unread), refused)


def queries_decoder(path: str | Path, unread: Counter[str] | None = None) -> Callable[[bytes, str], Query]:
    """Return what makes a query of (line, place) for `read_queries_file`; it remembers the ids."""
    decode = _decoder(path, _BeirQuery, "query_id", unread)

    def query(line: bytes, place: str) -> Query:
        row = decode(line, place)
        return Query(query_id=str(row.query_id), text=row.text)

    return query


def read_qrels(folder: str | Path, split: str = "test") -> Iterator[Qrel]:
    """Yield the judgements of `qrels/<split>.tsv` in file order. Raises InputError with file and line."""
    return read_qrels_file(file_in(Path(folder) / "qrels", f"{split}.tsv"))


def read_qrels_file(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Qrel]:
    """Yield the judgements of one `query-id corpus-id score` file, with or without a header.

    TREC's four columns between tabs are read too, and scores such as `1.0`, with a warning.
    """
    return (qrel for qrel in checked_lines(path, qrels_decoder(path), refused) if qrel is not None)


def qrels_decoder(path: str | Path) -> Callable[[bytes, str], Qrel | None]:
    """Return what makes a judgement of (line, place) for `read_qrels_file`, None of the header."""
    seen = KeySet()

    def decode(line: bytes, place: str) -> Qrel | None:
        fields = _text(line, place).split("\t")
        if place.endswith(":1") and fields[-1].strip().lower() in _GRADES:
            if fields != _HEADER:
                _tell(f"{path}: the first line, {quoted(fields)}, is read as a header")
            return None
        qrel = _qrel(fields, place, path)
        if not seen.add((qrel.query_id, qrel.doc_id)):
            raise InputError(f"{place}: judged twice: {quoted(qrel.query_id)}, {quoted(qrel.doc_id)}")
        return qrel

    return decode


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
    with open_output(path) as file:
        file.write("\t".join(_HEADER).encode() + b"\n")
        for qrel in qrels:
            count += 1
            for name in (qrel.query_id, qrel.doc_id):
                if not name or set(name) & set("\t\r\n") or name.startswith('"'):
                    raise InputError(
                        f"{path}: id {quoted(name)} is empty, has a tab or a new line, or begins with a "
                        "quote, which BEIR's loader takes for something else"
                    )
            file.write(f"{qrel.query_id}\t{qrel.doc_id}\t{qrel.relevance}\n".encode())
    return count


def _decoder(
    path: str | Path, line_type: type[Any], key: str, unread: Counter[str] | None
) -> Callable[[bytes, str], Any]:
    decoder = msgspec.json.Decoder(line_type)
    seen = KeySet()
    told = False

    def decode(line: bytes, place: str) -> Any:
        nonlocal told
        decoded = decode_line(decoder, line, place)
        name = getattr(decoded, key)
        if not isinstance(name, str) and not told:
            told = True
            _tell(f"{path}: ids that are numbers, such as {name}, are read as text")
        if not seen.add((str(name),)):
            raise InputError(f"{place}: duplicate _id {quoted(name)}; keep one of them")
        count_unread(line, ("_id", "text", "title"), unread)
        return decoded

    return decode


def _qrel(fields: list[str], place: str, path: str | Path) -> Qrel:
    if len(fields) == 4:
        _tell(f"{path}: four columns are read as TREC's (query_id 0 doc_id relevance)")
        fields = [fields[0], *fields[2:]]
    if len(fields) != 3:
        raise InputError(
            f"{place}: expected 3 columns between tabs ({' '.join(_HEADER)}), got {quoted(fields)}; qrels "
            "with spaces are TREC's: name the file .qrels or .txt, or convert it --from trec-qrels"
        )
    query_id, doc_id, relevance = fields
    value = whole_number(relevance, place, "score", path)
    if not query_id or not doc_id:
        raise InputError(f"{place}: an id is empty in {quoted(fields)}")
    return Qrel(query_id=query_id, doc_id=doc_id, relevance=value)


def _text(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8: {error}") from error


def whole_number(text: str, place: str, name: str, path: str | Path) -> int:
    """Return a whole number, written as `1` or, with a warning, `1.0`; else raise InputError."""
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError, OverflowError):
        if (value := float(text)) == int(value):
            _tell(f"{path}: {name} is written as {quoted(text)} and read as {int(value)}")
            return int(value)
    raise InputError(
        f"{place}: {name} {quoted(text)} is not a whole number; qrels have grades such as 0, 1, 2"
    )


def _tell(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=3)


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
