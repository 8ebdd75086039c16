"""`o1-bench leaderboard`: published figures beside ours."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.reporting.leaderboard import leaderboard
from o1_bench.reporting.words import hundredths
from o1_bench.results.result import load_results


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(command, "results", nargs="+", help="results, or folders of them")


def run(args: argparse.Namespace) -> int:
    """Print one line per system, best first, with its source."""
    board = leaderboard(load_results(_shared.found(args.results)))
    if board is None:
        _shared.say("no published figures are known for these collections and measures")
        return 0
    print("\t".join(["system", *map(" ".join, zip(board.columns, board.measures, strict=True)), "source"]))
    for entry in board.entries:
        where = entry.source + (f" ({entry.note})" if entry.note else "")
        print("\t".join([entry.system, *map(hundredths, entry.values), where or "measured here"]))
    return 0
