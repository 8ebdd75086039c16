"""`o1-vote calibrate`: weights of members by their agreement with held-out relevance."""

from __future__ import annotations

import itertools
import json
import sys
from argparse import ArgumentParser, Namespace

import msgspec

from o1_records import atomic_write
from o1_records.kit.command import at_least, writes
from o1_vote.commands import committee, inputs
from o1_vote.curation.calibrate import calibrate
from o1_vote.election.nominate import nominate
from o1_vote.members.protocol import documents_by_id, loaded


def declare(command: ArgumentParser) -> None:
    """Add the held-out queries and the committee."""
    inputs.declare(command, split="dev")
    add = command.add_argument
    add("--limit", type=at_least(1), default=1000, help="the most queries that are used")
    committee.declare(command)
    add("--seed", type=int, default=0, help="of the documents that are drawn at random")
    writes(command, "--out", required=True, help="JSON of weights, for elect --weights")


def run(args: Namespace) -> int:
    """Measure, write and print the weights."""
    corpus = inputs.corpus(args)
    documents = documents_by_id(corpus)
    queries = itertools.islice(inputs.queries(args), args.limit)
    nominations, reasons = nominate(
        queries, (), inputs.qrels(args), documents.values(), relevance=args.relevance
    )
    members = loaded(committee.members(args, corpus, whole_corpus=True), documents, None)
    weights = calibrate(nominations, members, list(documents), seed=args.seed)
    with atomic_write(args.out) as file:
        file.write(msgspec.json.format(json.dumps(weights).encode(), indent=1) + b"\n")
    for name, weight in weights.items():
        print(f"{name}\t{weight:.4f}")
    left_out = f", {len(reasons)} without a positive left out" if reasons else ""
    print(f"{args.out}: {len(weights)} members on {len(nominations)} queries{left_out}", file=sys.stderr)
    return 0
