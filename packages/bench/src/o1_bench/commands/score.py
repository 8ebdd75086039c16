"""`o1-bench score`: score a run, and keep it as a result."""

from __future__ import annotations

import argparse
from typing import get_args

from o1_bench.commands import _shared
from o1_bench.results.result import Kind, Milliseconds
from o1_bench.results.runs import score_run
from o1_records.kit.command import reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--run", required=True, once=True, metavar="FILE", help="the TREC run to score")
    _shared.qrels(command, required=True)
    command.add_argument(
        "--measures", nargs="+", type=_shared.measure, metavar="MEASURE",
        help="such as nDCG@10 RR(rel=2)@10; else those of the collection's protocol",
    )  # fmt: skip
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
    for stage in ("think", "embed", "search"):
        _shared.milliseconds(kept, f"--{stage}-ms", f"time to {stage}, per query")


def run(args: argparse.Namespace) -> int:
    """Score, keep, and print the means."""
    times = Milliseconds(think=args.think_ms, embed=args.embed_ms, search=args.search_ms)
    scored = score_run(
        args.run,
        args.qrels,
        split=args.split,
        measures=args.measures,
        excluded=args.excluded,
        per_query=args.per_query,
        result=args.result,
        name=args.name,
        kind=args.kind,
        note=args.note,
        milliseconds=times,
    )
    if scored.without_hits:
        count = f"{scored.without_hits} of {scored.judged}"
        _shared.say(f"{count} judged queries retrieved nothing and count 0")
    for measure, number in scored.means.items():
        print(f"{measure}\t{number:.4f}")
    return 0
