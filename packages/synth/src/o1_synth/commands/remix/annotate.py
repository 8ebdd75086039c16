"""`o1-synth remix annotate`: scores of candidates, and the examples they make."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from o1_records import (
    Example,
    Thought,
    flagembedding,
    open_documents,
    open_queries,
    read_jsonl,
    refuse_overwriting,
)
from o1_records.trec import read_run
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
from o1_synth.remix.annotate import Annotated, annotate, path_of_dropped


def declare(command: argparse.ArgumentParser) -> None:
    """Which candidates, and what to write of their scores."""
    add = command.add_argument
    add("--queries", required=True, type=Path, help="JSONL of Query records, or a BEIR folder")
    add("--candidates", required=True, type=Path, help="a TREC run, as `mine` writes it")
    declare_corpus(command)
    add("--thoughts", type=Path, help="Thought records: the first of a query reasons for it")
    add("--out", required=True, type=Path, help="JSONL of Example records")
    add("--flagembedding", type=Path, metavar="OUT", help="the same as FlagEmbedding's JSONL")
    add(
        "--distill",
        type=Path,
        metavar="OUT",
        help="what the annotator wrote, without a reasoning model's hidden thinking, as chat JSONL",
    )
    declare_domain(command)
    declare_model(command, "remix_annotate", Sampling(temperature=0.6, top_p=0.95, max_tokens=4096))


def run(args: argparse.Namespace) -> int:
    """Annotate; 0 done, 3 when scores are missing."""
    outputs = {f"--{name}": getattr(args, name) for name in ("out", "flagembedding", "distill")}
    beside = {
        "the list of dropped queries beside --out": path_of_dropped(args.out),
        "the failures beside --out": path_of_failures(args.out),
    }
    refuse_overwriting(inputs_of(args, "queries", "candidates", "corpus", "thoughts"), {**outputs, **beside})
    stop = threading.Event()
    with gentle(stop):
        made = annotate(
            open_queries(args.queries),
            read_run(args.candidates),
            open_documents(args.corpus),
            expert_of(args),
            out=args.out,
            domain=domain_of(args),
            thoughts=read_jsonl(args.thoughts, Thought) if args.thoughts else (),
            distill=args.distill,
            template=args.template,
            concurrency=args.concurrency,
            progress=True,
            job=model_job(args, stop, None),
        )
    if args.flagembedding is not None and not made.summary.interrupted:
        flagembedding.write(args.flagembedding, read_jsonl(args.out, Example))
    _tell_dropped(made, args.out)
    did = f"{made.examples} examples of {made.summary.thoughts} scores"
    return told(made.summary, did, args.out, args.typed)


def _tell_dropped(made: Annotated, out: Path) -> None:
    if made.dropped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in sorted(made.dropped.items()))
        total = sum(made.dropped.values())
        print(
            f"{total} queries made no example ({reasons}), listed in {path_of_dropped(out)}", file=sys.stderr
        )
