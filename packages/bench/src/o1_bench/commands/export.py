"""`o1-bench export`: results in the form of mteb, BEIR, FlagEmbedding or BRIGHT's code."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.results.exchange import FORMS, export
from o1_records.kit.command import writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(command, "results", nargs="+", help="results, or folders of them")
    command.add_argument(
        "--format", choices=FORMS, required=True,
        help="mteb: scores as its TaskResult; bright: what BRIGHT's code writes; beir and flagembedding: "
        "runs as JSON",
    )  # fmt: skip
    writes(command, "--out", folder=True, required=True, metavar="DIR", help="where the files go")


def run(args: argparse.Namespace) -> int:
    """Write one or two files for each result and print their names."""
    for path in export(_shared.found(args.results), args.out, args.format):
        print(path)
    return 0
