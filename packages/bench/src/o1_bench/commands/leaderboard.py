"""`o1-bench leaderboard`: published figures beside ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from o1_bench.commands import _shared
from o1_bench.reporting.leaderboard import Entry, leaderboard
from o1_bench.reporting.words import hundredths
from o1_bench.results.mteb import read_mteb
from o1_bench.results.result import load_results
from o1_records.kit.command import EVERYTHING, reads


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(command, "results", nargs="+", help="results, or folders of them")
    _shared.measures(command, "instead of those of the results; the first one is the main one")
    reads(
        command, "--mteb", nargs="+", default=[], inside=EVERYTHING, metavar="PATH",
        help="results of mteb, or folders of them, to show too",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print one line per system, best first, with its source; other protocols come apart."""
    results = load_results(_shared.found(args.results))
    _shared.warn(results)
    board = leaderboard(results, measures=args.measures or (), also=read_mteb(args.mteb))
    if board is None:
        _shared.say("none of the results is of a system; controls and oracles are not shown")
        return 0
    print("\t".join(["system", *(f"{c.collection} {c.measure}" for c in board.columns), "source"]))
    _print(board.entries)
    if board.apart:
        print("\nby other protocols, not to be compared with the above")
        _print(board.apart)
    if board.alone:
        alone = ", ".join(f"{column.collection} {column.measure}" for column in board.alone)
        _shared.say(f"no published figure is known of {alone}")
    return 0


def _print(entries: Sequence[Entry]) -> None:
    for entry in entries:
        where = entry.source + (f" ({entry.note})" if entry.note else "")
        print("\t".join([entry.system, *map(hundredths, entry.values), where or "measured here"]))
