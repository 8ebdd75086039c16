"""Queries, documents, judgements and runs from a BEIR folder or a file, whichever is given.

What a file holds its first line says, not its name: so pipes are read too. Only Parquet is told by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from o1_records import beir, trec
from o1_records.files import InputError, plain_name
from o1_records.jsonl import record_decoder
from o1_records.lines import is_json, lines_by_first
from o1_records.types import Document, Hit, Qrel, Query


def open_queries(path: str | Path, split: str | None = None) -> Iterator[Query]:
    """Yield queries of a BEIR folder, of its `queries.jsonl`, or of a JSONL file of Query records.

    `split` keeps, of a folder, the queries that `qrels/<split>.tsv` judges.
    """
    if not _is_folder(path):
        yield from lines_by_first(
            path, lambda line: beir.queries_decoder(path) if _is_beirs(line) else record_decoder(Query)
        )
        return
    judged = None if split is None else {q.query_id for q in beir.read_qrels(path, split)}
    for query in beir.read_queries(path):
        if judged is None or query.query_id in judged:
            yield query


def open_documents(path: str | Path) -> Iterator[Document]:
    """Yield documents of a BEIR folder, of its `corpus.jsonl`, or of a JSONL file of Document records."""
    if _is_folder(path):
        return beir.read_corpus(path)
    return lines_by_first(
        path, lambda line: beir.corpus_decoder(path) if _is_beirs(line) else record_decoder(Document)
    )


def open_qrels(path: str | Path, split: str = "test") -> Iterator[Qrel]:
    """Yield judgements of a BEIR folder, a JSONL file of records, or a TREC or BEIR qrels file.

    BEIR's have three columns between tabs, or the name `*.tsv`; TREC's have four.
    """
    if _is_folder(path):
        return beir.read_qrels(path, split)
    suffix = Path(plain_name(path)).suffix

    def choose(line: bytes) -> Callable[[bytes, str], Qrel | None]:
        if is_json(line) or suffix == ".jsonl":
            return record_decoder(Qrel)
        if suffix == ".tsv" or line.count(b"\t") == 2:
            return beir.qrels_decoder(path)
        return trec.qrels_decoder(path)

    return (qrel for qrel in lines_by_first(path, choose) if qrel is not None)


def open_run(path: str | Path) -> Iterator[Hit]:
    """Yield the hits of a TREC run, or of a JSONL file of Hit records."""
    suffix = Path(plain_name(path)).suffix

    def choose(line: bytes) -> Callable[[bytes, str], Hit]:
        return record_decoder(Hit) if is_json(line) or suffix == ".jsonl" else trec.run_decoder(path)

    return lines_by_first(path, choose)


def _is_folder(path: str | Path) -> bool:
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder")
    return Path(path).is_dir()


def _is_beirs(line: bytes) -> bool:
    """Return whether a row names its key as BEIR does."""
    try:
        row = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeError):
        return False  # the decoder of records says what is wrong
    return isinstance(row, dict) and "_id" in row
