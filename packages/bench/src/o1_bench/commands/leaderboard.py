"""`o1-bench leaderboard`: published figures beside ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from o1_bench.commands.options import say
from o1_bench.inputs import result_files
from o1_bench.leaderboard import leaderboard
from o1_bench.result import load_result
from o1_bench.words import hundredths


def declare(command: argparse.ArgumentParser) -> None:
    """The results to show beside published figures."""
    command.add_argument("results", type=Path, nargs="+", help="results, or folders of them")


def run(args: argparse.Namespace) -> int:
    """Print one line a system, best first, with its source."""
    results = [load_result(path) for folder in args.results for path in result_files(folder)]
    board = leaderboard(results)
    if board is None:
        say("nothing published is known for these collections and measures")
        return 0
    print("\t".join(["system", *map(" ".join, zip(board.columns, board.measures, strict=True)), "source"]))
    for entry in board.entries:
        where = entry.source + (f" ({entry.note})" if entry.note else "")
        print("\t".join([entry.system, *map(hundredths, entry.values), where or "measured here"]))
    return 0
