"""What an election, mining and a calibration read, and how they tell what they did."""

from __future__ import annotations

import functools
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from o1_records import (
    Document,
    Qrel,
    Query,
    Record,
    beir,
    open_documents,
    open_qrels,
    open_queries,
    read_jsonl,
)
from o1_records.files import is_folder
from o1_records.kit.command import at_least, reads
from o1_vote._job import Files, Published

RecordT = TypeVar("RecordT", bound=Record)
T = TypeVar("T")


def declare(command: ArgumentParser, *, split: str, required: bool = True) -> None:
    """Add `--queries`, `--qrels`, `--corpus`, `--split` and `--relevance`.

    Without `required` only the corpus is needed.
    """
    reads(command, "--queries", required=required, once=True, help="JSONL of queries, or a BEIR folder")
    reads(
        command,
        "--qrels",
        required=required,
        once=True,
        help="JSONL, TREC or BEIR .tsv qrels, or a BEIR folder",
    )
    reads(command, "--corpus", required=True, help="JSONL of documents, or a BEIR folder")
    command.add_argument("--split", default=split, help="of BEIR folders: whose queries and qrels")
    relevance(command)


def relevance(command: ArgumentParser) -> None:
    """Add `--relevance`."""
    command.add_argument(
        "--relevance",
        type=at_least(1),
        default=1,
        help="the lowest grade of a positive (2 for TREC-DL); lower grades above 0 are neither positive nor "
        "negative",
    )


def queries(args: Namespace) -> Iterable[Query]:
    """Return the queries of the split."""
    inside = [beir.file_in(args.queries, "queries.jsonl"), _qrels_in(args.queries, args.split)]
    return _once_or_often(args.queries, functools.partial(open_queries, args.queries, args.split), inside)


def qrels(args: Namespace) -> Iterable[Qrel]:
    """Return the judgements of the split."""
    inside = [_qrels_in(args.qrels, args.split)]
    return _once_or_often(args.qrels, functools.partial(open_qrels, args.qrels, args.split), inside)


def corpus(args: Namespace) -> Files[Document]:
    """Return the documents."""
    path: Path = args.corpus
    files = [beir.file_in(path, "corpus.jsonl")] if is_folder(path) else [path]
    return Files(files, functools.partial(open_documents, path))


def records(path: Path, record_type: type[RecordT]) -> Iterable[RecordT]:
    """Return the records of a JSONL file."""
    return _once_or_often(path, functools.partial(read_jsonl, path, record_type), [])


def _qrels_in(folder: Path, split: str) -> Path:
    return beir.file_in(folder / "qrels", f"{split}.tsv")


def _once_or_often(path: Path, read: Callable[[], Iterable[T]], inside: Sequence[Path]) -> Iterable[T]:
    """Return records that are read anew each time, or of a pipe those that are read once."""
    if path.exists() and not path.is_file() and not path.is_dir():
        return iter(read())
    return Files(inside if is_folder(path) else [path], read)


def tell(out: Path, done: Published) -> bool:
    """Print what was moved and done; returns False where nothing was left to do."""
    for path in done.moved:
        print(f"{path}: earlier work, moved aside", file=sys.stderr)
    if done.up_to_date:
        print(f"{out}: up to date", file=sys.stderr)
        return False
    if done.shared:
        print(f"{done.shared} positives are shared by queries that ask the same", file=sys.stderr)
    for line in done.told:
        print(line, file=sys.stderr)
    return True
