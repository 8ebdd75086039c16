"""`o1-synth remix write`: queries written from documents."""

from __future__ import annotations

import argparse
import sys
import threading

from o1_records import open_documents
from o1_records.kit.command import at_least, gentle, reads, writes
from o1_synth.commands.options import (
    StepExpert,
    banned_by,
    declare_checks,
    declare_never,
    declare_step,
    domain_of,
    model_job,
    names_of,
    report,
    template_of,
)
from o1_synth.expert import Sampling
from o1_synth.job.scheduler import FAILURES
from o1_synth.remix.write import CHECKS, CHOSEN, SOURCES, write
from o1_synth.template import WRITE


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
    add("--documents", type=at_least(1), help="sample this many documents; by default all that fit")
    add("--shortest", type=at_least(0), default=200, help="characters that a document has to have")
    add("--longest", type=at_least(1), default=5000, help="characters that a document may have")
    add("--samples", type=at_least(1), default=1, help="queries from each document")
    add("--draw-seed", type=int, default=0, help="of the draws of documents, lengths and levels")
    declare_checks(command, CHECKS, CHOSEN)
    # the sampling of ReasonEmbed
    declare_step(command, "remix_write", Sampling(temperature=1.0, top_p=0.6, max_tokens=2048))


def run(args: argparse.Namespace) -> int:
    """Write; return 0 when done, 3 when queries are missing."""
    stop, expert = threading.Event(), StepExpert(args)
    with gentle(stop):
        made = write(
            open_documents(args.corpus),
            expert,
            out=args.out,
            domain=domain_of(args),
            samples=args.samples,
            banned=banned_by(args.never),
            shortest=args.shortest,
            longest=args.longest,
            count=args.documents,
            template=template_of(args, WRITE),
            checks=names_of(args.checks, CHOSEN),
            seed=args.draw_seed,
            concurrency=args.concurrency,
            progress=True,
            job=model_job(args, stop),
        )
    if args.preview:
        return 0
    if made.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(made.left_out.items()))
        print(f"documents left out: {reasons}", file=sys.stderr)
    for length, (count, having, middle) in made.lengths.items():
        print(
            f"drawn {length}: {having} of {count} queries have it, median {middle:g} words", file=sys.stderr
        )
    if made.lengths:
        print(
            f"long words that are the document's, too: {made.overlap:.0%} of a query's (median)",
            file=sys.stderr,
        )
    did = f"{made.summary.thoughts} queries from {made.summary.queries} documents"
    return report(made.summary, did, args.out, args.typed, expert.last)
