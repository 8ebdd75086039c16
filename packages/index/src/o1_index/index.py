"""An index on FAISS with the ids, the order and the refusals that FAISS does not have.

With `Flat` the hits are exact. With an approximate factory FAISS decides which documents are
found; what it found comes back in the total order, and ties are resolved among what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index import store
from o1_index.engine import refusals, selecting, set_parameters
from o1_index.gpu import Accelerator
from o1_index.hits import Excluded, Hits, Names, Rows, Scores, best, rows_of
from o1_index.settings import Settings
from o1_index.vectors import Vectors, as_numpy, checked, checked_on_device, on_device
from o1_records import InputError


@dataclass(frozen=True)
class Opened:
    """Where an index comes from: the version on the disk, and what is still to be checked of it."""

    version: store.Version
    check: Callable[[], None] | None = None
    mapped: bool = False


class Index:
    """A searchable index. Made by `build`, `build_from`, `open_index` and `place`.

    `engine` is the FAISS index in host memory; it answers what an `accelerator` cannot. What is not
    checked yet of an `opened` index is checked before its first answer.
    """

    def __init__(
        self,
        engine: Any,
        names: Names,
        settings: Settings,
        *,
        made_from: str = "",
        accelerator: Accelerator | None = None,
        opened: Opened | None = None,
    ) -> None:
        self.engine = engine
        self.names = names
        self.settings = settings
        self.made_from = made_from
        self.accelerator = accelerator
        self.opened = opened

    def __len__(self) -> int:
        return self.count()

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.engine.d)

    def search(
        self,
        query_vectors: Vectors,
        query_ids: Sequence[str],
        *,
        k: int,
        excluded: Excluded | None = None,
        only: Set[str] | None = None,
    ) -> Hits:
        """The k best documents of each query, in the total order; fewer where there are fewer.

        `query_vectors` is [len(query_ids), dim], a numpy array or a torch tensor. Where documents tie
        across the k-th place all of them are fetched, so that the order alone decides who comes
        back. `excluded` documents of a query are fetched past; `only` leaves the others out for all
        queries.

        Raises InputError for k below 1, a repeated query_id, another dimension, and NaN, Inf and
        zero vectors, by query_id.
        """
        if k < 1:
            raise InputError(f"k is {k}; ask for 1 document or more")
        vectors = self._queries(query_vectors, query_ids)
        allowed = self.names.mask(only) if only is not None or self.names.removed else None
        count = len(self.names.ids) if allowed is None else int(allowed.sum())
        banned = [self.names.excluded_rows(query_id, excluded) for query_id in query_ids]
        rows, scores = self._search(vectors, banned, min(k, count), allowed, count)
        return Hits(query_ids, self.names.ids, rows, scores)

    def range_search(
        self, query_vectors: Vectors, query_ids: Sequence[str], *, above: float, only: Set[str] | None = None
    ) -> Hits:
        """All documents of each query that score more than `above`, in the total order.

        Raises InputError as `search` does, and for a factory whose engine has no range search.
        """
        vectors = self._queries(query_vectors, query_ids)
        allowed = self.names.mask(only) if only is not None or self.names.removed else None
        parameters = None if allowed is None else selecting(self.engine, allowed)
        with refusals(f"range search with factory {self.settings.factory!r}"):
            limits, found_scores, found = self.engine.range_search(
                as_numpy(vectors), above, params=parameters
            )
        counts = np.diff(limits.astype(np.int64))
        place = np.arange(int(counts.max(initial=0))) < counts[:, None]
        rows = np.full(place.shape, -1, dtype=np.int64)
        scores = np.full(place.shape, -np.inf, dtype=np.float32)
        rows[place], scores[place] = found, found_scores
        return Hits(query_ids, self.names.ids, *best(self.names, rows, scores, place.shape[1]))

    def add(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Add documents. Raises InputError for ids that are there, and bad vectors, before any is added."""
        names = self.names.extended(ids)
        matrix = checked(ids, vectors, self.settings.metric, "the documents", self.dim)
        self._refuse_mapped()
        with refusals("add"):
            self.engine.add(matrix)
            if self.accelerator is not None:
                self.accelerator.engine.add(matrix)
        self.names = names

    def remove(self, ids: Sequence[str]) -> None:
        """Take documents out. They are never found again; their room is free after the next build.

        Raises InputError for ids that are not there.
        """
        self.names = self.names.without(ids)

    def update(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Replace documents. Raises InputError for ids that are not there; then nothing changes."""
        self.names.without(ids)
        self.upsert(vectors, ids)

    def upsert(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Replace the documents that are there and add the others; all of them or none."""
        before = self.names
        self.names = before.without([name for name in ids if name in before.rows])
        try:
            self.add(vectors, ids)
        except InputError:
            self.names = before
            raise

    def count(self) -> int:
        """How many documents can be found."""
        return self.names.count

    def set_parameters(self, parameters: str) -> None:
        """Set FAISS's search parameters ("nprobe=16"); they are saved with the index.

        Raises InputError for a parameter that the factory does not have.
        """
        set_parameters(self.engine, parameters)
        if self.accelerator is not None:
            set_parameters(self.accelerator.engine, parameters)
        self.settings = msgspec.structs.replace(self.settings, parameters=parameters)

    def save(self, folder: str | Path, *, extras: Mapping[str, bytes] | None = None) -> None:
        """Publish the index: under a free name, or as the next version of the one it was opened from.

        Raises InputError when somebody else published a version since. See `o1_index.store`.
        """
        self.check()
        folder = Path(folder)
        after = self.opened.version if self.opened else None
        if after is not None and after.folder.parent.resolve() != folder.resolve():
            after = None
        version = store.write(
            folder,
            self.engine,
            self.names.ids.tolist(),
            self.settings,
            made_from=self.made_from,
            after=after,
            extras=extras,
        )
        self.opened = Opened(version, mapped=self.opened is not None and self.opened.mapped)

    def _queries(self, vectors: Vectors, query_ids: Sequence[str]) -> Vectors:
        rows_of(query_ids)  # refuses what cannot name a query
        self.check()
        check = checked_on_device if self.accelerator is not None and on_device(vectors) else checked
        return check(query_ids, vectors, self.settings.metric, "the queries", self.dim)

    def check(self) -> None:
        """Check now what is still to be checked of the file; a search does so too."""
        if self.opened is not None and self.opened.check is not None:
            self.opened.check()
            self.opened = Opened(self.opened.version, mapped=self.opened.mapped)

    def _refuse_mapped(self) -> None:
        if self.opened is not None and self.opened.mapped:
            raise InputError("the index is mapped from the disk; open it without mmap to change it")

    def _search(
        self,
        vectors: Vectors,
        banned: list[list[int]],
        k: int,
        allowed: NDArray[np.bool_] | None,
        count: int,
    ) -> tuple[Rows, Scores]:
        """Fetch further for those queries whose k-th place is not settled yet."""
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        parameters = None if allowed is None else selecting(self.engine, allowed)
        pending = np.arange(len(vectors))
        fetch = k + 1 + max(map(len, banned), default=0)
        while len(pending) and k:
            fetch = min(fetch, count)
            found_scores, found = self._fetch(vectors[pending], fetch, parameters)
            settled = (found[:, -1] < 0) | (fetch == count)
            _empty(found, [banned[query] for query in pending])
            settled |= _is_settled(found, found_scores, k)
            if settled.all() and len(pending) == len(vectors):
                return best(self.names, found, found_scores, k)  # the usual case: no copy
            done = pending[settled]
            rows[done], scores[done] = best(self.names, found[settled], found_scores[settled], k)
            pending = pending[~settled]
            fetch *= 4
        return rows, scores

    def _fetch(self, vectors: Vectors, fetch: int, parameters: Any) -> tuple[Scores, Rows]:
        if self.accelerator is not None and fetch <= self.accelerator.most and parameters is None:
            return self.accelerator.search(vectors, fetch)
        scores, rows = self.engine.search(as_numpy(vectors), fetch, params=parameters)
        return scores, rows


def _empty(found: Rows, banned: Sequence[list[int]]) -> None:
    """Take the banned rows of each query out of what was found for it."""
    for place, rows in enumerate(banned):
        if rows:
            found[place, np.isin(found[place], rows)] = -1


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
