"""`o1-bench table`: results as text, Markdown, LaTeX or CSV, with letters of significance."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.reporting.tables import FORMS, results_table, written
from o1_bench.results.result import load_results


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(command, "results", nargs="+", help="results, or folders of them")
    command.add_argument("--format", choices=FORMS, default="text", help="of the table")
    _shared.measures(command, "instead of those of the results; of several collections the first is shown")
    command.add_argument(
        "--letters",
        action="store_true",
        help="test all pairs of systems and mark each number with the letters of the systems it beats",
    )
    _shared.tests(command)


def run(args: argparse.Namespace) -> int:
    """Print the table on stdout."""
    idle = _shared.given_of_tests(args)
    if idle and not args.letters:
        _shared.usage(f"{idle[0]} has an effect only with --letters; give both, or leave it out")
    results = load_results(_shared.found(args.results))
    _shared.warn(results)
    table = results_table(
        results,
        measures=args.measures or (),
        letters=args.letters,
        **_shared.tested(args),
    )
    print(written(table, args.format))
    return 0
