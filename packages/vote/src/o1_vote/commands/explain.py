"""`o1-vote explain QUERY_ID`: what every member said of each candidate, and why the winner won."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from o1_records.kit.command import reads
from o1_vote.commands import rules
from o1_vote.election.explain import explain
from o1_vote.settings import SUFFIX


def declare(command: ArgumentParser) -> None:
    """Add the query, and the files of its election."""
    command.add_argument("query_id", help="the query to explain")
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


def run(args: Namespace) -> int:
    """Print to stdout."""
    lines = explain(
        args.query_id,
        ballots=args.ballots,
        thoughts=args.thoughts,
        queries=args.queries,
        **rules.given(args),
    )
    print("\n".join(lines))
    return 0
