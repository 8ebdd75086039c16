"""`o1-index build`: an index of a folder of vectors."""

from __future__ import annotations

import argparse
import logging

from o1_index.build import build_from
from o1_index.tuning import RECALL
from o1_index.vectors import METRICS
from o1_records.kit.command import EVERYTHING, new_job, reads, writes
from o1_records.vectors import VectorSet


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--vectors", required=True, inside=EVERYTHING, help="folder of document vectors")
    writes(command, "--out", required=True, folder=True, help="folder of the index")
    command.add_argument("--factory", default="Flat", help="FAISS's index_factory string, or auto")
    command.add_argument("--parameters", default="", help="search parameters, such as nprobe=16")
    command.add_argument("--recall", type=float, help=f"what auto aims at; 1 is exact; by default {RECALL}")
    command.add_argument(
        "--memory-gib", type=float, help="what auto may use; by default half of the machine's"
    )
    command.add_argument(
        "--metric", choices=METRICS, default="inner_product", help="how vectors are compared"
    )
    command.add_argument("--device", default="cpu", help="where to build: cpu, auto, cuda, cuda:0,1")
    new_job(command)


def run(args: argparse.Namespace) -> int:
    """Build and publish an index, or continue an interrupted build."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("o1_index").setLevel(logging.INFO)  # what is built and why is said there
    build_from(
        VectorSet(args.vectors),
        factory=args.factory,
        parameters=args.parameters,
        metric=args.metric,
        recall=args.recall,
        memory=None if args.memory_gib is None else int(args.memory_gib * 2**30),
        device=args.device,
        out=args.out,
        new_job=args.new_job,
    )
    return 0
