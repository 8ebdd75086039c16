"""`o1-model think`: write thoughts about queries, or about documents."""

from __future__ import annotations

import shlex
import sys
import threading
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from o1_model.commands import options
from o1_records import InputError
from o1_records.kit.cluster import cluster_of, declare_cluster
from o1_records.kit.command import at_least, gentle, new_job, reads, writes

if TYPE_CHECKING:
    from o1_model.jobs import Report


def declare(command: ArgumentParser) -> None:
    """Add what thinks, about what, how, and where the thoughts are written."""
    options.model(command, "a checkpoint, an instruct model, a .gguf file, or http://HOST/v1#NAME")
    command.add_argument(
        "--style",
        help="what an instruct model is asked for: snippet, passage, ...; of documents comment, question, "
        "keywords",
    )
    what = command.add_mutually_exclusive_group(required=True)
    options.queries(command, what)
    reads(what, "--corpus", help="think about these documents: BEIR folder or JSONL of Document records")
    command.add_argument(
        "--characters", type=at_least(1), help="of a document that are read, at most; all unless given"
    )
    options.thinking(command)
    options.engine(command)
    writes(
        command,
        "--out",
        required=True,
        help="JSONL of Thought records, or of DocumentThought records; OUT.job is the work so far",
    )
    new_job(command)
    declare_cluster(command)


def run(args: Namespace) -> int:
    """Think; exits 3 when thoughts came out blank, or on Ctrl-C with the command that goes on."""
    stop = threading.Event()
    with gentle(stop):
        made = _about_queries(args, stop) if args.queries else _about_documents(args, stop)
    what = "queries" if args.queries else "documents"
    if not made.finished:
        again = shlex.join(["o1-model", *args.typed])
        done = f"interrupted; {made.thought_about} of {made.queries} {what} are thought about"
        print(f"{done}. To go on:\n{again}", file=sys.stderr)
        return 3
    if made.blank:
        print(f"{made.blank} thoughts came out blank and were left out", file=sys.stderr)
    return 3 if made.blank else 0


def _about_queries(args: Namespace, stop: threading.Event) -> Report:
    from o1_model.jobs import is_thinker, think
    from o1_model.retriever.thinkers import open_thinker

    if args.characters:
        raise InputError("--characters is for --corpus; leave it out")
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
    return think(
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


def _about_documents(args: Namespace, stop: threading.Event) -> Report:
    from o1_model.jobs import think_about_documents

    for flag in ("split", "cache", "base_url", "served_name"):
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag.replace('_', '-')} is for --queries; leave it out")
    if cluster_of(args, "o1-model") is not None:
        raise InputError("--ray is for --queries; leave it out")
    return think_about_documents(
        args.model,
        args.corpus,
        options.given_thinking(args),
        out=args.out,
        style=args.style,
        characters=args.characters,
        new_job=args.new_job,
        stop=stop,
        progress=True,
        vllm=args.vllm,
        **options.elsewhere(args),
    )
