"""`o1-model think`: write thoughts about queries."""

from __future__ import annotations

import shlex
import sys
import threading
from argparse import ArgumentParser, Namespace
from dataclasses import replace

from o1_model.commands import options
from o1_records import InputError
from o1_records.kit.cluster import cluster_of, declare_cluster
from o1_records.kit.command import gentle, new_job, writes


def declare(command: ArgumentParser) -> None:
    """Add what thinks, about what, how, and where the thoughts are written."""
    options.model(command, "a checkpoint, an instruct model, a .gguf file, or http://HOST/v1#NAME")
    command.add_argument("--style", help="what an instruct model is asked for: snippet, passage, ...")
    options.queries(command)
    options.thinking(command)
    options.engine(command)
    writes(command, "--out", required=True, help="JSONL of Thought records; OUT.job is the work so far")
    new_job(command)
    declare_cluster(command)


def run(args: Namespace) -> int:
    """Think; exits 3 when thoughts came out blank, or on Ctrl-C with the command that goes on."""
    from o1_model.jobs import is_thinker, think
    from o1_model.retriever.thinkers import open_thinker

    loading, model, style = options.loading(args), args.model, None
    cluster = cluster_of(args, "o1-model")
    if is_thinker(model, loading):
        how = {"vllm": args.vllm, **options.elsewhere(args)}
        thinker = open_thinker(model, args.style, **how)
        thinking = replace(thinker.usual, **options.given_thinking(args))
        if cluster is None:
            model, loading = thinker, {}
        else:  # each worker opens it
            loading, style = how, args.style
        args.vllm = False
    elif args.style:
        raise InputError(f"{model}: a checkpoint thinks in its own way; leave out --style")
    else:
        thinking = options.thinking_of(args)
    stop = threading.Event()
    with gentle(stop):
        made = think(
            model,
            args.queries,
            thinking,
            out=args.out,
            split=args.split,
            engine=options.engine_of(args),
            cache=args.cache,
            cluster=cluster,
            style=style,
            new_job=args.new_job,
            stop=stop,
            progress=True,
            **loading,
        )
    if not made.finished:
        again = shlex.join(["o1-model", *args.typed])
        done = f"interrupted; {made.thought_about} of {made.queries} queries are thought about"
        print(f"{done}. To go on:\n{again}", file=sys.stderr)
        return 3
    if made.blank:
        print(f"{made.blank} thoughts came out blank and were left out", file=sys.stderr)
    return 3 if made.blank else 0
