"""`o1-index add`: a new version of an index with further documents."""

from __future__ import annotations

import argparse
import sys

from o1_index.index import open_index
from o1_records.kit.command import EVERYTHING, reads, writes
from o1_records.vectors import VectorSet


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    writes(command, "--index", required=True, folder=True, help="folder of the index")
    reads(command, "--vectors", required=True, inside=EVERYTHING, help="folder of document vectors")
    command.add_argument("--upsert", action="store_true", help="replace documents that are there already")
    command.add_argument("--prune", action="store_true", help="delete the older versions")


def run(args: argparse.Namespace) -> int:
    """Publish the next version; readers of the old one keep it."""
    vectors = VectorSet(args.vectors)
    index = open_index(args.index)
    index.add_from(vectors, upsert=args.upsert)
    index.save(args.index, prune=args.prune)
    print(f"{args.index}: {len(vectors)} added, {len(index)} documents now", file=sys.stderr)
    return 0
