"""`o1-index compact`: a new version of an index without the rows of removed documents."""

from __future__ import annotations

import argparse
import sys

from o1_index.index import open_index
from o1_records.kit.command import writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    writes(command, "--index", required=True, folder=True, help="folder of the index")
    command.add_argument("--prune", action="store_true", help="delete the older versions")


def run(args: argparse.Namespace) -> int:
    """Publish the next version; readers of the old one keep it."""
    index = open_index(args.index)
    removed = len(index.documents) - len(index)
    index.compact()
    index.save(args.index, prune=args.prune)
    print(f"{args.index}: {len(index)} documents, {removed} removed rows are gone", file=sys.stderr)
    return 0
