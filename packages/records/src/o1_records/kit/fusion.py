"""One ranking out of several: by reciprocal rank, or by scores that are scaled first."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from o1_records.files import InputError, quoted
from o1_records.ranking import rank

Name = TypeVar("Name", bound=Hashable)
Run = Mapping[str, Mapping[str, float]]
"""For each query_id, the scores of its documents."""

Scale = Callable[[str, Mapping[str, float]], dict[str, float]]

CONSTANT = 60
"""Added to ranks in reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""


def reciprocal_ranks(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Return 1 / (60 + rank) of each document, in the one total order."""
    return {hit.doc_id: 1 / (CONSTANT + hit.rank) for hit in rank(query_id, scores)}


def min_max(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores from 0 (the lowest of the query) to 1 (the highest); 1 for all where they are equal."""
    low, high = min(scores.values()), max(scores.values())
    return {doc_id: (score - low) / (high - low) if high > low else 1.0 for doc_id, score in scores.items()}


def z_scores(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores in standard deviations from the mean of the query; 0 for all where they are equal."""
    return standard_scores(scores)


def standard_scores(scores: Mapping[Name, float]) -> dict[Name, float]:
    """Return standard deviations above the mean; 0 where all scores are equal but for rounding."""
    mean = math.fsum(scores.values()) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores.values()) / len(scores))
    if deviation <= 1e-12 * max(abs(score) for score in scores.values()):
        return dict.fromkeys(scores, 0.0)
    return {name: (score - mean) / deviation for name, score in scores.items()}


def unscaled(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores as they are."""
    return dict(scores)


SCALES: dict[str, Scale] = {
    "rrf": reciprocal_ranks,
    "minmax": min_max,
    "z": z_scores,
    "sum": unscaled,
}
"""How the scores of a query become comparable between runs, by name."""


def fused(
    runs: Sequence[Run], weights: Sequence[float] | None = None, *, method: str = "rrf"
) -> dict[str, dict[str, float]]:
    """Return the weighted sum of the scaled scores of several runs, for each query and document.

    A document that a run does not have gets nothing from it: 0 by reciprocal rank and for "sum", the lowest
    score of that run for "minmax" (which is 0) and "z".

    Args:
        runs: scores by query and document.
        weights: one for each run; all 1 by default.
        method: one of `SCALES`.

    Raises:
        InputError: there is no such method, or the weights are not one for each run.
    """
    if method not in SCALES:
        raise InputError(f"unknown fusion {quoted(method)}; choose one of {', '.join(SCALES)}")
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if len(weights) != len(runs):
        raise InputError(f"{len(weights)} weights for {len(runs)} runs; give one for each")
    result: dict[str, dict[str, float]] = {}
    for query_id in dict.fromkeys(name for run in runs for name in run):
        scaled = [SCALES[method](query_id, run[query_id]) if run.get(query_id) else {} for run in runs]
        totals = dict.fromkeys((doc_id for scores in scaled for doc_id in scores), 0.0)
        for scores, weight in zip(scaled, weights, strict=True):
            lowest = min(scores.values(), default=0.0) if method == "z" else 0.0
            for doc_id in totals:
                totals[doc_id] += weight * scores.get(doc_id, lowest)
        result[query_id] = totals
    return result
