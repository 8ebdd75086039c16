"""`o1-vote calibrate`: weights of members by their agreement with held-out relevance."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import msgspec

from o1_records import atomic_write, open_documents, open_qrels, open_queries
from o1_records.command import at_least
from o1_vote.ballot import nominate
from o1_vote.calibrate import calibrate
from o1_vote.commands import committee
from o1_vote.paths import files_of_options, refuse_one_file_twice
from o1_vote.retriever import documents_by_id


def declare(command: argparse.ArgumentParser) -> None:
    """Held-out queries, and whose agreement with them is measured."""
    add = command.add_argument
    add("--queries", required=True, help="JSONL of held-out queries, or a BEIR folder")
    add("--corpus", required=True, help="JSONL of documents, or a BEIR folder")
    add("--qrels", required=True, help="JSONL, TREC or BEIR .tsv qrels, or a BEIR folder")
    add("--split", default="dev", help="of BEIR folders: whose queries and qrels (dev)")
    add("--limit", type=at_least(1), default=1000, help="queries at most (1000)")
    committee.declare(command)
    add("--seed", type=int, default=0, help="of the documents drawn at random")
    add("--out", required=True, type=Path, help="JSON of weights to write, for elect --weights")


def run(args: argparse.Namespace) -> int:
    """Measure and write."""
    refuse_one_file_twice(files_of_options(args, "queries", "corpus", "qrels"), {"out": args.out})
    documents = documents_by_id(open_documents(args.corpus))
    queries = itertools.islice(open_queries(args.queries, args.split), args.limit)
    nominations, reasons = nominate(queries, (), open_qrels(args.qrels, args.split), documents.values())
    made = committee.Committee(args, documents=documents)
    members = [made.retriever(name) for name in made.names]
    weights = calibrate(nominations, members, list(documents), seed=args.seed)
    with atomic_write(args.out) as file:
        file.write(msgspec.json.format(json.dumps(weights).encode(), indent=1) + b"\n")
    for name, weight in weights.items():
        print(f"{name}\t{weight:.4f}")
    left_out = f", {len(reasons)} without a positive left out" if reasons else ""
    print(f"{args.out}: {len(weights)} members on {len(nominations)} queries{left_out}", file=sys.stderr)
    return 0
