"""What a search returns, and the one total order that it is returned in.

Best first: float32 score, then doc_id descending, as trec_eval orders a run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence, Set

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


class Names:
    """The ids of an index: by row, by id, and their place in the order of ids.

    A removed document's row has no id (None) and is never a hit.
    """

    def __init__(self, ids: Sequence[str | None], *, known: bool = False) -> None:
        """Take the ids of rows 0, 1, ... `known` ids were checked before and may have gaps (None).

        Raises InputError for an id that stands twice or is no text, unless they are known.
        """
        self.ids: NDArray[np.object_] = np.empty(len(ids), dtype=object)
        self.ids[:] = list(ids)
        self.count = len(ids) - list(ids).count(None)
        if not known:
            self.rows = rows_of(ids)

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """The row of each id; made when it is first needed."""
        return {name: row for row, name in enumerate(self.ids.tolist()) if name is not None}

    @functools.cached_property
    def places(self) -> Rows:
        """The place of each row's id among the sorted ids; -1 for removed rows."""
        places = np.full(len(self.ids), -1, dtype=np.int64)
        places[[self.rows[name] for name in sorted(self.rows)]] = np.arange(len(self.rows))
        return places

    @property
    def removed(self) -> bool:
        """Whether any row has no id."""
        return self.count < len(self.ids)

    def extended(self, ids: Sequence[str]) -> Names:
        """With further rows at the end. Raises InputError for ids that are there already."""
        known = [name for name in ids if name in self.rows]
        if known:
            raise InputError(f"{len(known)} ids are in the index already: {quoted(known)}; use update")
        rows_of(ids)
        return Names([*self.ids.tolist(), *ids], known=True)

    def without(self, ids: Sequence[str]) -> Names:
        """With these rows emptied. Raises InputError for ids that are not there."""
        unknown = [name for name in ids if name not in self.rows]
        if unknown:
            raise InputError(f"{len(unknown)} ids are not in the index: {quoted(unknown)}")
        kept = self.ids.copy()
        kept[[self.rows[name] for name in ids]] = None
        return Names(kept.tolist(), known=True)

    def excluded_rows(self, query_id: str, excluded: Excluded | None) -> list[int]:
        """Rows of the documents that are excluded for a query; ids not in the index are none."""
        return [self.rows[name] for name in (excluded or {}).get(query_id, ()) if name in self.rows]

    def mask(self, only: Set[str] | None) -> NDArray[np.bool_]:
        """Which rows may be hits: those of `only` (None: all) that are not removed."""
        rows = self.rows.values() if only is None else [self.rows[n] for n in only if n in self.rows]
        mask = np.zeros(len(self.ids), dtype=np.bool_)
        mask[list(rows)] = True
        return mask


def rows_of(ids: Sequence[str | None]) -> dict[str, int]:
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
    missing = rows < 0
    if missing.any():
        scores = np.where(missing, np.float32(-np.inf), scores)
    # most rows come strictly descending already; only the others pay for a sort
    mixed = np.flatnonzero(~(scores[:, :-1] > scores[:, 1:]).all(axis=1))
    if not len(mixed):
        return rows[:, :k], scores[:, :k]
    places = np.where(rows[mixed] >= 0, names.places[rows[mixed]], -1)
    order = np.lexsort((-places, -scores[mixed]), axis=-1)
    rows, scores = rows.copy(), scores.copy()
    rows[mixed] = np.take_along_axis(rows[mixed], order, axis=1)
    scores[mixed] = np.take_along_axis(scores[mixed], order, axis=1)
    return rows[:, :k], scores[:, :k]
