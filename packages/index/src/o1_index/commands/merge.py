"""`o1-index merge`: one index of the documents of several."""

from __future__ import annotations

import argparse
import sys

from o1_index.sharding import merged
from o1_records.kit.command import EVERYTHING, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(
        command,
        "--index",
        required=True,
        nargs="+",
        inside=EVERYTHING,
        help="folders of indexes that were built alike (`shards`), each with documents of its own",
    )
    writes(command, "--out", required=True, folder=True, help="folder of the index")


def run(args: argparse.Namespace) -> int:
    """Merge, and publish."""
    index = merged(args.index)
    index.save(args.out)
    print(f"{args.out}: {len(index)} documents of {len(args.index)} indexes", file=sys.stderr)
    return 0
