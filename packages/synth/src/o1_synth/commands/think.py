"""`o1-synth think`: write several thoughts about each query."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from o1_records import Thought, open_queries, read_jsonl, refuse_overwriting
from o1_synth.commands.options import (
    chat_expert,
    checks,
    declare_chat,
    declare_checks,
    local_expert,
    prices,
)
from o1_synth.docstring import DocstringExpert
from o1_synth.expert import Expert
from o1_synth.generate import Job, Summary, path_of_failures, think

INPUTS = ("queries", "docstrings", "exemplars", "qrels", "corpus")


def declare(command: argparse.ArgumentParser) -> None:
    """What to think about, and who does."""
    add = command.add_argument
    add("--queries", required=True, type=Path, help="JSONL of Query records, or a BEIR folder")
    add("--split", help="of BEIR folders: whose queries and qrels (default: all)")
    add("--out", required=True, type=Path, help="JSONL of Thought records; the same command resumes it")
    expert = command.add_mutually_exclusive_group(required=True)
    expert.add_argument("--base-url", help="an OpenAI-compatible server, http://127.0.0.1:8000/v1")
    expert.add_argument("--transformers", metavar="MODEL", help="a small model in this process")
    expert.add_argument("--docstrings", type=Path, help="JSONL of human-written Thought records to pick from")
    add("--samples", type=int, default=3, help="thoughts per query (default 3)")
    add("--concurrency", type=int, default=64, help="requests at a time (default 64)")
    add("--deadline", type=float, help="seconds for the whole run; what is left then is listed")
    add("--new-job", action="store_true", help="move a job of another model, prompt or sampling aside")
    declare_chat(command)
    declare_checks(command)


def run(args: argparse.Namespace) -> int:
    """Think; 0 done, 3 when samples failed or Ctrl-C ended it, 4 bad input."""
    if args.base_url is not None and args.model is None:
        print("error: --base-url needs --model", file=sys.stderr)
        return 2
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
        expert = chat_expert(args) if args.base_url is not None else local_expert(args)
        job = Job(
            checks=checks(args),
            redraws=args.redraws,
            n_per_request=args.n_per_request,
            deadline=args.deadline,
            stop=stop,
            new_job=args.new_job,
            prices=prices(args),
        )
    with _gentle(stop):
        summary = think(
            open_queries(args.queries, args.split),
            expert,
            out=args.out,
            samples=args.samples,
            concurrency=args.concurrency,
            progress=True,
            job=job,
        )
    print(_told(summary, args.out, args.argv), file=sys.stderr)
    return 3 if summary.failed else 0


@contextlib.contextmanager
def _gentle(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C finish what is in flight, the second end at once."""

    def finish(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        print("finishing what is in flight; Ctrl-C again leaves it", file=sys.stderr)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, finish)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _told(summary: Summary, out: Path, argv: list[str]) -> str:
    told = f"{summary.thoughts} thoughts about {summary.queries} queries in {out}"
    if summary.interrupted:
        told = f"interrupted: {summary.thoughts} thoughts about {summary.queries} queries in {out}.job"
    if summary.exhausted:
        told += f"; {summary.exhausted} samples exhausted"
    if summary.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.failures.items())
        listed = "" if summary.interrupted else f", listed in {summary.failures_path}"
        told += f"; {summary.failed} failed ({reasons}){listed}; to ask for them again:\n"
        told += f"  o1-synth {shlex.join(argv)}"
    return told
