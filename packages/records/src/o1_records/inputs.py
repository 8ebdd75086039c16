"""Queries, documents and judgements from a BEIR folder or a file of records, whichever is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from o1_records import beir, trec
from o1_records.files import InputError, open_input, plain_name
from o1_records.jsonl import read_jsonl
from o1_records.lines import is_parquet
from o1_records.types import Document, Qrel, Query

_FIRST = 1 << 20  # bytes of a first line that are looked at


def open_queries(path: str | Path, split: str | None = None) -> Iterator[Query]:
    """Yield queries of a BEIR folder, of its `queries.jsonl`, or of a JSONL file of Query records.

    `split` keeps, of a folder, the queries that `qrels/<split>.tsv` judges.
    """
    if not _is_folder(path):
        yield from beir.read_queries_file(path) if _is_beirs(path) else read_jsonl(path, Query)
        return
    judged = None if split is None else {q.query_id for q in beir.read_qrels(path, split)}
    for query in beir.read_queries(path):
        if judged is None or query.query_id in judged:
            yield query


def open_documents(path: str | Path) -> Iterator[Document]:
    """Yield documents of a BEIR folder, of its `corpus.jsonl`, or of a JSONL file of Document records."""
    if _is_folder(path):
        return beir.read_corpus(path)
    return beir.read_corpus_file(path) if _is_beirs(path) else read_jsonl(path, Document)


def open_qrels(path: str | Path, split: str = "test") -> Iterator[Qrel]:
    """Yield judgements of a BEIR folder, a JSONL file of records, or a TREC or BEIR qrels file."""
    if _is_folder(path):
        return beir.read_qrels(path, split)
    suffix = Path(plain_name(path)).suffix
    if suffix == ".jsonl":
        return read_jsonl(path, Qrel)
    return beir.read_qrels_file(path) if suffix == ".tsv" else trec.read_qrels(path)


def _is_folder(path: str | Path) -> bool:
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder")
    return Path(path).is_dir()


def _is_beirs(path: str | Path) -> bool:
    """Return whether the first row names its key as BEIR does; a pipe, read once, holds records."""
    if not Path(path).is_file() or is_parquet(path):
        return False
    with open_input(path) as file:
        first = file.readline(_FIRST)
        while first.isspace():
            first = file.readline(_FIRST)
    try:
        row = msgspec.json.decode(first)
    except (msgspec.MsgspecError, UnicodeError):
        return False  # whoever reads the file says what is wrong
    return isinstance(row, dict) and "_id" in row
