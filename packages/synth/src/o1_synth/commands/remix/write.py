"""`o1-synth remix write`: queries written from documents."""

from __future__ import annotations

import argparse
import sys
import threading

from o1_records import open_documents
from o1_records.kit.command import at_least, gentle, reads, writes
from o1_synth.commands.options import (
    banned_by,
    declare_never,
    declare_step,
    domain_of,
    model_job,
    report,
    step_expert,
)
from o1_synth.expert import Sampling
from o1_synth.job.scheduler import FAILURES
from o1_synth.remix.write import SOURCES, write


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: which documents, and how many."""
    reads(command, "--corpus", required=True, once=True, help="JSONL of Document records, or a BEIR folder")
    declare_never(command)
    writes(
        command,
        "--out",
        required=True,
        beside=[FAILURES, SOURCES],
        help=f"JSONL of Query records; <out>{SOURCES} says what each was written from",
    )
    add = command.add_argument
    add("--documents", type=at_least(1), help="take so many documents at random, not all that fit")
    add("--shortest", type=at_least(0), default=200, help="characters that a document has to have")
    add("--longest", type=at_least(1), default=5000, help="characters that a document may have")
    add("--samples", type=at_least(1), default=1, help="queries from each document")
    # the sampling of ReasonEmbed
    declare_step(command, "remix_write", Sampling(temperature=1.0, top_p=0.6, max_tokens=2048))


def run(args: argparse.Namespace) -> int:
    """Write; return 0 when done, 3 when queries are missing."""
    stop = threading.Event()
    with gentle(stop):
        made = write(
            open_documents(args.corpus),
            step_expert(args),
            out=args.out,
            domain=domain_of(args),
            samples=args.samples,
            banned=banned_by(args.never),
            shortest=args.shortest,
            longest=args.longest,
            count=args.documents,
            template=args.template,
            seed=args.seed,
            concurrency=args.concurrency,
            progress=True,
            job=model_job(args, stop),
        )
    if made.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(made.left_out.items()))
        print(f"documents left out: {reasons}", file=sys.stderr)
    did = f"{made.summary.thoughts} queries from {made.summary.queries} documents"
    return report(made.summary, did, args.out, args.typed)
