"""`o1-index tune`: measure search parameters, keep the best, draw the curve."""

from __future__ import annotations

import argparse
import sys

from o1_index.index import open_index
from o1_index.tuning import QUERIES, RECALL, K, files_of, tune_from
from o1_index.vectors import open_vectors
from o1_records.kit.command import EVERYTHING, at_least, between, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    writes(command, "--index", required=True, folder=True, help="folder of the index")
    reads(
        command,
        "--documents",
        required=True,
        inside=EVERYTHING,
        help="folder or file of the vectors that it was built from",
    )
    reads(command, "--ids", help="of a file of documents without ids: text file with the doc_id of each")
    reads(command, "--vectors", required=True, inside=EVERYTHING, help="folder or file of query vectors")
    command.add_argument(
        "--queries", type=at_least(1), default=QUERIES, help="the most queries to search for"
    )
    command.add_argument("--k", type=at_least(1), default=K, help="documents per query, as in search")
    command.add_argument(
        "--recall", type=between(0, 1, open_low=True), default=RECALL, help="share of the exact hits to find"
    )


def run(args: argparse.Namespace) -> int:
    """Publish a version of the index with the best parameters, tuning.json and tuning.svg."""
    index = open_index(args.index)
    tuning = tune_from(
        index,
        open_vectors(args.documents, args.ids),
        open_vectors(args.vectors),
        k=args.k,
        target=args.recall,
        most=args.queries,
    )
    title = f"{args.index.name}: {index.settings.factory}, {len(index):,} documents"
    index.save(args.index, extras=files_of(tuning, title))
    print("parameters\trecall\tms/query")
    for trial in tuning.trials:
        print(f"{trial.parameters}\t{trial.recall:.4f}\t{trial.milliseconds:.4f}")
    chosen = tuning.chosen
    missed = "" if chosen.recall >= args.recall else f"; nothing reached {args.recall}"
    print(f"{args.index}: {chosen.parameters}, recall@{args.k} {chosen.recall:.4f}{missed}", file=sys.stderr)
    return 0
