"""Turning ballots into winners. Pure functions; no models here.

A winner is a thought_id, or None for the query without a thought. Where candidates are level the
smaller thought_id wins, and None is smaller than any: a rerun elects the same thought.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from o1_records import Ballot, InputError, quoted

Winners: TypeAlias = dict[str, str | None]
_Scores: TypeAlias = Mapping[str | None, float]


def majority(ballots: Iterable[Ballot], *, abstain: bool = False) -> Winners:
    """Map each query_id to the thought_id that most members put first (O1 Embedder's rule).

    A member that puts several first votes for each of them. With `abstain` the query without a
    thought (None) stands for election too; otherwise None wins only where there is no thought.

    Raises InputError for a repeated ballot and for members that judged different candidates.
    """
    return _count(ballots, _first_places, abstain)


def mean_rank(ballots: Iterable[Ballot], *, abstain: bool = False) -> Winners:
    """Map each query_id to the thought_id with the best mean rank over the members.

    Equal scores share the mean of their ranks. Borda's count elects the same. `abstain` and errors
    as in `majority`.
    """
    return _count(ballots, _rank_points, abstain)


def _first_places(scores: _Scores) -> dict[str | None, int]:
    best = max(scores.values())
    return {name: int(score == best) for name, score in scores.items()}


def _rank_points(scores: _Scores) -> dict[str | None, int]:
    """Twice the number of candidates beaten, once the number of those level with: whole numbers."""
    values = list(scores.values())
    return {
        name: sum(2 * (score > other) + (score == other) for other in values)
        for name, score in scores.items()
    }


def _count(
    ballots: Iterable[Ballot], points: Callable[[_Scores], dict[str | None, int]], abstain: bool
) -> Winners:
    winners: Winners = {}
    for query_id, sheets in _sheets(ballots).items():
        totals: defaultdict[str | None, int] = defaultdict(int)
        for member in sheets:
            standing = _standing(sheets[member], abstain)
            for name, value in points(standing).items():
                totals[name] += value
        winners[query_id] = min(totals, key=lambda name: (-totals[name], name or ""))
    return winners


def _standing(scores: _Scores, abstain: bool) -> _Scores:
    if abstain or set(scores) == {None}:
        return scores
    return {name: score for name, score in scores.items() if name is not None}


def _sheets(ballots: Iterable[Ballot]) -> dict[str, dict[str, dict[str | None, float]]]:
    """Scores by query, member and candidate; every member of a query judged the same candidates."""
    queries: dict[str, dict[str, dict[str | None, float]]] = {}
    for ballot in ballots:
        sheet = queries.setdefault(ballot.query_id, {}).setdefault(ballot.retriever, {})
        if ballot.thought_id in sheet:
            raise InputError(f"repeated ballot {quoted(ballot.key)}; keep one of them")
        sheet[ballot.thought_id] = ballot.score
    for query_id, sheets in queries.items():
        everything = set().union(*sheets.values())
        for member, sheet in sheets.items():
            if missing := everything.difference(sheet):
                raise InputError(
                    f"member {quoted(member)} has no ballot for {quoted(missing)} of query "
                    f"{quoted(query_id)}; let every member judge the same candidates"
                )
    return queries
