"""`o1-index add`: a new version of an index with further documents."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from o1_index.build import open_index
from o1_index.store import prune
from o1_records.vectors import VectorSet


def declare(command: argparse.ArgumentParser) -> None:
    """What to add."""
    command.add_argument("--index", required=True, type=Path, help="folder of the index")
    command.add_argument("--vectors", required=True, type=Path, help="folder of document vectors")
    command.add_argument("--upsert", action="store_true", help="replace documents that are there already")
    command.add_argument("--prune", action="store_true", help="delete the older versions")


def run(args: argparse.Namespace) -> int:
    """Publish the next version; readers of the old one keep it."""
    vectors = VectorSet(args.vectors)
    index = open_index(args.index)
    index.settings.refuse_other_documents(vectors.manifest.encoder)
    for ids, matrix in vectors.shards():
        (index.upsert if args.upsert else index.add)(matrix, ids)
    index.save(args.index)
    if args.prune:
        prune(args.index)
    print(f"{args.index}: {len(vectors)} added, {len(index)} documents now", file=sys.stderr)
    return 0
