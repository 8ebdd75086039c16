"""`o1-index shards`: an index of each part of a collection, in several processes or on several machines."""

from __future__ import annotations

import argparse
import logging
import sys

from o1_index.sharding import build_shards
from o1_index.tuning import RECALL, K
from o1_index.vectors import METRICS
from o1_records.kit.command import EVERYTHING, at_least, between, new_job, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--vectors", required=True, inside=EVERYTHING, help="folder or file of document vectors")
    reads(command, "--ids", help="text file with the doc_id of each vector, if --vectors has none")
    reads(
        command,
        "--payloads",
        help="JSONL with an object for each document: its doc_id (or _id), and what is stored beside it",
    )
    writes(command, "--out", required=True, folder=True, help="folder of the shards")
    command.add_argument("--shards", type=at_least(1), required=True, help="how many parts")
    command.add_argument(
        "--only",
        type=at_least(0),
        nargs="*",
        help="the parts to build now, counted from 0, as on one of several machines; none: train only",
    )
    command.add_argument("--processes", type=at_least(1), default=1, help="shards that are built at a time")
    command.add_argument(
        "--factory", default="Flat", help="FAISS's index_factory string, or auto, for a shard"
    )
    command.add_argument(
        "--parameters", default="", help="search parameters, such as nprobe=16; by default they are measured"
    )
    command.add_argument("--k", type=at_least(1), help=f"hits a query to measure at; by default {K}")
    command.add_argument(
        "--recall",
        type=between(0, 1, open_low=True),
        help=f"share of the exact hits to aim at; for auto, 1 is exact; by default {RECALL}",
    )
    command.add_argument("--memory-gib", type=float, help="what auto may use for a shard")
    command.add_argument(
        "--metric", choices=METRICS, default="inner_product", help="how vectors are compared"
    )
    new_job(command)


def run(args: argparse.Namespace) -> int:
    """Train once, and build the shards that are missing."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("o1_index").setLevel(logging.INFO)
    built = build_shards(
        args.vectors,
        args.out,
        shards=args.shards,
        only=args.only,
        processes=args.processes,
        ids=args.ids,
        factory=args.factory,
        parameters=args.parameters,
        metric=args.metric,
        recall=args.recall,
        k=args.k,
        memory=None if args.memory_gib is None else int(args.memory_gib * 2**30),
        payloads=args.payloads,
        new_job=args.new_job,
    )
    print(f"{args.out}: {len(built)} of {args.shards} shards are built", file=sys.stderr)
    return 0
