"""Queries, documents, judgements and runs from a BEIR folder or a file, whichever is given.

What a file holds its first line says, not its name: so pipes are read too. Only Parquet, Lance, and a
run that is one JSON object, are told by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from o1_records import beir, trec
from o1_records.files import InputError, is_folder, open_input, plain_name
from o1_records.jsonl import record_decoder
from o1_records.lines import is_json, lines_by_first
from o1_records.ranking import rank
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
    """Yield the hits of a TREC run, of a JSONL file of Hit records, or of a `*.json` file of scores.

    Raises InputError for what is none of them, and for a score that is not a finite number.
    """
    suffix = Path(plain_name(path)).suffix
    if suffix == ".json":
        return (hit for query_id, scores in json_scores(path).items() for hit in rank(query_id, scores))

    def choose(line: bytes) -> Callable[[bytes, str], Hit]:
        return record_decoder(Hit) if is_json(line) or suffix == ".jsonl" else trec.run_decoder(path)

    return lines_by_first(path, choose)


def json_scores(path: str | Path) -> dict[str, dict[str, float]]:
    """Return a run that is one JSON object: `{query_id: {doc_id: score}}`, or that in `search_results`.

    BEIR and BRIGHT's code write the first; FlagEmbedding the second, with its split before each query_id of
    BRIGHT, which is taken away.

    Raises InputError for what is none of them, and for a score that is not a finite number.
    """
    with open_input(path) as file:
        content = file.read()
    try:
        found = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}; damaged, or not a run (JSON lines are named *.jsonl)") from error
    split = found.get("split", "")
    try:
        scores = msgspec.convert(found.get("search_results", found), dict[str, dict[str, float]])
    except msgspec.ValidationError as error:
        raise InputError(
            f"{path}: {error}; a run is {{query_id: {{doc_id: score}}}}, or has it in search_results"
        ) from error
    prefix = f"{split}-"
    if split and scores and all(query_id.startswith(prefix) for query_id in scores):
        return {query_id.removeprefix(prefix): found for query_id, found in scores.items()}
    return scores


def _is_folder(path: str | Path) -> bool:
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder")
    return is_folder(path)


def _is_beirs(line: bytes) -> bool:
    """Return whether a row names its key as BEIR does."""
    try:
        row = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeError):
        return False  # the decoder of records says what is wrong
    return isinstance(row, dict) and "_id" in row
