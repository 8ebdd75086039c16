"""`o1-bench report`: one HTML file about results, and the same table on stdout."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.reporting.page import report
from o1_bench.reporting.rows import by_collection, chosen
from o1_bench.reporting.words import suite_table, table
from o1_records.kit.command import at_least, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(
        command, "--results", nargs="+", required=True, metavar="RESULT", help="results, or folders of them"
    )
    writes(command, "--out", required=True, metavar="FILE", help="the HTML file to write")
    command.add_argument(
        "--baseline",
        default="",
        metavar="NAME",
        help="result that the others are compared with; else the first",
    )
    command.add_argument(
        "--focus", default="", metavar="NAME", help="result that the summary is about; else the best system"
    )
    command.add_argument("--title", default="Retrieval report", help="the headline")
    _shared.measures(command, "the main one first; else those of the results")
    _shared.tests(command)
    shown = command.add_argument_group("worked examples of one collection")
    _shared.collection(shown, "--collection", metavar="DIR", help=_shared.COLLECTION)
    _shared.split(shown)
    reads(
        shown, "--thoughts", inside=("*.jsonl",), once=True, metavar="PATH",
        help="of the focus: JSONL, or a folder with one file per collection; else those beside its result",
    )  # fmt: skip
    shown.add_argument("--examples", type=at_least(0), metavar="N", help="queries to show; else 6")


def run(args: argparse.Namespace) -> int:
    """Write the page and print the table."""
    results = report(
        _shared.found(args.results),
        args.out,
        baseline=args.baseline,
        focus=args.focus,
        title=args.title,
        collection=args.collection,
        measures=args.measures or (),
        split=args.split,
        protocol=args.protocol,
        thoughts=args.thoughts,
        examples=args.examples,
        **_shared.tested(args),
    )
    _shared.warn(results)
    results = chosen(results, args.measures or ())
    tables = suite_table if len(by_collection(results)) > 1 else table
    print(tables(results, baseline=args.baseline, **_shared.tested(args)))
    _shared.say(f"{args.out}: {len(results)} results; open it in a browser")
    return 0
