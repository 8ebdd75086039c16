"""`o1-vote explain QUERY_ID`: what every member said of each candidate, and why the winner won."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from o1_vote.commands import rules
from o1_vote.election.explain import explain


def declare(command: ArgumentParser) -> None:
    """Add the query, and the files of its election."""
    command.add_argument("query_id", help="the query to explain")
    rules.declare_recount(command)


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
