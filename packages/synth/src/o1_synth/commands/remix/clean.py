"""`o1-synth remix clean`: which documents belong to a domain."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from o1_records import InputError, open_documents, refuse_overwriting
from o1_synth.asking import Sampling
from o1_synth.commands.gentle import gentle
from o1_synth.commands.options import model_job
from o1_synth.commands.outcome import told
from o1_synth.commands.remix.options import (
    declare_corpus,
    declare_domain,
    declare_model,
    domain_of,
    expert_of,
    inputs_of,
)
from o1_synth.generate import path_of_failures
from o1_synth.remix.clean import clean


def declare(command: argparse.ArgumentParser) -> None:
    """Which documents, of which domain."""
    declare_corpus(command)
    command.add_argument("--out", required=True, type=Path, help="JSONL of Document records")
    declare_domain(command)
    # one word, but a reasoning model comes to it late
    declare_model(command, "remix_clean", Sampling(temperature=0.0, top_p=1.0, max_tokens=2048))


def run(args: argparse.Namespace) -> int:
    """Ask; 0 done, 3 when answers are missing."""
    refuse_overwriting(
        inputs_of(args, "corpus"),
        {"--out": args.out, "the failures beside --out": path_of_failures(args.out)},
    )
    domain = domain_of(args)
    if domain is None:
        raise InputError("clean needs --domains and --domain: what to ask about")
    stop = threading.Event()
    with gentle(stop):
        made = clean(
            open_documents(args.corpus),
            expert_of(args),
            out=args.out,
            domain=domain,
            template=args.template,
            concurrency=args.concurrency,
            progress=True,
            job=model_job(args, stop, None),
        )
    did = f"{made.kept} documents kept of {made.summary.thoughts} judged"
    return told(made.summary, did, args.out, args.typed)
