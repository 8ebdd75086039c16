"""What an election, mining and a calibration read: queries, judgements, a corpus."""

from __future__ import annotations

import functools
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TypeVar

from o1_records import Document, Qrel, Query, Record, open_documents, open_qrels, open_queries, read_jsonl
from o1_records.kit.command import reads
from o1_vote._job import Files

RecordT = TypeVar("RecordT", bound=Record)


def declare(command: ArgumentParser, *, split: str, required: bool = True, once: bool = False) -> None:
    """Add `--queries`, `--qrels`, `--corpus` and `--split`.

    Without `required` only the corpus is needed; with `once` pipes will do, but for the corpus.
    """
    reads(command, "--queries", required=required, once=once, help="JSONL of queries, or a BEIR folder")
    reads(
        command,
        "--qrels",
        required=required,
        once=once,
        help="JSONL, TREC or BEIR .tsv qrels, or a BEIR folder",
    )
    reads(command, "--corpus", required=True, help="JSONL of documents, or a BEIR folder")
    command.add_argument("--split", default=split, help="of BEIR folders: whose queries and qrels")


def queries(args: Namespace) -> Files[Query]:
    """Return the queries of the split."""
    files = _files(args.queries, "queries.jsonl", f"qrels/{args.split}.tsv")
    return Files(files, functools.partial(open_queries, args.queries, args.split))


def qrels(args: Namespace) -> Files[Qrel]:
    """Return the judgements of the split."""
    files = _files(args.qrels, f"qrels/{args.split}.tsv")
    return Files(files, functools.partial(open_qrels, args.qrels, args.split))


def corpus(args: Namespace) -> Files[Document]:
    """Return the documents."""
    return Files(_files(args.corpus, "corpus.jsonl"), functools.partial(open_documents, args.corpus))


def records(path: Path, record_type: type[RecordT]) -> Files[RecordT]:
    """Return the records of a JSONL file."""
    return Files([path], functools.partial(read_jsonl, path, record_type))


def _files(path: Path, *inside: str) -> list[Path]:
    """Return the file itself; of a folder, the files that are read inside."""
    return [path / name for name in inside] if path.is_dir() else [path]
