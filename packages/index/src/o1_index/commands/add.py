"""`o1-index add`: a new version of an index with further documents."""

from __future__ import annotations

import argparse
import sys

from o1_index.index import RECENT, open_index
from o1_index.vectors import open_vectors
from o1_records.kit.command import EVERYTHING, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    writes(command, "--index", required=True, folder=True, help="folder of the index")
    reads(command, "--vectors", required=True, inside=EVERYTHING, help="folder or file of document vectors")
    reads(command, "--ids", help="text file with the doc_id of each vector, if --vectors has none")
    command.add_argument("--upsert", action="store_true", help="replace documents that are there already")
    command.add_argument("--prune", action="store_true", help="delete the older versions")


def run(args: argparse.Namespace) -> int:
    """Publish the next version; readers of the old one keep it."""
    vectors = open_vectors(args.vectors, args.ids)
    # a few documents lie beside the engine, which then need not be read
    index = open_index(args.index, mmap=len(vectors) <= RECENT)
    index.add_from(vectors, upsert=args.upsert)
    index.save(args.index, prune=args.prune)
    print(f"{args.index}: {len(vectors)} added, {len(index)} documents now", file=sys.stderr)
    return 0
