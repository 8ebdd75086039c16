"""What a search returns, and the one total order that it is returned in.

Best first: float32 score, then doc_id descending, as trec_eval orders a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o1_records import Hit, InputError, quoted

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]
Excluded = Mapping[str, Set[str]]
"""For a query_id, the documents that never come back for it."""


@dataclasses.dataclass(frozen=True)
class Hits:
    """The hits of a batch of queries; iterate over it for records, best first, query by query.

    `rows` and `scores` are [queries, min(k, documents)]: rows of `doc_ids`; -1 and -inf behind the
    last hit.
    """

    query_ids: Sequence[str]
    doc_ids: NDArray[np.object_]
    rows: Rows
    scores: Scores

    def __iter__(self) -> Iterator[Hit]:
        for query_id, rows, scores in zip(self.query_ids, self.rows, self.scores, strict=True):
            found = rows >= 0
            pairs = zip(self.doc_ids[rows[found]], scores[found].tolist(), strict=True)
            for rank, (doc_id, score) in enumerate(pairs, start=1):
                yield Hit(query_id=query_id, doc_id=doc_id, score=score, rank=rank)

    def __len__(self) -> int:
        return int((self.rows >= 0).sum())

    def arrays(self) -> tuple[NDArray[np.object_], Scores]:
        """Ids (None behind the last hit) and scores (-inf there), shaped as `rows`."""
        ids = np.full(self.rows.shape, None, dtype=object)
        ids[self.rows >= 0] = self.doc_ids[self.rows[self.rows >= 0]]
        return ids, self.scores


@dataclasses.dataclass(frozen=True)
class Names:
    """The ids of an index: by row, by id, and their place in the order of ids."""

    ids: NDArray[np.object_]
    rows: Mapping[str, int]
    places: Rows

    def excluded_rows(self, query_id: str, excluded: Excluded | None) -> list[int]:
        """Rows of the documents that are excluded for a query; ids not in the index are none."""
        return [self.rows[name] for name in (excluded or {}).get(query_id, ()) if name in self.rows]


def names_of(ids: Sequence[str]) -> Names:
    """Index the ids. Raises InputError for one that stands twice or is no text."""
    rows = rows_of(ids)
    array: NDArray[Any] = np.empty(len(ids), dtype=object)
    array[:] = list(ids)
    places = np.empty(len(ids), dtype=np.int64)
    places[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return Names(array, rows, places)


def rows_of(ids: Sequence[str]) -> dict[str, int]:
    """The row of each id. Raises InputError for one that stands twice or is no text."""
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not isinstance(name, str) or not name:
            raise InputError(f"id {quoted(name)} in row {row} is not a text; give each vector a str")
        if name in rows:
            raise InputError(f"id {quoted(name)} stands twice (rows {rows[name]} and {row})")
        rows[name] = row
    return rows


def best(names: Names, rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """Order candidates [queries, any] (row -1: none) by the total order and keep the first k."""
    scores = np.where(rows >= 0, scores, np.float32(-np.inf))
    # most rows come strictly descending already; only the others pay for a sort
    mixed = np.flatnonzero(~(scores[:, :-1] > scores[:, 1:]).all(axis=1))
    if not len(mixed):
        return rows[:, :k], scores[:, :k]
    places = np.where(rows[mixed] >= 0, names.places[rows[mixed]], -1)
    order = np.lexsort((-places, -scores[mixed]), axis=-1)
    rows = rows.copy()
    rows[mixed] = np.take_along_axis(rows[mixed], order, axis=1)
    scores[mixed] = np.take_along_axis(scores[mixed], order, axis=1)
    return rows[:, :k], scores[:, :k]
