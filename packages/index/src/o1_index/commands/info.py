"""`o1-index info`: what an index holds, as JSON."""

from __future__ import annotations

import argparse

import msgspec

from o1_index.index import open_index
from o1_records.kit.command import EVERYTHING, reads


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--index", required=True, inside=EVERYTHING, help="folder of the index")


def run(args: argparse.Namespace) -> int:
    """Print what there is to know; the vectors stay on disk."""
    index = open_index(args.index, mmap=True)
    index.check()
    print(msgspec.json.format(msgspec.json.encode(index.info()), indent=1).decode())
    return 0
