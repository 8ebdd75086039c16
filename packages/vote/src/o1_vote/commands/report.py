"""`o1-vote report`: one HTML page about an election."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from o1_records.kit.command import reads, writes
from o1_vote.commands import rules
from o1_vote.election.page import report
from o1_vote.settings import SUFFIX


def declare(command: ArgumentParser) -> None:
    """Add the files of the election, how to count, where to write."""
    reads(
        command,
        "--ballots",
        required=True,
        once=True,
        beside=[SUFFIX],
        help="JSONL of ballots that elect wrote",
    )
    reads(command, "--thoughts", required=True, once=True, help="JSONL of thoughts")
    reads(command, "--queries", required=True, once=True, help="JSONL of queries, or a BEIR folder")
    rules.declare(command, recount=True)
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
