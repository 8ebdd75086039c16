"""Queries, documents and judgements from a BEIR folder or a file of records, whichever is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from o1_records import beir, trec
from o1_records.files import InputError, plain_name
from o1_records.jsonl import read_jsonl
from o1_records.types import Document, Qrel, Query


def open_queries(path: str | Path, split: str | None = None) -> Iterator[Query]:
    """Yield queries of a BEIR folder or of a JSONL file of Query records.

    `split` keeps, of a folder, the queries that `qrels/<split>.tsv` judges.
    """
    if not _is_folder(path):
        yield from read_jsonl(path, Query)
        return
    judged = None if split is None else {q.query_id for q in beir.read_qrels(path, split)}
    for query in beir.read_queries(path):
        if judged is None or query.query_id in judged:
            yield query


def open_documents(path: str | Path) -> Iterator[Document]:
    """Yield documents of a BEIR folder or of a JSONL file of Document records."""
    return beir.read_corpus(path) if _is_folder(path) else read_jsonl(path, Document)


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
