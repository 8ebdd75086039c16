"""`o1-model think`: write thoughts about queries."""

from __future__ import annotations

import shlex
import sys
import threading
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from o1_model.commands import options
from o1_records.kit.command import gentle, new_job, writes

if TYPE_CHECKING:
    from o1_model.thinking.engines import Engine


def declare(command: ArgumentParser) -> None:
    """Add what to think about, how, and where the thoughts are written."""
    options.model(command)
    options.queries(command)
    options.thinking(command)
    engine = command.add_mutually_exclusive_group()
    engine.add_argument("--vllm", action="store_true", help="let vLLM in this process write them")
    engine.add_argument("--base-url", help="let an OpenAI-compatible server with this checkpoint write them")
    command.add_argument("--served-name", help="what the checkpoint is called at --base-url, if not --model")
    writes(
        command,
        "--cache",
        beside=("-wal", "-shm"),
        help="keep thoughts and their vectors in this file, for other runs too",
    )
    writes(command, "--out", required=True, help="JSONL of Thought records; OUT.job is the work so far")
    new_job(command)


def run(args: Namespace) -> int:
    """Think; exits 3 when thoughts came out blank, or on Ctrl-C with the command that goes on."""
    from o1_model.jobs import think

    thinking, stop = options.thinking_of(args), threading.Event()
    with gentle(stop):
        made = think(
            args.model,
            args.queries,
            thinking,
            out=args.out,
            split=args.split,
            engine=engine_of(args),
            cache=args.cache,
            new_job=args.new_job,
            stop=stop,
            progress=True,
            **options.loading(args),
        )
    if not made.finished:
        again = shlex.join(["o1-model", *args.typed])
        done = f"interrupted; {made.thought_about} of {made.queries} queries are thought about"
        print(f"{done}. To go on:\n{again}", file=sys.stderr)
        return 3
    if made.blank:
        print(f"{made.blank} thoughts came out blank and were left out", file=sys.stderr)
    return 3 if made.blank else 0


def engine_of(args: Namespace) -> Engine | None:
    """Return what writes the thoughts in the model's place, if anything does."""
    from o1_model.thinking.engines import VLLM, CompletionServer
    from o1_records import InputError
    from o1_records.kit.models import model_folder

    if args.served_name and not args.base_url:
        raise InputError("--served-name is for --base-url; give them together")
    if args.vllm:
        return VLLM(model_folder(args.model, args.revision))
    return CompletionServer(args.base_url, args.served_name or args.model) if args.base_url else None
