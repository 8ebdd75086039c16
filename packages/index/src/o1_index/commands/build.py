"""`o1-index build`: an index of a folder or file of vectors, or of an existing FAISS file."""

from __future__ import annotations

import argparse
import logging

from o1_index.build import adopt, build_from
from o1_index.tuning import RECALL, K
from o1_index.vectors import METRICS, open_vectors, read_ids
from o1_records import InputError
from o1_records.kit.command import EVERYTHING, at_least, between, new_job, reads, writes

ADOPTED = (".faiss", ".index")


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(
        command,
        "--vectors",
        required=True,
        inside=EVERYTHING,
        help="folder of document vectors, or a file: .npy, .fvecs, .fbin, .parquet; .faiss is taken as it is",
    )
    reads(command, "--ids", help="text file with the doc_id of each vector, if --vectors has none")
    reads(
        command,
        "--payloads",
        help="JSONL with an object for each document: its doc_id (or _id), and what is stored beside it",
    )
    writes(command, "--out", required=True, folder=True, help="folder of the index")
    command.add_argument(
        "--factory",
        help="FAISS's index_factory string, auto, or CAGRA64 (built on a GPU); by default Flat",
    )
    command.add_argument(
        "--parameters", default="", help="search parameters, such as nprobe=16; by default they are measured"
    )
    reads(
        command,
        "--queries",
        inside=EVERYTHING,
        help="query vectors to measure with; by default documents are searched for",
    )
    command.add_argument("--k", type=at_least(1), help=f"hits a query to measure at; by default {K}")
    command.add_argument(
        "--recall",
        type=between(0, 1, open_low=True),
        help=f"share of the exact hits to aim at; for auto, 1 is exact; by default {RECALL}",
    )
    command.add_argument(
        "--memory-gib", type=float, help="what auto may use; by default half of what there is"
    )
    command.add_argument(
        "--metric", choices=METRICS, help="how vectors are compared; by default inner_product"
    )
    command.add_argument("--device", default="cpu", help="where to build: cpu, auto, cuda, cuda:0,1")
    new_job(command)


def run(args: argparse.Namespace) -> int:
    """Build and publish an index, or continue an interrupted build."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("o1_index").setLevel(logging.INFO)  # what is built and why is said there
    if args.vectors.suffix in ADOPTED and args.vectors.is_file():
        for option in (
            "factory",
            "parameters",
            "queries",
            "k",
            "recall",
            "memory_gib",
            "payloads",
            "new_job",
        ):
            if getattr(args, option):
                raise InputError(
                    f"--{option.replace('_', '-')} has no effect on a FAISS file, which is taken as it is"
                )
        adopt(args.vectors, read_ids(args.ids) if args.ids else None, metric=args.metric).save(args.out)
        return 0
    build_from(
        open_vectors(args.vectors, args.ids),
        factory=args.factory or "Flat",
        parameters=args.parameters,
        metric=args.metric or "inner_product",
        recall=args.recall,
        k=args.k,
        queries=open_vectors(args.queries) if args.queries else None,
        memory=None if args.memory_gib is None else int(args.memory_gib * 2**30),
        device=args.device,
        payloads=args.payloads,
        out=args.out,
        new_job=args.new_job,
    )
    return 0
