"""`o1-model embed`: write vectors of a corpus or of queries."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from o1_model.commands import options
from o1_records import InputError
from o1_records.kit.cluster import cluster_of, declare_cluster
from o1_records.kit.command import at_least, new_job, reads, writes


def declare(command: ArgumentParser) -> None:
    """Add what to embed, with which thoughts, and where the vectors are written."""
    options.model(command, "a checkpoint, a sentence-transformers model, or http://HOST/v1#NAME")
    command.add_argument("--devices", help="cuda:0,cuda:1: one process each, instead of --device")
    command.add_argument(
        "--batch-tokens",
        type=at_least(1),
        help="most tokens in a forward pass; by default as suits the device",
    )
    command.add_argument(
        "--shard-rows",
        type=at_least(1),
        help="rows in a shard, the most that a kill loses; by default 1024 on a CPU, 8192 on a GPU",
    )
    what = command.add_mutually_exclusive_group(required=True)
    reads(what, "--corpus", help="BEIR folder or JSONL of Document records")
    reads(what, "--queries", help="BEIR folder or JSONL of Query records")
    command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")
    how = command.add_mutually_exclusive_group()
    reads(
        how,
        "--thoughts",
        once=True,
        help="JSONL of Thought records about the queries, or of DocumentThought records about the corpus",
    )
    how.add_argument("--think", action="store_true", help="let the model write the thoughts")
    options.mixture(command, how)
    command.add_argument("--with-query", action="store_true", help="average v_q with the v_t")
    reads(
        command,
        "--gate",
        once=True,
        help="with --think: only about the queries that this file of `o1-model gate` opens for",
    )
    reads(command, "--hits", once=True, help="with --gate: v_q's run, if the gate needs its margins")
    options.thinking(command)
    writes(command, "--out", folder=True, required=True, help="folder of vector shards")
    new_job(command)
    declare_cluster(command, block=False)


def run(args: Namespace) -> int:
    """Embed; an unfinished earlier run is continued."""
    if args.hits and not (args.gate or args.calibration):
        raise InputError("--hits are for --gate or --calibration; give them together")
    options.refuse_idle_thinking(args)
    if args.corpus and (args.think or args.split):
        raise InputError("--think and --split are for queries; give --queries")
    from o1_model.jobs import embed
    from o1_model.thinking.gate import load_gate, read_margins

    cluster = cluster_of(args, "o1-model")
    margins = None if args.hits is None else read_margins(args.hits)
    what = {"corpus": args.corpus, "queries": args.queries, "split": args.split, "thoughts": args.thoughts}
    how = {"shard_rows": args.shard_rows, "new_job": args.new_job, "progress": True}
    if options.mixes(args):
        idle = [name for name in ("with_query", "gate", "devices", "batch_tokens") if getattr(args, name)]
        idle += ["ray"] * (cluster is not None)
        if idle:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise InputError(f"{flags}: only for a checkpoint whose thoughts are not mixed in; leave it out")
        if args.queries and not (args.think or args.thinker or args.thoughts):
            for flag in ("weight", "reading", "calibration"):
                if getattr(args, flag) is not None:
                    raise InputError(f"--{flag} is for thoughts; give --thoughts, --thinker or --think")
        if args.corpus and (args.thinker or args.reading or args.hits):
            raise InputError("--thinker, --reading and --hits are for queries; documents take --thoughts")
        if args.corpus and not args.thoughts and (args.weight is not None or args.calibration):
            raise InputError(
                "--weight and --calibration are for thoughts; give --thoughts about the documents"
            )
        embed(options.retriever(args), out=args.out, margins=margins, **what, **how)
        return 0
    if args.style:
        raise InputError("--style is for --thinker; give them together")
    embed(
        args.model,
        out=args.out,
        think=options.thinking_of(args) if args.think else None,
        gate=None if args.gate is None else load_gate(args.gate),
        margins=margins,
        with_query=args.with_query,
        devices=[] if args.devices is None else [name.strip() for name in args.devices.split(",")],
        cluster=cluster,
        batch_tokens=args.batch_tokens,
        **what,
        **how,
        **options.loading(args),
    )
    return 0
