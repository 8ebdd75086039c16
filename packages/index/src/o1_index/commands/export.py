"""`o1-index export`: the vectors that an index holds, as a folder of vectors."""

from __future__ import annotations

import argparse
import sys

from o1_index.index import export, open_index
from o1_index.vectors import read_ids
from o1_records.kit.command import EVERYTHING, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--index", required=True, inside=EVERYTHING, help="folder of the index")
    writes(command, "--out", required=True, folder=True, help="folder of vectors to write")
    reads(command, "--ids", once=True, help="text file with a doc_id on each line; by default all documents")


def run(args: argparse.Namespace) -> int:
    """Write the vectors; of a factory of codes, what the codes stand for."""
    index = open_index(args.index, mmap=True)
    vectors = export(index, args.out, read_ids(args.ids) if args.ids else None)
    print(f"{args.out}: {len(vectors)} vectors of {index.dim} dimensions", file=sys.stderr)
    return 0
