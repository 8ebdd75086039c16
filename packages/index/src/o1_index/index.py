"""An index on FAISS with the ids, the order and the refusals that FAISS does not have.

With `Flat` the hits are exact. With an approximate factory FAISS decides which documents are
found; what it found comes back in the total order, and ties are resolved among what it found.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index import store
from o1_index.engine import add, refusals, search, selecting, set_parameters
from o1_index.fetch import LeftOut, settled_hits
from o1_index.gpu import Accelerator
from o1_index.hits import Excluded, Hits, Names, Rows, Scores, best, listed, rows_of
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

    `engine` is the FAISS index in host memory; it answers what an `accelerator` cannot. An `opened`
    index that is mapped is checked before it answers: all of it once, and again after a change.
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
        names = list(rows_of(query_ids))
        vectors = self._queries(query_vectors, names)
        banned = [self.names.excluded_rows(name, excluded) for name in names] if excluded else []
        allowed = self._allowed(only)
        count = len(self.names.ids) if allowed is None else int(allowed.sum())
        k, first = min(k, count), k + 1 + max(map(len, banned), default=0)
        parameters = None
        if allowed is not None and 2 * count < len(allowed):
            parameters = selecting(self.engine, allowed)
        if allowed is None or parameters is not None:
            left_out, most = LeftOut(banned), count
        else:  # few rows are left out, or the engine cannot: they are found and taken out again
            left_out, most = LeftOut(banned, ~allowed), len(allowed)
            first = first * len(allowed) // max(count, 1)
        fetch = functools.partial(self._fetch, parameters)
        rows, scores = settled_hits(fetch, vectors, self.names, left_out, k=k, first=first, most=most)
        return Hits(names, self.names.ids, rows, scores)

    def range_search(
        self, query_vectors: Vectors, query_ids: Sequence[str], *, above: float, only: Set[str] | None = None
    ) -> Hits:
        """All documents of each query that score more than `above`, in the total order.

        Raises InputError as `search` does, and for a factory whose engine has no range search.
        """
        names = list(rows_of(query_ids))
        vectors = as_numpy(self._queries(query_vectors, names))
        # torch_utils, where a user has imported it, keeps FAISS's own method under the other name
        range_search = getattr(self.engine, "range_search_numpy", self.engine.range_search)
        with refusals(f"range search with factory {self.settings.factory!r}"):
            limits, found_scores, found = range_search(vectors, above)
        counts = np.diff(limits.astype(np.int64))
        place = np.arange(int(counts.max(initial=0))) < counts[:, None]
        rows = np.full(place.shape, -1, dtype=np.int64)
        scores = np.full(place.shape, -np.inf, dtype=np.float32)
        rows[place], scores[place] = found, found_scores
        allowed = self._allowed(only)
        LeftOut(hidden=None if allowed is None else ~allowed).empty(rows, ())
        most = int((rows >= 0).sum(axis=1).max(initial=0))
        return Hits(names, self.names.ids, *best(self.names, rows, scores, most))

    def add(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Add documents. Raises InputError for ids that are there, and bad vectors, before any is added."""
        self._add(vectors, ids, self.names)

    def remove(self, ids: Sequence[str]) -> None:
        """Take documents out. They are never found again; their room is free after the next build.

        Raises InputError for ids that are not there.
        """
        self.names = self.names.without(ids)
        self.made_from = ""

    def update(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Replace documents. Raises InputError for ids that are not there; then nothing changes."""
        self._add(vectors, ids, self.names.without(ids))

    def upsert(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Replace the documents that are there and add the others; all of them or none."""
        names = rows_of(ids)
        self._add(vectors, ids, self.names.without([name for name in names if name in self.names.rows]))

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
        # what is mapped is mapped from the version that was opened
        self.opened = replace(self.opened, version=version) if self.opened else Opened(version)

    def check(self) -> None:
        """Check now what is still to be checked of the file; a search does so too."""
        if self.opened is not None and self.opened.check is not None:
            self.opened.check()

    def _add(self, vectors: Vectors, ids: Sequence[str], names: Names) -> None:
        names = names.extended(ids)
        matrix = checked(listed(ids), vectors, self.settings.metric, "the documents", self.dim)
        if self.opened is not None and self.opened.mapped:
            raise InputError("the index is mapped from the disk; open it without mmap to change it")
        self._refuse_foreign_rows()
        add(self.engine, matrix, "add")
        self.names, self.made_from = names, ""

    def _queries(self, vectors: Vectors, query_ids: Sequence[str]) -> Vectors:
        self.check()
        self._refuse_foreign_rows()
        check = checked_on_device if self.accelerator is not None and on_device(vectors) else checked
        return check(query_ids, vectors, self.settings.metric, "the queries", self.dim)

    def _refuse_foreign_rows(self) -> None:
        """`place` makes two indexes of one engine; rows of the one have no ids in the other."""
        if self.engine.ntotal != len(self.names.ids):
            raise InputError(
                f"the engine holds {self.engine.ntotal} vectors, this index {len(self.names.ids)}: another "
                "index that shares the engine was changed; use that one"
            )

    def _allowed(self, only: Set[str] | None) -> NDArray[np.bool_] | None:
        return self.names.mask(only) if only is not None or self.names.removed else None

    def _fetch(self, parameters: Any, vectors: Vectors, count: int) -> tuple[Scores, Rows]:
        if self.accelerator is not None and count <= self.accelerator.most and parameters is None:
            self.accelerator = self.accelerator.of(self.engine)
            return self.accelerator.search(vectors, count)
        return search(self.engine, as_numpy(vectors), count, parameters)
