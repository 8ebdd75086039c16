"""The `o1-bench` command: get a collection, run models on it, score, compare, report, verify."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import o1_bench
from o1_bench.commands import bm25, compare, fetch, leaderboard, report, run, score, verify
from o1_records.command import parser_of, run_chosen, run_command

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
    return run_chosen(_parser(), argv)


def _parser() -> ArgumentParser:
    return parser_of(COMMANDS, prog="o1-bench", version=o1_bench.__version__, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
