"""`o1-index remove`: a new version of an index without some documents."""

from __future__ import annotations

import argparse
import sys

from o1_index.index import open_index
from o1_index.vectors import read_ids
from o1_records import InputError
from o1_records.kit.command import reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    writes(command, "--index", required=True, folder=True, help="folder of the index")
    reads(command, "--ids", required=True, once=True, help="text file with a doc_id on each line")
    command.add_argument("--prune", action="store_true", help="delete the older versions")


def run(args: argparse.Namespace) -> int:
    """Publish the next version; readers of the old one keep it."""
    ids = set(read_ids(args.ids))
    if not ids:
        raise InputError(f"{args.ids}: holds no ids; give one on each line")
    index = open_index(args.index, mmap=True)
    index.remove(sorted(ids))
    index.save(args.index, prune=args.prune)
    print(f"{args.index}: {len(ids)} removed, {len(index)} documents left", file=sys.stderr)
    return 0
