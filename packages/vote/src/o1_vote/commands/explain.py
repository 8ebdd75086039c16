"""`o1-vote explain QUERY_ID`: what every member said of each candidate, and why the winner won."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

from o1_records import Ballot, InputError, Query, Thought, open_queries, quoted, read_jsonl
from o1_vote.agreement import ranks
from o1_vote.commands import rules
from o1_vote.tally import Sheets, Verdict, decide, sheets_of

_WIDTH = 100
_ALONE = "(no thought)"


def declare(command: argparse.ArgumentParser) -> None:
    """Which query, and the files of its election."""
    add = command.add_argument
    add("query_id")
    add("--ballots", required=True, help="JSONL of ballots that elect wrote")
    add("--thoughts", required=True, help="JSONL of thoughts")
    add("--queries", required=True, help="JSONL of queries, or a BEIR folder")
    rules.declare(command)


def run(args: argparse.Namespace) -> int:
    """Print to stdout."""
    name = args.query_id
    query = next((query for query in open_queries(args.queries) if query.query_id == name), None)
    if query is None:
        raise InputError(f"{args.queries}: has no query {quoted(name)}")
    ballots = [ballot for ballot in read_jsonl(args.ballots, Ballot) if ballot.query_id == name]
    if not ballots:
        raise InputError(f"{args.ballots}: has no ballot about query {quoted(name)}")
    thoughts = {t.thought_id: t for t in read_jsonl(args.thoughts, Thought) if t.query_id == name}
    sheets = sheets_of(ballots)[name]
    verdict = decide(sheets, rules.RULES[args.rule], **rules.terms_of(args))
    print("\n".join(explanation(query, thoughts, sheets, verdict, rule=args.rule)))
    return 0


def explanation(
    query: Query, thoughts: dict[str, Thought], sheets: Sheets, verdict: Verdict, *, rule: str
) -> Iterator[str]:
    """The lines: the query, the winner, then each candidate with its points and its ballots.

    A ballot is shown as the raw score and the rank among all candidates, the query alone included.
    """
    yield from _paragraph(f"query {query.query_id}", query.text)
    yield f"winner: {verdict.winner or _ALONE}, by {rule}: {verdict.why}"
    yield f"agreement of {len(sheets)} members (Krippendorff's alpha): {verdict.agreement:.3f}"
    of_each = {member: ranks(scores) for member, scores in sheets.items()}
    candidates = next(iter(sheets.values()))
    points = verdict.points
    for name in sorted(candidates, key=lambda name: (-points.get(name, float("-inf")), name or "")):
        counted = f"{points[name]:.4f} points" if name in points else "does not stand for election"
        mark = "*" if name == verdict.winner else " "
        yield ""
        yield f"{mark} {name or _ALONE}: {counted}"
        for member, scores in sheets.items():
            yield f"    {member}: {scores[name]:.4f} (rank {of_each[member][name]:g} of {len(candidates)})"
        if name in thoughts:
            yield from _paragraph("   ", thoughts[name].text)


def _paragraph(start: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent=f"{start} ", subsequent_indent="    "
    )
