"""`o1-bench explore`: one HTML file on which each query, its thoughts and its documents can be looked at."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.reporting.explore import explore
from o1_records.kit.command import reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(
        command, "--result", required=True, metavar="RESULT",
        help="a result with thoughts mixed in (`run --thoughts T --mix .2`), or the folder of its run; or a "
        "file of `o1-model confirm` or of `o1-model calibrate --values`",
    )  # fmt: skip
    _shared.results(
        command, "--against", metavar="RESULT",
        help="what it is compared with; else the same system without thoughts",
    )  # fmt: skip
    reads(
        command, "--collection", metavar="PATH",
        help="with a file of `o1-model confirm`: its BEIR folder, to show texts of documents",
    )  # fmt: skip
    writes(command, "--out", required=True, metavar="FILE", help="the HTML file to write")
    command.add_argument("--title", default="", help="the headline; else after the result")


def run(args: argparse.Namespace) -> int:
    """Write the page and print what thinking did."""
    found = explore(args.result, args.out, against=args.against, collection=args.collection, title=args.title)
    print(
        f"{found.result} against {found.against}, {found.measure}: "
        f"{found.gained:,} queries gain, {found.lost:,} lose, {found.same:,} stay as they were"
    )
    _shared.say(f"{args.out}: open it in a browser")
    return 0
