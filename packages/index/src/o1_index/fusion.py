"""Queries that have several vectors: one ranking for each owner.

The maximum is fused from the hits of each vector and is exact. The mean of inner products is the
inner product with the mean vector, so it needs one search of the means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from o1_index.hits import Excluded, Hits, Rows, Scores, best
from o1_index.index import Index
from o1_index.vectors import Vectors, checked


def search_max(
    index: Index, vectors: Vectors, owners: Sequence[str], *, k: int, excluded: Excluded | None = None
) -> Hits:
    """The k best documents of each owner, by the best score that any of its vectors gives.

    `owners` names the owner of each row of `vectors`; owners come back in order of appearance.
    """
    names = [f"{owner}[{row}]" for row, owner in enumerate(owners)]
    pairs = zip(names, owners, strict=True)
    banned = {name: (excluded or {}).get(owner, set()) for name, owner in pairs}
    hits = index.search(vectors, names, k=k, excluded=banned)
    places = _places(owners)
    fused = [_fused(index, hits, rows) for rows in places.values()]
    rows = np.stack([each for each, _ in fused]) if fused else hits.rows
    scores = np.stack([each for _, each in fused]) if fused else hits.scores
    return Hits(list(places), hits.doc_ids, rows, scores)


def search_mean(
    index: Index, vectors: Vectors, owners: Sequence[str], *, k: int, excluded: Excluded | None = None
) -> Hits:
    """The k best documents of each owner, by the mean score that its vectors give.

    For the cosine the scores are those of the mean of unit vectors, made unit length again; the
    order is the same.
    """
    names = [f"{owner}[{row}]" for row, owner in enumerate(owners)]
    matrix = checked(names, vectors, index.settings.metric, "the queries", index.dim)
    places = _places(owners)
    means = np.zeros((len(places), index.dim), dtype=np.float32)
    for place, rows in enumerate(places.values()):
        means[place] = matrix[rows].mean(axis=0)
    return index.search(means, list(places), k=k, excluded=excluded)


def _fused(index: Index, hits: Hits, queries: list[int]) -> tuple[Rows, Scores]:
    rows, scores = hits.rows[queries].ravel(), hits.scores[queries].ravel()
    order = np.lexsort((-scores, rows))
    rows, scores = rows[order], scores[order]
    rows[1:][rows[1:] == rows[:-1]] = -1  # the first of equal rows has their best score
    fused_rows, fused_scores = best(index.names, rows[None], scores[None], hits.rows.shape[1])
    return fused_rows[0], fused_scores[0]


def _places(owners: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        places.setdefault(owner, []).append(row)
    return places
