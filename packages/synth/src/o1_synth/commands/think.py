"""`o1-synth think`: write several thoughts about each query."""

from __future__ import annotations

import argparse
import threading

from o1_records import Thought, open_queries, read_jsonl
from o1_records.kit.command import gentle, reads, writes
from o1_synth.commands.options import (
    checks_of,
    declare_checks,
    declare_model,
    declare_prompt,
    model_expert,
    model_job,
    prompt_of,
    refuse_without_effect,
    remember_defaults,
    report,
    sampling_of,
)
from o1_synth.docstring import DocstringExpert
from o1_synth.expert import Expert
from o1_synth.job.scheduler import FAILURES, Job, think

_OF_DOCSTRINGS = frozenset(
    ("--queries", "--split", "--out", "--samples", "--docstrings", "--concurrency", "--deadline", "--new-job")
)


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: what to think about, and who does."""
    reads(command, "--queries", required=True, once=True, help="JSONL of Query records, or a BEIR folder")
    command.add_argument("--split", help="of BEIR folders: the split to take queries and qrels of, not all")
    writes(
        command,
        "--out",
        required=True,
        beside=[FAILURES],
        help="JSONL of Thought records; the same command resumes it",
    )
    command.add_argument("--samples", type=int, default=3, help="thoughts about each query")
    models = declare_model(command)
    reads(models, "--docstrings", once=True, help="JSONL of human-written Thought records to pick from")
    declare_prompt(command)
    declare_checks(command)
    remember_defaults(command)


def run(args: argparse.Namespace) -> int:
    """Think; return 0 when done, 3 when samples failed or Ctrl-C stopped it."""
    if not any(path.is_dir() for path in (args.queries, args.qrels) if path is not None):
        refuse_without_effect(args, ["--split"], "without a BEIR folder")
    stop = threading.Event()
    expert: Expert
    if args.docstrings is not None:
        refuse_without_effect(args, sorted(args.defaults.keys() - _OF_DOCSTRINGS), "with --docstrings")
        expert = DocstringExpert.of_records(read_jsonl(args.docstrings, Thought))
        job = Job(deadline=args.deadline, stop=stop, new_job=args.new_job)
    else:
        job = model_job(args, stop, checks_of(args))  # first: it is quick to find what is wrong
        expert = model_expert(args, prompt_of(args), sampling_of(args))
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
    return report(summary, did, args.out, args.typed)
