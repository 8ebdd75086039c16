"""`o1-vote report`: one HTML page about an election."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from o1_records.kit.command import writes
from o1_vote.commands import rules
from o1_vote.election.page import report


def declare(command: ArgumentParser) -> None:
    """Add the files of the election, how to count, where to write."""
    rules.declare_recount(command)
    writes(command, "--out", required=True, help="HTML page")


def run(args: Namespace) -> int:
    """Count and write."""
    queries = report(
        args.ballots,
        thoughts=args.thoughts,
        queries=args.queries,
        out=args.out,
        **rules.given(args),
    )
    print(f"{args.out}: {queries} queries", file=sys.stderr)
    return 0
