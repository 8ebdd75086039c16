"""`o1-index fuse`: one TREC run out of several."""

from __future__ import annotations

import argparse
import sys

from o1_index.fusion import METHODS, fuse_runs
from o1_index.tuning import K
from o1_records import open_run, trec
from o1_records.kit.command import at_least, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    kinds = "TREC's, hits as JSON lines, or JSON of BEIR or FlagEmbedding"
    reads(command, "--runs", required=True, once=True, nargs="+", help=f"runs: {kinds}")
    writes(command, "--out", required=True, help="TREC run to write")
    command.add_argument(
        "--fusion",
        choices=METHODS,
        default="rrf",
        help="by rank, by scores scaled from lowest to highest, by z-scores, by the sum of scores, or "
        "as runs of the shards of one collection",
    )
    command.add_argument("--weights", type=float, nargs="+", help="one for each run; by default all 1")
    command.add_argument("--k", type=at_least(1), default=K, help="documents per query")


def run(args: argparse.Namespace) -> int:
    """Fuse; the run appears whole or not at all."""
    runs = [open_run(path) for path in args.runs]
    hits = fuse_runs(runs, method=args.fusion, weights=args.weights, k=args.k)
    print(f"{args.out}: {trec.write_run(args.out, hits, tag=args.fusion)} hits", file=sys.stderr)
    return 0
