"""`o1-model gate`: learn for which queries thinking pays, for a compute budget."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from o1_model.commands import options
from o1_records.kit.command import new_job, reads, writes


def declare(command: ArgumentParser) -> None:
    """Add whose signals, and what thinking gained."""
    options.model(command)
    options.queries(command)
    reads(
        command,
        "--without",
        required=True,
        help="`o1-bench score --per-query` of v_q's run: JSONL of Metric records",
    )
    reads(command, "--with", required=True, dest="thinking", help="the same of the thinking run")
    command.add_argument("--measure", default="nDCG@10", help="what thinking should improve")
    reads(command, "--hits", help="v_q's run, TREC or JSONL of Hit records: lets the gate use its margins")
    command.add_argument("--budget", type=float, default=0.3, help="share of the queries that may think")
    writes(command, "--out", required=True, help="the gate, for `o1-model embed --think --gate`")
    new_job(command)


def run(args: Namespace) -> int:
    """Write the gate; print quality against budget as a table."""
    from o1_model.jobs import learn_gate

    learnt = learn_gate(
        args.model,
        args.queries,
        without=args.without,
        thinking=args.thinking,
        out=args.out,
        split=args.split,
        measure=args.measure,
        hits=args.hits,
        budget=args.budget,
        new_job=args.new_job,
        **options.loading(args),
    )
    sys.stdout.write(f"budget\t{args.measure}, gate\theld out\trandom\toracle\n")
    for point in learnt.points:
        values = (learnt.base + gain for gain in (point.gate, point.held_out, point.random, point.oracle))
        sys.stdout.write("\t".join([f"{point.budget:.1f}", *(f"{value:.4f}" for value in values)]) + "\n")
    print(f"{args.out}: {learnt.gate}", file=sys.stderr)
    return 0
