"""`o1-bench bm25`: search a collection with BM25 and write a TREC run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from o1_bench.commands.options import say
from o1_bench.controls import thought_texts
from o1_bench.inputs import load_collection
from o1_bench.retrieve import bm25, with_thoughts
from o1_records import Hit, Query, Thought, read_jsonl
from o1_records.command import at_least
from o1_records.trec import write_run


def declare(command: argparse.ArgumentParser) -> None:
    """What to search, how and for what."""
    command.add_argument(
        "--collection", type=Path, required=True, metavar="DIR", help="a BEIR folder or ROOT/NAME"
    )
    command.add_argument("--run", type=Path, required=True, help="the TREC run to write")
    command.add_argument("--split", default="test", help="of the BEIR folder")
    command.add_argument("--thoughts", type=Path, help="thoughts to append to the queries (JSONL)")
    command.add_argument("--split-identifiers", action="store_true", help="for code")
    command.add_argument("--k1", type=float, default=0.9)
    command.add_argument("--b", type=float, default=0.4)
    command.add_argument("--k", type=at_least(1), default=1000, help="documents per query")


def run(args: argparse.Namespace) -> int:
    """Search query by query; the run appears whole or not at all."""
    from tqdm import tqdm

    collection = load_collection(args.collection, args.split)
    queries: Sequence[Query] = collection.queries
    if args.thoughts:
        queries = with_thoughts(queries, thought_texts(read_jsonl(args.thoughts, Thought)))
    retrieve = bm25(collection, k1=args.k1, b=args.b, split_identifiers=args.split_identifiers)

    def hits() -> Iterator[Hit]:
        for query in tqdm(queries, "bm25", unit=" queries", disable=None):
            yield from retrieve([query], args.k)

    began = time.perf_counter()
    count = write_run(args.run, hits(), tag="bm25")
    each = 1000 * (time.perf_counter() - began) / len(queries)
    say(f"{args.run}: {count} hits for {len(queries)} queries, {each:.1f} ms per query")
    return 0
