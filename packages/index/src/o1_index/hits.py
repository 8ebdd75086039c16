"""What a search returns, and the one total order that it is returned in.

Best first: float32 score, then doc_id descending, as trec_eval orders a run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from o1_records import Hit, InputError, quoted

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]
Excluded = Mapping[str, Set[str]]
"""For a query_id, the documents that never come back for it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Hits(Sequence[Hit]):
    """The hits of a batch of queries: a sequence of records, best first, query by query.

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
        """Ids (None behind the last hit) and scores (-inf there), shaped as `rows`; no score is copied."""
        ids: NDArray[np.object_] = self.doc_ids[self.rows]
        ids[self.rows < 0] = None
        return ids, self.scores


class Names:
    """The ids of an index, by row and by id. It never changes; changes are new ones.

    A removed document's row has no id (None) and is never a hit.
    """

    def __init__(self, ids: Sequence[str | None], *, known: bool = False) -> None:
        """Take the ids of rows 0, 1, ... `known` ids were checked before and may have gaps (None).

        Raises InputError for an id that stands twice or is no text, unless they are known.
        """
        every = listed(ids)
        self.ids = _objects(every)
        self.count = len(every) - every.count(None)
        if not known:
            self.rows = rows_of(every)

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """The row of each id; made when it is first needed."""
        return {name: row for row, name in enumerate(self.ids.tolist()) if name is not None}

    @functools.cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows have an id."""
        return np.fromiter((name is not None for name in self.ids), np.bool_, len(self.ids))

    @property
    def removed(self) -> bool:
        """Whether any row has no id."""
        return self.count < len(self.ids)

    def extended(self, ids: Sequence[str]) -> Names:
        """With further rows at the end. Raises InputError for ids that are there already."""
        new = rows_of(ids)
        known = [name for name in new if name in self.rows]
        if known:
            raise InputError(f"{len(known)} ids are in the index already: {quoted(known)}; use update")
        rows = dict(self.rows)
        rows.update((name, row + len(self.ids)) for name, row in new.items())
        return self._changed(np.concatenate([self.ids, _objects(list(new))]), rows)

    def without(self, ids: Sequence[str]) -> Names:
        """With these rows emptied. Raises InputError for ids that are not there."""
        gone = set(refuse_text(ids, "ids"))
        unknown = [name for name in gone if name not in self.rows]
        if unknown:
            raise InputError(f"{len(unknown)} ids are not in the index: {quoted(unknown)}")
        kept, rows = self.ids.copy(), dict(self.rows)
        kept[[rows.pop(name) for name in gone]] = None
        return self._changed(kept, rows)

    def excluded_rows(self, query_id: str, excluded: Excluded | None) -> list[int]:
        """Rows of the documents that are excluded for a query; ids not in the index are none."""
        if not excluded:
            return []
        names = refuse_text(excluded.get(query_id, ()), "excluded documents")
        return [self.rows[name] for name in names if name in self.rows]

    def mask(self, only: Set[str] | None) -> NDArray[np.bool_]:
        """Which rows may be hits: those of `only` (None: all) that are not removed."""
        if only is None:
            return self.alive
        mask = np.zeros(len(self.ids), dtype=np.bool_)
        mask[[self.rows[name] for name in refuse_text(only, "only") if name in self.rows]] = True
        return mask

    @staticmethod
    def _changed(ids: NDArray[np.object_], rows: dict[str, int]) -> Names:
        names = Names((), known=True)
        names.ids, names.rows, names.count = ids, rows, len(rows)
        return names


def listed(ids: Iterable[Any]) -> list[Any]:
    """Ids as Python's own texts, also where they come as an array."""
    return ids.tolist() if isinstance(ids, np.ndarray) else list(refuse_text(ids, "ids"))


def refuse_text(ids: Iterable[str], what: str) -> Iterable[str]:
    """Raise InputError for one text where several ids belong: it would be read letter by letter."""
    if isinstance(ids, str):
        raise InputError(f"{what}: {quoted(ids)} is one text; give a set or list of ids")
    return ids


def rows_of(ids: Sequence[str | None]) -> dict[str, int]:
    """The row of each id. Raises InputError for one that stands twice or is no text."""
    rows: dict[str, int] = {}
    for row, name in enumerate(listed(ids)):
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
    order = np.argsort(-scores[mixed], axis=1, kind="stable")
    some_rows, some_scores = _taken(rows[mixed], scores[mixed], order)
    order = np.lexsort((-_places_of_tied(names.ids, some_rows, some_scores), -some_scores), axis=-1)
    rows, scores = rows.copy(), scores.copy()
    rows[mixed], scores[mixed] = _taken(some_rows, some_scores, order)
    return rows[:, :k], scores[:, :k]


def _places_of_tied(ids: NDArray[np.object_], rows: Rows, scores: Scores) -> Rows:
    """The place in the order of ids of every row whose neighbour has its score, 0 for the others."""
    tied = np.zeros(rows.shape, dtype=np.bool_)
    equal = scores[:, 1:] == scores[:, :-1]
    tied[:, 1:] |= equal
    tied[:, :-1] |= equal
    tied &= rows >= 0
    places = np.zeros(rows.shape, dtype=np.int64)
    different, which = np.unique(rows[tied], return_inverse=True)
    place = np.empty(len(different), dtype=np.int64)
    place[np.argsort(ids[different])] = np.arange(len(different))
    places[tied] = place[which]
    return places


def _taken(rows: Rows, scores: Scores, order: NDArray[np.int64]) -> tuple[Rows, Scores]:
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _objects(ids: Sequence[str | None]) -> NDArray[np.object_]:
    array: NDArray[np.object_] = np.empty(len(ids), dtype=object)
    array[:] = ids
    return array
