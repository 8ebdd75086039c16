"""The `o1-index` command: build an index of vectors, tune, change and search it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import o1_index
from o1_index.commands import add, build, hybrid, remove, search, tune
from o1_records import run_command

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
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-index", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_index.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run=module.run)
        module.declare(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
