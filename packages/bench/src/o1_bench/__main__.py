"""The `o1-bench` command: get a collection, run models on it, score, compare, report, verify."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import o1_bench
from o1_bench.commands import bm25, compare, fetch, leaderboard, report, run, score, verify
from o1_records import run_command

COMMANDS = {
    "fetch": (fetch, "build or download a collection"),
    "run": (run, "run a model on a suite of collections, with its controls"),
    "bm25": (bm25, "search a collection with BM25"),
    "score": (score, "score a run"),
    "compare": (compare, "test runs against a baseline, query by query"),
    "report": (report, "write one HTML file about results"),
    "leaderboard": (leaderboard, "published figures beside ours"),
    "verify": (verify, "recompute the metrics of results from their files"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    work: Callable[[argparse.Namespace], int] = args.run_command
    return work(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-bench", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_bench.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run_command=module.run)
        module.declare(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
