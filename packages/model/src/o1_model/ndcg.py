"""nDCG@10 as trec_eval computes it: linear gains, of a ranking, or of many rows of scores at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEPTH = 10


def ndcg(found: Sequence[str], judged: Mapping[str, int]) -> float:
    """Return the normalised gain of the documents found, best first, to DEPTH.

    0 for a query without a relevant document. Unjudged documents, and those judged below 0, gain nothing.
    """
    best = ideal(judged.values())
    return _gain(judged.get(doc_id, 0) for doc_id in found[:DEPTH]) / best if best > 0 else 0.0


def ideal(relevances: Iterable[int]) -> float:
    """Return the gain of the best ranking to DEPTH, of all judged documents, in the corpus or not."""
    return _gain(sorted(relevances, reverse=True)[:DEPTH])


def ndcg_rows(
    scores: NDArray[np.floating[Any]], relevant: Sequence[Mapping[int, int]], best: Sequence[float]
) -> NDArray[np.float64]:
    """Return nDCG@10 of each row of scores [queries, documents]; equal scores go to the earlier column.

    With the documents in descending order of doc_id that is the one total order of hits.

    Args:
        scores: of every document for each query.
        relevant: for each query the columns of relevant documents, and their relevance, above 0.
        best: the `ideal` of each query, above 0.
    """
    values = np.zeros(len(scores))
    for row, (own, worst, relevances) in enumerate(zip(scores, _worst(scores), relevant, strict=True)):
        found = 0.0
        for column, relevance in relevances.items():
            if own[column] >= worst:
                place = int((own > own[column]).sum()) + int((own[:column] == own[column]).sum())
                found += relevance / math.log2(place + 2) if place < DEPTH else 0.0
        values[row] = found / best[row]
    return values


def first_rows(scores: NDArray[np.floating[Any]]) -> list[list[int]]:
    """Return the columns of the first DEPTH documents of each row of scores, in the order of `ndcg_rows`.

    Those whose score is minus infinity are not found.
    """
    found = []
    for own, worst in zip(scores, _worst(scores), strict=True):
        columns = np.flatnonzero((own >= worst) & (own > -np.inf))
        found.append(columns[np.argsort(-own[columns], kind="stable")][:DEPTH].tolist())
    return found


def _worst(scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return of each row the score of place DEPTH, or of the last place: below it nothing is found."""
    depth = min(DEPTH, scores.shape[1])
    worst: NDArray[np.floating[Any]] = -np.partition(-scores, depth - 1, axis=1)[:, depth - 1]
    return worst


def _gain(relevances: Iterable[int]) -> float:
    return sum(max(value, 0) / math.log2(place + 1) for place, value in enumerate(relevances, start=1))
