"""`o1-index export`: vectors to a vector database, or those of an index to a folder."""

from __future__ import annotations

import argparse
import logging
import sys

from o1_index.databases.database import EFFORT, FORMS
from o1_index.databases.upload import IndexVectors, upload
from o1_index.index import export, open_index
from o1_index.tuning import K
from o1_index.vectors import METRICS, open_vectors, read_ids
from o1_records import InputError
from o1_records.kit.command import EVERYTHING, at_least, new_job, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--index", inside=EVERYTHING, help="folder of an index")
    reads(command, "--vectors", inside=EVERYTHING, help="or, with --to, folder or file of document vectors")
    writes(command, "--out", folder=True, help="folder of vectors to write")
    reads(
        command,
        "--ids",
        help="text file with a doc_id on each line: with --out the documents to write, by default all; with "
        "--vectors, that of each vector, if --vectors has none",
    )
    database = command.add_argument_group("to a vector database")
    database.add_argument("--to", metavar="DATABASE", help=f"the collection to fill: {FORMS}")
    writes(database, "--report", help="JSON file with what was sent and how much of the exact hits is found")
    reads(
        database,
        "--payloads",
        help="JSONL with an object for each document: its doc_id (or _id), and what is stored beside it",
    )
    database.add_argument(
        "--metric", choices=METRICS, help="how vectors are compared; by default inner_product"
    )
    database.add_argument(
        "--search",
        choices=("exact", "graph"),
        help="compare every document, or search a graph (HNSW); by default a graph from 100,000 documents on",
    )
    database.add_argument(
        "--add",
        action="store_true",
        help="into a collection that exists; documents of the same id are replaced",
    )
    reads(
        database,
        "--queries",
        inside=EVERYTHING,
        help="query vectors to measure recall with; by default documents are searched for",
    )
    database.add_argument("--k", type=at_least(1), help=f"hits a query to measure at; by default {K}")
    database.add_argument(
        "--effort", type=at_least(1), help=f"candidates that a graph search looks at; by default {EFFORT}"
    )
    new_job(database)


def run(args: argparse.Namespace) -> int:
    """Write a folder of vectors, or upload and report the recall."""
    if (args.out is None) == (args.to is None):
        raise InputError("give --out, a folder of vectors to write, or --to, a database")
    if args.to is None:
        for option in (
            "vectors",
            "report",
            "payloads",
            "metric",
            "search",
            "add",
            "queries",
            "k",
            "effort",
            "new_job",
        ):
            if getattr(args, option):
                raise InputError(f"--{option.replace('_', '-')} has no effect without --to; leave it out")
        if args.index is None:
            raise InputError("give --index, the folder of an index")
        index = open_index(args.index, mmap=True)
        vectors = export(index, args.out, read_ids(args.ids) if args.ids else None)
        print(f"{args.out}: {len(vectors)} vectors of {index.dim} dimensions", file=sys.stderr)
        return 0
    if (args.index is None) == (args.vectors is None):
        raise InputError("give --index, or --vectors, whose documents go to the database")
    if args.report is None:
        raise InputError("give --report, a file for what was sent and how much of the exact hits is found")
    if args.index is not None and args.ids is not None:
        raise InputError("--ids has no effect with --index and --to: all documents of the index are sent")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("o1_index").setLevel(logging.INFO)
    done = upload(
        IndexVectors(args.index) if args.index else open_vectors(args.vectors, args.ids),
        args.to,
        args.report,
        payloads=args.payloads,
        metric=args.metric,
        exact=None if args.search is None else args.search == "exact",
        add=args.add,
        queries=open_vectors(args.queries) if args.queries else None,
        k=args.k or K,
        effort=args.effort or EFFORT,
        new_job=args.new_job,
    )
    print(
        f"{done.database}: {done.documents:,} documents, recall@{done.k} {done.recall:.4f} over "
        f"{done.queries} {done.sample} ({done.engine}, {done.factory})",
        file=sys.stderr,
    )
    return 0
