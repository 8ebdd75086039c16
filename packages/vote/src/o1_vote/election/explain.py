"""One query of an election explained: what every member said of each candidate, and why the winner won."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from o1_records import Ballot, InputError, Query, Thought, open_queries, quoted, read_jsonl
from o1_vote.settings import read_settings, recounted
from o1_vote.tally import Sheets, Verdict, ranks, refuse_weights_of_nobody, sheets_of

_WIDTH = 100
_ALONE = "(no thought)"


def explain(
    query_id: str,
    *,
    ballots: str | Path,
    thoughts: str | Path,
    queries: str | Path,
    **counting: object,
) -> list[str]:
    """Return the lines of `explanation` for a query in the files of an election.

    Args:
        query_id: of the query.
        ballots: JSONL that `elect` wrote, with its settings beside it.
        thoughts: JSONL of the thoughts.
        queries: JSONL of the queries, or a BEIR folder.
        **counting: fields of `Counting` that are to be other than in the election; None is as there.

    Raises InputError for a query that is unknown or has no ballot, a weight of nobody, and settings of other
    ballots.
    """
    settings = read_settings(ballots)
    how, told = recounted(settings, **counting)
    query = next((query for query in open_queries(queries) if query.query_id == query_id), None)
    if query is None:
        raise InputError(f"{queries}: has no query {quoted(query_id)}")
    own: list[Ballot] = []
    members: set[str] = set()
    for ballot in read_jsonl(ballots, Ballot):
        members.add(ballot.retriever)
        if ballot.query_id == query_id:
            own.append(ballot)
    if not own:
        raise InputError(f"{ballots}: has no ballot about query {quoted(query_id)}")
    refuse_weights_of_nobody(how.weights, sorted(members))
    texts = {t.thought_id: t for t in read_jsonl(thoughts, Thought) if t.query_id == query_id}
    sheets = sheets_of(own)[query_id]
    tolerance = how.tolerance if how.abstain else {}
    verdict = how.decide(sheets)
    measured = settings.measure if settings else ""
    return list(explanation(query, texts, sheets, verdict, how=told, measured=measured, tolerance=tolerance))


def explanation(
    query: Query,
    thoughts: dict[str, Thought],
    sheets: Sheets,
    verdict: Verdict,
    *,
    how: str,
    measured: str,
    tolerance: Mapping[str, float],
) -> Iterator[str]:
    """Yield the lines: the query, the winner, then each candidate with its points and its ballots.

    A ballot is shown as the raw score and the rank among all candidates, the query alone included; `level`
    says that the score is within the tolerance of the member that the count used, and so as good as that of
    the query alone. `measured`, if it is known, is what the scores are.
    """
    yield from _paragraph(f"query {query.query_id}", query.text)
    yield f"winner: {verdict.winner or _ALONE}: {verdict.why}"
    yield how
    if measured:
        yield f"measured: {measured}"
    if any(tolerance.values()):
        yield "tolerance: " + ", ".join(f"{name} {limit:.4f}" for name, limit in tolerance.items())
    yield f"agreement of {len(sheets)} members (Krippendorff's alpha): {verdict.agreement:.3f}"
    of_each = {member: ranks(scores) for member, scores in sheets.items()}
    candidates = next(iter(sheets.values()))
    points = verdict.points
    for name in sorted(candidates, key=lambda name: (-points.get(name, float("-inf")), name or "")):
        counted = f"{points[name]:.4f} points" if name in points else "is not a candidate"
        mark = "*" if name == verdict.winner else " "
        yield ""
        yield f"{mark} {name or _ALONE}{_by(thoughts, name)}: {counted}"
        for member, scores in sheets.items():
            gain = abs(scores[name] - scores.get(None, scores[name]))
            level = ", level" if name is not None and gain <= tolerance.get(member, -1.0) else ""
            place = f"rank {of_each[member][name]:g} of {len(candidates)}{level}"
            yield f"    {member}: {scores[name]:.4f} ({place})"
        if name in thoughts:
            yield from _paragraph("   ", thoughts[name].text)


def _by(thoughts: dict[str, Thought], name: str | None) -> str:
    return f" by {thoughts[name].source.model}" if name in thoughts else ""


def _paragraph(start: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent=f"{start} ", subsequent_indent="    "
    )
