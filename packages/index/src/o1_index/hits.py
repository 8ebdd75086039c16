"""What a search returns, the one total order of hits, and fetching until that order is settled.

Best first: float32 score, then doc_id descending, as trec_eval orders a run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from o1_index.documents import Rows
from o1_index.vectors import Vectors
from o1_records import Hit

Scores = NDArray[np.float32]


class Names(Protocol):
    """Ids by row, such as `Documents`."""

    def texts(self, rows: Rows) -> NDArray[np.object_]:
        """Return the ids of rows [any]."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Hits(Sequence[Hit]):
    """The hits of a batch of queries: a sequence of records, best first, query by query.

    `rows` and `scores` are [queries, min(k, documents)]: rows of `names`; -1 and -inf after the last hit.
    """

    query_ids: Sequence[str]
    names: Names
    rows: Rows
    scores: Scores

    def __iter__(self) -> Iterator[Hit]:
        for query_id, rows, scores in zip(self.query_ids, self.rows, self.scores, strict=True):
            found = rows >= 0
            pairs = zip(self.names.texts(rows[found]), scores[found].tolist(), strict=True)
            for rank, (doc_id, score) in enumerate(pairs, start=1):
                yield Hit(query_id=query_id, doc_id=doc_id, score=score, rank=rank)

    def __len__(self) -> int:
        return int((self.rows >= 0).sum())

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> list[Hit]: ...
    def __getitem__(self, place: int | slice) -> Hit | list[Hit]:
        return self._records[place]

    @functools.cached_property
    def _records(self) -> list[Hit]:
        return list(iter(self))

    def arrays(self) -> tuple[NDArray[np.object_], Scores]:
        """Return ids (None after the last hit) and scores (-inf there) [queries, k]; no score is copied."""
        ids: NDArray[np.object_] = np.full(self.rows.shape, None, dtype=object)
        ids[self.rows >= 0] = self.names.texts(self.rows[self.rows >= 0])
        return ids, self.scores


# --- the order ----------------------------------------------------------------------------------------


def best(names: Names, rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """Order candidates [queries, any] (row -1: none) by the total order and return the first k."""
    missing = rows < 0
    if missing.any():
        scores = np.where(missing, np.float32(-np.inf), scores)
    # most queries have strictly descending scores already; only the others pay for a sort
    mixed = np.flatnonzero(~(scores[:, :-1] > scores[:, 1:]).all(axis=1))
    if not len(mixed):
        return rows[:, :k], scores[:, :k]
    order = np.argsort(-scores[mixed], axis=1, kind="stable")
    some_rows, some_scores = _taken(rows[mixed], scores[mixed], order)
    order = np.lexsort((-_places_of_tied(names, some_rows, some_scores), -some_scores), axis=-1)
    rows, scores = rows.copy(), scores.copy()
    rows[mixed], scores[mixed] = _taken(some_rows, some_scores, order)
    return rows[:, :k], scores[:, :k]


def first_of(scores: Scores, rows: Rows, count: int) -> tuple[Scores, Rows]:
    """Return the `count` best of candidates [queries, any] by score alone, best first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _places_of_tied(names: Names, rows: Rows, scores: Scores) -> Rows:
    """Return, for rows that tie with a neighbour, their place in the order of ids; 0 for the others."""
    tied = np.zeros(rows.shape, dtype=np.bool_)
    equal = scores[:, 1:] == scores[:, :-1]
    tied[:, 1:] |= equal
    tied[:, :-1] |= equal
    tied &= rows >= 0
    places = np.zeros(rows.shape, dtype=np.int64)
    different, which = np.unique(rows[tied], return_inverse=True)
    place = np.empty(len(different), dtype=np.int64)
    place[np.argsort(names.texts(different))] = np.arange(len(different))
    places[tied] = place[which]
    return places


def _taken(rows: Rows, scores: Scores, order: NDArray[np.int64]) -> tuple[Rows, Scores]:
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


# --- fetching -----------------------------------------------------------------------------------------

Fetch = Callable[[Vectors, int], tuple[Scores, Rows]]
"""Returns scores and rows [queries, n] of the n best rows of each query, best first; row -1: no more."""

MOST_FOUND = 2**24
"""The most rows that are fetched at once (200 MB): a million documents may tie."""


class Leaving(Protocol):
    """What takes rows that are no hits out of what an engine found, such as `LeftOut`."""

    def empty(self, rows: Rows, queries: Sequence[int] | NDArray[np.int64]) -> None:
        """Set them to -1 in the rows [queries, any] that were found for these queries."""
        ...


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Rows that an engine may find and that are no hits: some for each query, and a mask for all queries."""

    banned: Sequence[Sequence[int]] = ()
    hidden: NDArray[np.bool_] | None = None

    def empty(self, rows: Rows, queries: Sequence[int] | NDArray[np.int64]) -> None:
        """Set them to -1 in the rows [queries, any] that were found for these queries."""
        if self.hidden is not None:
            rows[self.hidden[rows] & (rows >= 0)] = -1
        for place, query in enumerate(queries) if self.banned else ():
            if self.banned[query]:
                rows[place, np.isin(rows[place], self.banned[query])] = -1


def settled_hits(
    fetch: Fetch, vectors: Vectors, names: Names, left_out: Leaving, *, k: int, first: int, most: int
) -> tuple[Rows, Scores]:
    """Return the k best rows of each query, in the total order; -1 and -inf after the last.

    An engine cuts ties at will and may find rows that are left out. So it is asked for more than k, and for
    four times as many again, until the k-th place of every query is settled. `first` is how many rows to ask
    for at first, `most` how many there are.
    """
    rows = np.empty((len(vectors), k), dtype=np.int64)
    scores = np.empty((len(vectors), k), dtype=np.float32)
    pending, count = np.arange(len(vectors)), min(first, most)
    while len(pending) and k:
        unsettled = []
        size = max(1, MOST_FOUND // count)
        for start in range(0, len(pending), size):
            part = pending[start : start + size]
            all_of_them = len(part) == len(vectors)
            found_scores, found = fetch(vectors if all_of_them else vectors[part], count)
            ended = found[:, -1] < 0
            left_out.empty(found, part)
            if all_of_them and _is_ordered(found, found_scores, k):
                return found[:, :k], found_scores[:, :k]  # the usual case: no copy
            settled = ended | (count == most) | _is_settled(found, found_scores, k)
            done = part[settled]
            rows[done], scores[done] = best(names, found[settled], found_scores[settled], k)
            unsettled.append(part[~settled])
        pending, count = np.concatenate(unsettled), min(4 * count, most)
    return rows, scores


def _is_ordered(found: Rows, scores: Scores, k: int) -> bool:
    """Return whether more than k rows came back for every query, best first, and no two of them tie."""
    descending = scores[:, :-1] > scores[:, 1:]
    return found.shape[1] > k and bool(np.logical_and.reduce(descending, axis=None)) and found.min() >= 0


def _is_settled(found: Rows, scores: Scores, k: int) -> NDArray[np.bool_]:
    """Return whether k hits score above the last row fetched, so that none can be missing."""
    if found.shape[1] > k and found.min() >= 0:
        above: NDArray[np.bool_] = scores[:, -1] < scores[:, k - 1]
        return above
    allowed = (found >= 0).cumsum(axis=1)
    kth = (allowed >= k).argmax(axis=1)
    kth_score = scores[np.arange(len(found)), kth]
    settled: NDArray[np.bool_] = (allowed[:, -1] >= k) & (scores[:, -1] < kth_score)
    return settled
