"""`o1-synth think`: write several thoughts about each query, or about each document."""

from __future__ import annotations

import argparse
import threading

from o1_records import InputError, Thought, open_documents, open_queries, read_jsonl
from o1_records.files import is_folder
from o1_records.kit.command import gentle, reads, writes
from o1_synth.checks import NAMES, Checks, DocumentChecks
from o1_synth.commands.options import (
    checks_of,
    declare_checks,
    declare_model,
    declare_prompt,
    model_expert,
    model_job,
    names_of,
    prompt_of,
    refuse_without_effect,
    remember_defaults,
    report,
    sampling_of,
    template_of,
)
from o1_synth.docstring import DocstringExpert
from o1_synth.expert import Expert
from o1_synth.job.scheduler import FAILURES, Job, think, think_about_documents
from o1_synth.prompt import DocumentPrompt
from o1_synth.template import ABOUT_DOCUMENTS

_OF_DOCSTRINGS = frozenset(
    ("--queries", "--split", "--out", "--samples", "--docstrings", "--concurrency", "--deadline", "--new-job")
)
_OF_QUERIES = (
    "--task",
    "--exemplars",
    "--exemplar-count",
    "--exemplar-tokens",
    "--exemplar-seed",
    "--qrels",
    "--split",
)


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: what to think about, and who does."""
    reads(command, "--queries", once=True, help="JSONL of Query records, or a BEIR folder")
    command.add_argument("--split", help="of BEIR folders: take queries and qrels of this split only")
    reads(
        command,
        "--corpus",
        once=True,
        help="without --queries: think about these documents; with --queries and --qrels: refuse thoughts "
        "that copy a positive from here",
    )
    writes(
        command,
        "--out",
        required=True,
        beside=[FAILURES],
        help="JSONL of Thought records, or of DocumentThought records; the same command resumes it",
    )
    command.add_argument(
        "--samples", type=int, help="thoughts about each query (3, if not given) or document (1)"
    )
    models = declare_model(command)
    reads(models, "--docstrings", once=True, help="JSONL of human-written Thought records to pick from")
    declare_prompt(command)
    declare_checks(command, NAMES, Checks.names)
    remember_defaults(command)


def run(args: argparse.Namespace) -> int:
    """Think; return 0 when done, 3 when samples failed or Ctrl-C stopped it."""
    if args.queries is None:
        return _about_documents(args)
    if not any(is_folder(path) for path in (args.queries, args.qrels) if path is not None):
        refuse_without_effect(args, ["--split"], "without a BEIR folder")
    stop = threading.Event()
    expert: Expert
    if args.docstrings is not None:
        refuse_without_effect(args, sorted(args.defaults.keys() - _OF_DOCSTRINGS), "with --docstrings")
        expert = DocstringExpert.of_records(read_jsonl(args.docstrings, Thought))
        job = Job(deadline=args.deadline, stop=stop, new_job=args.new_job)
    else:
        prompt = prompt_of(args)
        job = model_job(args, stop, checks_of(args, prompt))
        expert = model_expert(args, prompt, sampling_of(args, prompt.template))
    with gentle(stop):
        summary = think(
            open_queries(args.queries, args.split),
            expert,
            out=args.out,
            samples=3 if args.samples is None else args.samples,
            concurrency=args.concurrency,
            progress=True,
            job=job,
        )
    if args.preview:
        return 0
    did = f"{summary.thoughts} thoughts about {summary.queries} queries"
    return report(summary, did, args.out, args.typed, expert)


def _about_documents(args: argparse.Namespace) -> int:
    if args.corpus is None:
        raise InputError("give --queries or --corpus, what to think about")
    refuse_without_effect(args, _OF_QUERIES, "without --queries")
    if args.template is None:
        raise InputError(
            "--corpus needs --template: comment for code, question or keywords for texts, or a file"
        )
    if args.docstrings is not None:
        raise InputError("--docstrings are about queries; give --queries")
    stop = threading.Event()
    prompt = DocumentPrompt(template_of(args, ABOUT_DOCUMENTS))
    chosen = DocumentChecks.names
    if args.checks != args.defaults["--checks"][1]:
        chosen = names_of(args.checks, chosen)
    checks = DocumentChecks(names=chosen, prompt=prompt)
    job = model_job(args, stop, checks)
    expert = model_expert(args, prompt, sampling_of(args, prompt.template))
    with gentle(stop):
        summary = think_about_documents(
            open_documents(args.corpus),
            expert,
            out=args.out,
            samples=1 if args.samples is None else args.samples,
            concurrency=args.concurrency,
            progress=True,
            job=job,
        )
    if args.preview:
        return 0
    did = f"{summary.thoughts} thoughts about {summary.queries} documents"
    return report(summary, did, args.out, args.typed, expert)
