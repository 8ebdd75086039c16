"""How much the members of a committee agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

Scores = Mapping[str | None, float]


def ranks(scores: Scores) -> dict[str | None, float]:
    """The rank of each candidate, 1 for the best; equal scores share the mean of their ranks."""
    ordered = sorted(scores.values(), reverse=True)
    first = {score: place for place, score in reversed(list(enumerate(ordered, start=1)))}
    return {name: first[score] + (ordered.count(score) - 1) / 2 for name, score in scores.items()}


def krippendorff_alpha(sheets: Sequence[Scores]) -> float:
    """Krippendorff's alpha of the ranks that members gave to the same candidates.

    1 is full agreement, 0 what chance would give, and it can be negative. The difference of two ranks
    is squared (his interval metric). 1 where nobody can disagree: one member, or all candidates level.
    """
    rows = [ranks(scores) for scores in sheets]
    names = list(rows[0])
    count = len(rows) * len(names)
    if len(rows) < 2:
        return 1.0
    observed = math.fsum(
        (one[name] - other[name]) ** 2 for name in names for one, other in itertools.combinations(rows, 2)
    ) / (len(names) * len(rows) * (len(rows) - 1) / 2)
    values = [row[name] for row in rows for name in names]
    mean = math.fsum(values) / count
    # half the mean squared difference of two values is their sample variance
    expected = 2 * math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return 1.0 if expected == 0 else 1 - observed / expected


def same_first(one: Scores, other: Scores) -> bool:
    """Whether two members put the same candidates first."""
    return _firsts(one) == _firsts(other)


def _firsts(scores: Scores) -> set[str | None]:
    best = max(scores.values())
    return {name for name, score in scores.items() if score == best}
