"""`o1-bench bm25`: search a collection with BM25 and write a TREC run."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.datasets.suites import load_collection
from o1_bench.running.retrieve import write_bm25_run
from o1_records import Thought, read_jsonl
from o1_records.kit.command import at_least, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.collection(command, "--collection", required=True, metavar="DIR", help=_shared.COLLECTION)
    writes(command, "--run", required=True, metavar="FILE", help="the TREC run to write")
    _shared.split(command)
    reads(command, "--thoughts", once=True, metavar="FILE", help="thoughts to append to the queries (JSONL)")
    _shared.lexical(command)
    command.add_argument(
        "--k", type=at_least(1), default=1000, metavar="N", help="largest number of hits per query"
    )


def run(args: argparse.Namespace) -> int:
    """Search query by query; the run appears whole or not at all."""
    written = write_bm25_run(
        load_collection(args.collection, args.split, protocol=args.protocol),
        args.run,
        thoughts=read_jsonl(args.thoughts, Thought) if args.thoughts else None,
        k=args.k,
        progress=True,
        k1=args.k1,
        b=args.b,
        split_identifiers=args.split_identifiers,
        query_weights=args.query_weights,
    )
    each = f"{written.milliseconds:.1f} ms per query"
    _shared.say(f"{args.run}: {written.hits} hits for {written.queries} queries, {each}")
    return 0
