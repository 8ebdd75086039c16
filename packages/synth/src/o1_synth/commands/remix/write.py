"""`o1-synth remix write`: queries written of documents."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from o1_records import open_documents, refuse_overwriting
from o1_records.command import at_least
from o1_synth.asking import Sampling
from o1_synth.commands.gentle import gentle
from o1_synth.commands.options import model_job
from o1_synth.commands.outcome import told
from o1_synth.commands.remix.options import (
    banned_of,
    declare_banned,
    declare_corpus,
    declare_domain,
    declare_model,
    domain_of,
    expert_of,
    inputs_of,
)
from o1_synth.generate import path_of_failures
from o1_synth.remix.documents import sources
from o1_synth.remix.write import path_of_sources, write


def declare(command: argparse.ArgumentParser) -> None:
    """Of which documents, and how many."""
    declare_corpus(command)
    declare_banned(command)
    add = command.add_argument
    add("--out", required=True, type=Path, help="JSONL of Query records; <out>.sources.jsonl beside it")
    add("--documents", type=at_least(1), help="how many documents, by lot (default: all that fit)")
    add("--shortest", type=at_least(0), default=200, help="characters of a document (default 200)")
    add("--longest", type=at_least(1), default=5000, help="characters of a document (default 5000)")
    add("--samples", type=at_least(1), default=1, help="queries of a document (default 1)")
    declare_domain(command)
    # ReasonEmbed's sampling
    declare_model(command, "remix_write", Sampling(temperature=1.0, top_p=0.6, max_tokens=2048))


def run(args: argparse.Namespace) -> int:
    """Write; 0 done, 3 when queries are missing."""
    beside = {
        "the sources beside --out": path_of_sources(args.out),
        "the failures beside --out": path_of_failures(args.out),
    }
    refuse_overwriting(inputs_of(args, "corpus"), {"--out": args.out, **beside})
    documents = sources(
        open_documents(args.corpus),
        banned=banned_of(args),
        shortest=args.shortest,
        longest=args.longest,
        count=args.documents,
        seed=args.seed,
    )
    stop = threading.Event()
    with gentle(stop):
        summary = write(
            documents,
            expert_of(args),
            out=args.out,
            domain=domain_of(args),
            samples=args.samples,
            template=args.template,
            seed=args.seed,
            concurrency=args.concurrency,
            progress=True,
            job=model_job(args, stop, None),
        )
    return told(summary, f"{summary.thoughts} queries of {summary.queries} documents", args.out, args.typed)
