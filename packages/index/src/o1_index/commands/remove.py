"""`o1-index remove`: a new version of an index without some documents."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from o1_index.build import open_index
from o1_index.store import prune
from o1_records import InputError


def declare(command: argparse.ArgumentParser) -> None:
    """What to take out."""
    command.add_argument("--index", required=True, type=Path, help="folder of the index")
    command.add_argument("--ids", required=True, type=Path, help="text file, a doc_id a line")
    command.add_argument("--prune", action="store_true", help="delete the older versions")


def run(args: argparse.Namespace) -> int:
    """Publish the next version; readers of the old one keep it."""
    try:
        ids = [line for line in args.ids.read_text(encoding="utf-8").splitlines() if line]
    except UnicodeDecodeError as error:
        raise InputError(f"{args.ids}: not UTF-8 at byte {error.start}") from error
    index = open_index(args.index)
    index.remove(ids)
    index.save(args.index)
    if args.prune:
        prune(args.index)
    print(f"{args.index}: {len(ids)} removed, {len(index)} documents left", file=sys.stderr)
    return 0
