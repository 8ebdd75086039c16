"""One query of an election explained: what every member said of each candidate, and why the winner won."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from o1_records import Ballot, InputError, Query, Thought, open_queries, quoted, read_jsonl
from o1_vote.tally import Points, Sheets, Terms, Verdict, decide, ranks, sheets_of

_WIDTH = 100
_ALONE = "(no thought)"


def explain(
    query_id: str,
    *,
    ballots: str | Path,
    thoughts: str | Path,
    queries: str | Path,
    rule: str,
    points: Points,
    **terms: Unpack[Terms],
) -> list[str]:
    """Return the lines of `explanation` for a query in the files of an election.

    Args:
        query_id: of the query.
        ballots: JSONL that `elect` wrote.
        thoughts: JSONL of the thoughts.
        queries: JSONL of the queries, or a BEIR folder.
        rule: what the rule is called.
        points: how the rule counts; see `o1_vote.tally`.
        **terms: of the rule.

    Raises InputError for a query that is unknown or has no ballot.
    """
    query = next((query for query in open_queries(queries) if query.query_id == query_id), None)
    if query is None:
        raise InputError(f"{queries}: has no query {quoted(query_id)}")
    own = [ballot for ballot in read_jsonl(ballots, Ballot) if ballot.query_id == query_id]
    if not own:
        raise InputError(f"{ballots}: has no ballot about query {quoted(query_id)}")
    texts = {t.thought_id: t for t in read_jsonl(thoughts, Thought) if t.query_id == query_id}
    sheets = sheets_of(own)[query_id]
    return list(explanation(query, texts, sheets, decide(sheets, points, **terms), rule=rule))


def explanation(
    query: Query, thoughts: dict[str, Thought], sheets: Sheets, verdict: Verdict, *, rule: str
) -> Iterator[str]:
    """Yield the lines: the query, the winner, then each candidate with its points and its ballots.

    A ballot is shown as the raw score and the rank among all candidates, the query alone included.
    """
    yield from _paragraph(f"query {query.query_id}", query.text)
    yield f"winner: {verdict.winner or _ALONE}, by {rule}: {verdict.why}"
    yield f"agreement of {len(sheets)} members (Krippendorff's alpha): {verdict.agreement:.3f}"
    of_each = {member: ranks(scores) for member, scores in sheets.items()}
    candidates = next(iter(sheets.values()))
    points = verdict.points
    for name in sorted(candidates, key=lambda name: (-points.get(name, float("-inf")), name or "")):
        counted = f"{points[name]:.4f} points" if name in points else "is not a candidate"
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
