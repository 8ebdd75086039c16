"""`o1-model embed`: write vectors of a corpus or of queries."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from o1_model.commands import options
from o1_model.thinking.settings import Thinking
from o1_records import InputError
from o1_records.kit.command import at_least, new_job, reads, writes


def declare(command: ArgumentParser) -> None:
    """Add what to embed, with which thoughts, and where the vectors are written."""
    options.model(command)
    command.add_argument("--devices", help="cuda:0,cuda:1: one process each, instead of --device")
    command.add_argument("--batch-tokens", type=at_least(1), help="of a forward pass; by default as suits it")
    command.add_argument(
        "--shard-rows",
        type=at_least(1),
        help="rows that a kill can lose on each device; by default 1024 on a CPU, 8192 on a GPU",
    )
    what = command.add_mutually_exclusive_group(required=True)
    reads(what, "--corpus", help="BEIR folder or JSONL of Document records")
    reads(what, "--queries", help="BEIR folder or JSONL of Query records")
    command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")
    how = command.add_mutually_exclusive_group()
    reads(how, "--thoughts", once=True, help="JSONL of Thought records to embed the queries with")
    how.add_argument("--think", action="store_true", help="let the model write the thoughts")
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


def run(args: Namespace) -> int:
    """Embed; an unfinished earlier run is continued."""
    if args.hits and not args.gate:
        raise InputError("--hits are for --gate; give them together")
    thinking = options.thinking_of(args)
    if not args.think and thinking != Thinking():
        raise InputError("--samples, --max-tokens, --temperature, --top-p and --seed are for --think")
    from o1_model.jobs import embed
    from o1_model.thinking.gate import load_gate, read_margins

    embed(
        args.model,
        out=args.out,
        corpus=args.corpus,
        queries=args.queries,
        split=args.split,
        thoughts=args.thoughts,
        think=thinking if args.think else None,
        gate=None if args.gate is None else load_gate(args.gate),
        margins=None if args.hits is None else read_margins(args.hits),
        with_query=args.with_query,
        devices=[] if args.devices is None else [name.strip() for name in args.devices.split(",")],
        batch_tokens=args.batch_tokens,
        shard_rows=args.shard_rows,
        new_job=args.new_job,
        progress=True,
        **options.loading(args),
    )
    return 0
