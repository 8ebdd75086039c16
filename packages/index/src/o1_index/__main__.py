"""The `o1-index` command: build an index of vectors, tune, change and search it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import o1_index
from o1_index.commands import add, build, hybrid, remove, search, tune
from o1_records.command import parser_of, run_chosen, run_command

COMMANDS = {
    "build": (build, "build an index of a folder of vectors"),
    "tune": (tune, "measure search parameters and keep the best"),
    "add": (add, "add the documents of a folder of vectors, or replace them"),
    "remove": (remove, "take documents out"),
    "search": (search, "search an index and write a TREC run"),
    "hybrid": (hybrid, "search with vectors and BM25, fuse, and write a TREC run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    return run_chosen(_parser(), argv)


def _parser() -> ArgumentParser:
    return parser_of(COMMANDS, prog="o1-index", version=o1_index.__version__, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
