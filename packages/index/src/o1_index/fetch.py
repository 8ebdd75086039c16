"""Fetching from an engine until the k-th place of every query is settled.

An engine cuts ties at will, and may return documents that are left out. So one document more than
k is fetched, and four times as many for the queries that are not settled yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from o1_index.hits import Names, Rows, Scores, best
from o1_index.vectors import Vectors

Fetch = Callable[[Vectors, int], tuple[Scores, Rows]]
"""Scores and rows [queries, n] of the n best rows of each query, best first; row -1: no more."""

MOST_FOUND = 2**24
"""At most so many rows are fetched at once (200 MB): a million documents may tie."""


@dataclass(frozen=True)
class LeftOut:
    """What `fetch` may return and nobody wants: rows for each query, and a mask of rows for all."""

    banned: Sequence[Sequence[int]] = ()
    hidden: NDArray[np.bool_] | None = None

    def empty(self, rows: Rows, queries: Sequence[int] | NDArray[np.int64]) -> None:
        """Take them out of what was found for these queries."""
        if self.hidden is not None:
            rows[self.hidden[rows] & (rows >= 0)] = -1
        for place, query in enumerate(queries) if self.banned else ():
            if self.banned[query]:
                rows[place, np.isin(rows[place], self.banned[query])] = -1


def settled_hits(
    fetch: Fetch, vectors: Vectors, names: Names, left_out: LeftOut, *, k: int, first: int, most: int
) -> tuple[Rows, Scores]:
    """The k best rows of each query, in the total order; -1 and -inf behind the last.

    `first` rows are fetched at first, and `most` are all that there are.
    """
    rows = np.full((len(vectors), k), -1, dtype=np.int64)
    scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    pending, count = np.arange(len(vectors)), min(first, most)
    while len(pending) and k:
        unsettled = []
        for part in _parts(pending, max(1, MOST_FOUND // count)):
            all_of_them = len(part) == len(vectors)
            found_scores, found = fetch(vectors if all_of_them else vectors[part], count)
            settled = (found[:, -1] < 0) | (count == most)
            left_out.empty(found, part)
            settled |= _is_settled(found, found_scores, k)
            if all_of_them and settled.all():
                return best(names, found, found_scores, k)  # the usual case: no copy
            done = part[settled]
            rows[done], scores[done] = best(names, found[settled], found_scores[settled], k)
            unsettled.append(part[~settled])
        pending, count = np.concatenate(unsettled), min(4 * count, most)
    return rows, scores


def _parts(queries: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def _is_settled(found: Rows, scores: Scores, k: int) -> NDArray[np.bool_]:
    """Whether k allowed documents score above the last one fetched, so that none can be missing."""
    if found.shape[1] > k and found.min() >= 0:
        above: NDArray[np.bool_] = scores[:, -1] < scores[:, k - 1]
        return above
    allowed = (found >= 0).cumsum(axis=1)
    kth = (allowed >= k).argmax(axis=1)
    kth_score = scores[np.arange(len(found)), kth]
    settled: NDArray[np.bool_] = (allowed[:, -1] >= k) & (scores[:, -1] < kth_score)
    return settled
