"""`o1-bench report`: one HTML file about results, and the same table on stdout."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from o1_bench.commands.options import say
from o1_bench.examples import WorkedExample, worked_examples
from o1_bench.inputs import load_collection, load_thoughts, result_files
from o1_bench.report import suite_table, table, write_report
from o1_bench.result import Result, load_result
from o1_bench.rows import main_measure, side_by_side
from o1_bench.score import parse_measure
from o1_bench.suite_rows import by_collection
from o1_bench.words import choose_focus
from o1_records import InputError
from o1_records.command import at_least
from o1_records.trec import read_run


def declare(command: argparse.ArgumentParser) -> None:
    """The results of a report and what it says first."""
    command.add_argument(
        "--results", type=Path, nargs="+", required=True, help="results, or a folder of them"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE")
    command.add_argument("--baseline", default="", help="name of a result; the first by default")
    command.add_argument("--focus", default="", help="name of the result that the summary is about")
    command.add_argument("--title", default="Retrieval report")
    shown = command.add_argument_group("worked examples of one collection")
    shown.add_argument("--collection", type=Path, metavar="DIR", help="its BEIR folder or ROOT/NAME")
    shown.add_argument("--split", default="test")
    shown.add_argument("--thoughts", type=Path, help="of the focus; kept beside its result by default")
    shown.add_argument("--examples", type=at_least(0), default=6)


def run(args: argparse.Namespace) -> int:
    """Write the page and print the table."""
    paths = [path for folder in args.results for path in result_files(folder)]
    results = [load_result(path) for path in paths]
    examples = _examples(args, dict(zip(paths, results, strict=True))) if args.collection else ()
    write_report(
        args.out, results, baseline=args.baseline, focus=args.focus, title=args.title, examples=examples
    )
    tables = suite_table if len(by_collection(results)) > 1 else table
    print(tables(results, baseline=args.baseline))
    say(f"{args.out}: {len(results)} results; open it in a browser")
    return 0


def _examples(args: argparse.Namespace, results: Mapping[Path, Result]) -> list[WorkedExample]:
    collection = load_collection(args.collection, args.split)
    here = {path: r for path, r in results.items() if r.collection.digests == collection.digests}
    if not here:
        raise InputError(f"{args.collection}: none of the results was measured on {collection.name}")
    rows = side_by_side(list(here.values()), baseline=args.baseline)
    base = next(row.result for row in rows if row.is_baseline)
    about = choose_focus(rows, args.focus).result
    folder_of = {result.name: path if path.is_dir() else path.parent for path, result in here.items()}
    before, after = folder_of[base.name], folder_of[about.name]
    thoughts = args.thoughts or after / "thoughts.jsonl"  # a result has it where its system thought
    return worked_examples(
        collection,
        before=read_run(before / "run.trec"),
        after=read_run(after / "run.trec"),
        thoughts=load_thoughts(thoughts, collection.name) if args.thoughts or thoughts.exists() else (),
        count=args.examples,
        measure=parse_measure(main_measure(base)),
    )
