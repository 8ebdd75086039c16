"""`o1-synth think`: write several thoughts about each query."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from o1_records import Thought, open_queries, read_jsonl, refuse_overwriting
from o1_synth.commands.gentle import gentle
from o1_synth.commands.options import (
    checks,
    declare_checks,
    declare_expert,
    declare_prompt,
    model_expert,
    model_job,
    prompt_of,
    sampling_of,
)
from o1_synth.commands.outcome import told
from o1_synth.docstring import DocstringExpert
from o1_synth.expert import Expert
from o1_synth.generate import Job, path_of_failures, think

INPUTS = ("queries", "docstrings", "exemplars", "qrels", "corpus")


def declare(command: argparse.ArgumentParser) -> None:
    """What to think about, and who does."""
    add = command.add_argument
    add("--queries", required=True, type=Path, help="JSONL of Query records, or a BEIR folder")
    add("--split", help="of BEIR folders: whose queries and qrels (default: all)")
    add("--out", required=True, type=Path, help="JSONL of Thought records; the same command resumes it")
    add("--samples", type=int, default=3, help="thoughts per query (default 3)")
    experts = declare_expert(command)
    experts.add_argument(
        "--docstrings", type=Path, help="JSONL of human-written Thought records to pick from"
    )
    declare_prompt(command)
    declare_checks(command)


def run(args: argparse.Namespace) -> int:
    """Think; 0 done, 3 when samples failed or Ctrl-C ended it, 4 bad input."""
    refuse_overwriting(
        {f"--{name}": getattr(args, name) for name in INPUTS},
        {"--out": args.out, "the list of failures beside --out": path_of_failures(args.out)},
    )
    stop = threading.Event()
    expert: Expert
    if args.docstrings is not None:
        expert = DocstringExpert.of_records(read_jsonl(args.docstrings, Thought))
        job = Job(deadline=args.deadline, stop=stop, new_job=args.new_job)
    else:
        expert = model_expert(args, prompt_of(args), sampling_of(args))
        job = model_job(args, stop, checks(args))
    with gentle(stop):
        summary = think(
            open_queries(args.queries, args.split),
            expert,
            out=args.out,
            samples=args.samples,
            concurrency=args.concurrency,
            progress=True,
            job=job,
        )
    did = f"{summary.thoughts} thoughts about {summary.queries} queries"
    return told(summary, did, args.out, args.typed)
