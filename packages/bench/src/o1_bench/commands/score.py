"""`o1-bench score`: score a run, and keep it as a result."""

from __future__ import annotations

import argparse
from typing import get_args

from o1_bench.commands import _shared
from o1_bench.results.result import Kind, Milliseconds
from o1_bench.results.runs import score_run
from o1_records.kit.command import at_least, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(
        command, "--run", required=True, once=True, metavar="FILE",
        help="the run to score: TREC, or JSON of BEIR or FlagEmbedding",
    )  # fmt: skip
    _shared.qrels(command, required=True)
    _shared.measures(command, "instead of those of the collection's protocol")
    reads(
        command, "--excluded", once=True, metavar="FILE",
        help="documents that are never counted (JSONL), instead of the collection's own",
    )  # fmt: skip
    writes(command, "--per-query", metavar="FILE", help="the metrics of single queries to write (JSONL)")
    kept = command.add_argument_group("a result to keep; --qrels must then be a collection")
    writes(
        kept, "--result", folder=True, beside=[f"/{name}" for name in _shared.RESULT_FILES], metavar="DIR",
        help="its folder",
    )  # fmt: skip
    kept.add_argument("--name", default="", help="of the system; else the name of the run's file")
    kept.add_argument("--kind", choices=get_args(Kind), default="system", help="what the run is")
    kept.add_argument("--note", default="", help="a line under the name")
    kept.add_argument(
        "--seed", type=at_least(0), metavar="N", help="of training or sampling; several make one row"
    )
    for stage in ("think", "embed", "search"):
        _shared.milliseconds(kept, f"--{stage}-ms", f"time to {stage}, per query")


def run(args: argparse.Namespace) -> int:
    """Score, keep, and print the means."""
    times = Milliseconds(think=args.think_ms, embed=args.embed_ms, search=args.search_ms)
    scored = score_run(
        args.run,
        args.qrels,
        split=args.split,
        protocol=args.protocol,
        measures=args.measures,
        excluded=args.excluded,
        per_query=args.per_query,
        result=args.result,
        name=args.name,
        kind=args.kind,
        note=args.note,
        seed=args.seed,
        milliseconds=times,
    )
    _shared.say(f"protocol {scored.protocol.words}")
    for sentence in scored.said:
        _shared.say(sentence)
    for measure, number in scored.means.items():
        print(f"{measure}\t{number:.4f}")
    return 0
