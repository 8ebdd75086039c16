"""`o1-index tune`: measure search parameters, keep the best, draw the curve."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from o1_index.build import fingerprint, open_index
from o1_index.curve import svg
from o1_index.tune import exact_hits, tune
from o1_records import InputError
from o1_records.command import at_least
from o1_records.vectors import VectorSet


def declare(command: argparse.ArgumentParser) -> None:
    """What to measure with."""
    command.add_argument("--index", required=True, type=Path, help="folder of the index")
    command.add_argument(
        "--documents", required=True, type=Path, help="folder of the vectors it was built of"
    )
    command.add_argument("--vectors", required=True, type=Path, help="folder of query vectors")
    command.add_argument("--queries", type=at_least(1), default=200, help="of them, at most (200)")
    command.add_argument("--k", type=at_least(1), default=10, help="documents a query (10)")
    command.add_argument("--recall", type=float, default=0.95, help="share of the exact hits to find")


def run(args: argparse.Namespace) -> int:
    """Tune; a new version of the index has the parameters, tuning.json and tuning.svg."""
    if not 0 < args.recall <= 1:
        raise InputError(f"--recall {args.recall}: give more than 0 and at most 1")
    index, documents, queries = open_index(args.index), VectorSet(args.documents), VectorSet(args.vectors)
    index.settings.refuse_other_encoder(queries.manifest.encoder)
    if index.made_from != fingerprint(documents):
        raise InputError(
            f"{args.documents}: the index was not built of these vectors, or was changed since; give those "
            "that it was built of, or build it again"
        )
    step = -(-len(queries) // args.queries)
    ids, vectors = queries.ids()[::step], queries.load()[::step]
    exact = exact_hits(documents, vectors, ids, k=args.k, like=index)
    tuning = tune(index, vectors, ids, exact, k=args.k, target=args.recall)
    picture = svg(tuning, f"{args.index.name}: {index.settings.factory}, {len(index):,} documents")
    extras = {
        "tuning.json": msgspec.json.format(msgspec.json.encode(tuning), indent=1),
        "tuning.svg": picture.encode(),
    }
    index.save(args.index, extras=extras)
    print("parameters\trecall\tms/query")
    for trial in tuning.trials:
        print(f"{trial.parameters}\t{trial.recall:.4f}\t{trial.milliseconds:.4f}")
    chosen = tuning.chosen
    missed = "" if chosen.recall >= args.recall else f"; nothing reached {args.recall}"
    print(f"{args.index}: {chosen.parameters}, recall@{args.k} {chosen.recall:.4f}{missed}", file=sys.stderr)
    return 0
