"""`o1-index search`: a TREC run of query vectors."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from o1_index.fusion import FUSES, search_from
from o1_index.hits import Excluded
from o1_index.index import open_index
from o1_records import Exclusion, read_jsonl, trec
from o1_records.kit.command import EVERYTHING, at_least, reads, writes
from o1_records.vectors import VectorSet


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    search_options(command)
    command.add_argument(
        "--fuse", choices=FUSES, default="max", help="how several vectors of a query are fused"
    )


def search_options(command: argparse.ArgumentParser) -> None:
    """Add the options of every command that searches."""
    reads(command, "--index", required=True, inside=EVERYTHING, help="folder of the index")
    reads(command, "--vectors", required=True, inside=EVERYTHING, help="folder of query vectors")
    command.add_argument("--k", type=at_least(1), default=100, help="documents a query")
    writes(command, "--out", required=True, help="TREC run to write")
    reads(command, "--excluded", once=True, help="JSONL file of Exclusion records")
    command.add_argument("--mmap", action="store_true", help="leave the vectors on disk")
    command.add_argument("--device", default="cpu", help="where to search: cpu, auto, cuda, cuda:0,1")


def run(args: argparse.Namespace) -> int:
    """Search; the run appears whole or not at all."""
    queries = VectorSet(args.vectors)
    index = open_index(args.index, mmap=args.mmap, device=args.device)
    hits = search_from(index, queries, k=args.k, fuse=args.fuse, excluded=exclusions(args.excluded))
    print(f"{args.out}: {trec.write_run(args.out, hits)} hits", file=sys.stderr)
    return 0


def exclusions(path: Path | None) -> Excluded:
    """Return what a file of Exclusion records leaves out for each query; nothing without a file."""
    excluded: defaultdict[str, set[str]] = defaultdict(set)
    for line in read_jsonl(path, Exclusion) if path else ():
        excluded[line.query_id].add(line.doc_id)
    return dict(excluded)
