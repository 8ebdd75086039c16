"""`o1-synth remix clean`: which documents belong to a domain."""

from __future__ import annotations

import argparse
import threading

from o1_records import InputError, open_documents
from o1_records.kit.command import gentle, reads, writes
from o1_synth.commands.options import (
    StepExpert,
    declare_step,
    domain_of,
    model_job,
    report,
    template_of,
)
from o1_synth.expert import Sampling
from o1_synth.job.scheduler import FAILURES
from o1_synth.remix.clean import clean
from o1_synth.template import CLEAN


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: which documents, of which domain."""
    reads(command, "--corpus", required=True, once=True, help="JSONL of Document records, or a BEIR folder")
    writes(command, "--out", required=True, beside=[FAILURES], help="JSONL of Document records")
    # one word, but a reasoning model takes long to come to it
    declare_step(command, "remix_clean", Sampling(temperature=0.0, top_p=1.0, max_tokens=2048))


def run(args: argparse.Namespace) -> int:
    """Ask about each; return 0 when done, 3 when answers are missing."""
    domain = domain_of(args)
    if domain is None:
        raise InputError("clean needs --domain, to know what to ask about")
    stop, expert = threading.Event(), StepExpert(args)
    with gentle(stop):
        made = clean(
            open_documents(args.corpus),
            expert,
            out=args.out,
            domain=domain,
            template=template_of(args, CLEAN),
            concurrency=args.concurrency,
            progress=True,
            job=model_job(args, stop),
        )
    if args.preview:
        return 0
    did = f"{made.kept} documents kept of {made.summary.thoughts} judged"
    return report(made.summary, did, args.out, args.typed, expert.last)
