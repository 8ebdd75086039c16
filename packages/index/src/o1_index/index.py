"""An index on FAISS with the ids, the order and the refusals that FAISS does not have.

With `Flat` the hits are exact. With an approximate factory FAISS decides which documents are found; what it
found comes back in the total order, and ties are resolved among what it found.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index.engine import add, refusals, search, selecting, set_parameters
from o1_index.gpu import Accelerator, Placement, accelerate
from o1_index.hits import Excluded, Hits, LeftOut, Names, Rows, Scores, best, listed, rows_of, settled_hits
from o1_index.store import versions
from o1_index.store.manifest import Settings
from o1_index.store.versions import Content, Version
from o1_index.vectors import Metric, Vectors, as_numpy, checked, checked_on_device, on_device
from o1_records import InputError
from o1_records.vectors import VectorSet


@dataclass(frozen=True)
class Opened:
    """Where an index comes from: the version on disk, and what is still to be checked of it."""

    version: Version
    check: Callable[[], None] | None = None
    mapped: bool = False


class Index:
    """A searchable index. Made by `build`, `build_from`, `open_index` and `place`.

    `engine` is the FAISS index in host memory; it answers what an `accelerator` cannot. An `opened` index
    that is mapped is checked before it answers: all of it once, and again after somebody wrote to its file.
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

    def count(self) -> int:
        """Return how many documents can be found."""
        return self.names.count

    # --- searching ------------------------------------------------------------------------------------

    def search(
        self,
        query_vectors: Vectors,
        query_ids: Sequence[str],
        *,
        k: int,
        excluded: Excluded | None = None,
        only: Set[str] | None = None,
    ) -> Hits:
        """Return the k best documents of each query, in the total order; fewer where there are fewer.

        Where documents tie across the k-th place all of them are fetched, so that the order alone decides
        which come back.

        Args:
            query_vectors: [len(query_ids), dim], a numpy array or a torch tensor.
            query_ids: one id for each row.
            k: hits a query, 1 or more.
            excluded: for a query_id, documents that are not returned for it.
            only: the documents to search; all others are left out, for all queries.

        Raises:
            InputError: k is below 1, a query_id is repeated, the dimension is another, or vectors are NaN,
                Inf or zero (by query_id).
        """
        k = operator.index(k)
        if k < 1:
            raise InputError(f"k must be 1 or more, got {k}")
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
        else:  # few rows are left out, or the engine cannot do it: they are found and taken out again
            left_out, most = LeftOut(banned, ~allowed), len(allowed)
            first = first * len(allowed) // max(count, 1)
        fetch = functools.partial(self._fetch, parameters)
        rows, scores = settled_hits(fetch, vectors, self.names, left_out, k=k, first=first, most=most)
        return Hits(names, self.names.ids, rows, scores)

    def range_search(
        self, query_vectors: Vectors, query_ids: Sequence[str], *, above: float, only: Set[str] | None = None
    ) -> Hits:
        """Return all documents of each query that score more than `above`, in the total order.

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

    def set_parameters(self, parameters: str) -> None:
        """Set FAISS's search parameters ("nprobe=16"); they are saved with the index.

        Raises InputError for a parameter that the factory does not have.
        """
        set_parameters(self.engine, parameters)
        if self.accelerator is not None:
            set_parameters(self.accelerator.engine, parameters)
        self.settings = msgspec.structs.replace(self.settings, parameters=parameters)

    def _queries(self, vectors: Vectors, query_ids: Sequence[str]) -> Vectors:
        self.check()
        self._refuse_foreign_rows()
        check = checked_on_device if self.accelerator is not None and on_device(vectors) else checked
        return check(query_ids, vectors, self.settings.metric, "the queries", self.dim)

    def _allowed(self, only: Set[str] | None) -> NDArray[np.bool_] | None:
        return self.names.mask(only) if only is not None or self.names.removed else None

    def _fetch(self, parameters: Any, vectors: Vectors, count: int) -> tuple[Scores, Rows]:
        if self.accelerator is not None and count <= self.accelerator.most and parameters is None:
            self.accelerator = self.accelerator.of(self.engine)
            return self.accelerator.search(vectors, count)
        return search(self.engine, as_numpy(vectors), count, parameters)

    # --- changing -------------------------------------------------------------------------------------

    def add(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Add documents, `vectors` [len(ids), dim]; all of them or none.

        Raises InputError for ids that are in the index already, and for bad vectors (by id).
        """
        self._add(vectors, ids, self.names)

    def add_from(self, vectors: VectorSet, *, upsert: bool = False) -> None:
        """Add the documents of a folder of vectors, or with `upsert` replace those that are there.

        Raises InputError as `add` does, and for query vectors and those of another encoder. Where a later
        shard is refused, the shards before it have been added: open the index again.
        """
        if not len(vectors):
            raise InputError(f"{vectors.folder}: holds no vectors")
        self.settings.refuse_other_documents(vectors.manifest.encoder)
        for ids, matrix in vectors.shards():
            (self.upsert if upsert else self.add)(matrix, ids)

    def remove(self, ids: Sequence[str]) -> None:
        """Remove documents. They are never found again; their room is free after the next build.

        Raises InputError for ids that are not in the index; then nothing changes.
        """
        self.names = self.names.without(ids)
        self.made_from = ""

    def update(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Replace documents. Raises InputError for ids that are not in the index; then nothing changes."""
        self._add(vectors, ids, self.names.without(ids))

    def upsert(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Replace the documents that are there and add the others; all of them or none."""
        names = rows_of(ids)
        self._add(vectors, ids, self.names.without([name for name in names if name in self.names.rows]))

    def save(
        self, folder: str | Path, *, extras: Mapping[str, bytes] | None = None, prune: bool = False
    ) -> None:
        """Publish the index: under a free name, or as the next version of the folder it was opened from.

        Args:
            folder: the folder of the index.
            extras: further files of the version, by name.
            prune: delete the older versions afterwards.

        Raises:
            InputError: the name is taken, somebody else is at work there, or has published a version since
                this index was opened.
        """
        self.check()
        folder = Path(folder)
        content = self.content(extras)
        after = self.opened.version if self.opened else None
        if after is not None and after.folder.parent.resolve() == folder.resolve():
            version = versions.write_next(folder, after, content)
        else:
            with versions.Draft(folder) as draft:
                draft.refuse_checkpoint()
                version = draft.publish(content)
        # what is mapped is mapped from the version that was opened
        self.opened = replace(self.opened, version=version) if self.opened else Opened(version)
        if prune:
            versions.prune(folder)

    def content(self, extras: Mapping[str, bytes] | None = None) -> Content:
        """Return what a version on disk is made of."""
        return Content(self.engine, self.names.ids.tolist(), self.settings, self.made_from, extras or {})

    def check(self) -> None:
        """Check now what is still to be checked of the file; a search does so too."""
        if self.opened is not None and self.opened.check is not None:
            self.opened.check()

    def _add(self, vectors: Vectors, ids: Sequence[str], names: Names) -> None:
        names = names.extended(ids)
        matrix = checked(listed(ids), vectors, self.settings.metric, "the documents", self.dim)
        if self.opened is not None and self.opened.mapped:
            raise InputError("the index is mapped from disk; open it without mmap to change it")
        self._refuse_foreign_rows()
        add(self.engine, matrix, "add")
        self.names, self.made_from = names, ""

    def _refuse_foreign_rows(self) -> None:
        """Refuse an engine that was changed through another index: `place` makes two of one engine."""
        if self.engine.ntotal != len(self.names.ids):
            raise InputError(
                f"the engine holds {self.engine.ntotal} vectors, this index {len(self.names.ids)} ids: "
                "another index that shares the engine was changed; use that one"
            )


def open_index(folder: str | Path, *, mmap: bool = False, device: str = "cpu") -> Index:
    """Open the current version of a saved index; no answer comes from bytes that were not checked.

    With `mmap` the vectors stay on disk: the index opens at once and is checked before its first answer.

    Raises InputError for any file that was changed, cut or put there by somebody else.
    """
    version, engine, ids, check = versions.read_current(Path(folder), mmap=mmap)
    settings = version.manifest.settings
    set_parameters(engine, settings.parameters)
    opened = Opened(version, check if mmap else None, mapped=mmap)
    names = Names(ids, known=True)
    index = Index(engine, names, settings, made_from=version.manifest.made_from, opened=opened)
    return index if device == "cpu" else place(index, device)


def place(index: Index, device: str, *, shard: bool = False, half: bool = False) -> Index:
    """Return the index on a device (see `o1_index.gpu`); several GPUs hold a copy each, or a part each.

    `half` stores the copies in float16: half the memory, and scores that are rounded. The CPU engine stays
    for what GPUs cannot do: more than 2,048 hits or ties a query, filters that leave out more than half of
    the documents, and saving. Both indexes share it: go on with the placed one only.
    """
    index.check()
    return Index(
        index.engine,
        index.names,
        index.settings,
        made_from=index.made_from,
        accelerator=accelerate(index.engine, Placement(device, shard=shard, half=half)),
        opened=index.opened,
    )


def exact_search(
    documents: tuple[Sequence[str], NDArray[Any]],
    queries: tuple[Sequence[str], NDArray[Any]],
    *,
    k: int,
    metric: Metric = "inner_product",
    excluded: Excluded | None = None,
) -> Hits:
    """Return the k best documents of each query, computed in numpy: slow, and what the tests compare with.

    Both sides are (ids, vectors [ids, dim]). Scores are float32; ties go to the larger doc_id; fewer than k
    come back where there are fewer.

    Raises InputError for duplicate doc_ids, and for bad vectors (by id).
    """
    doc_ids, vectors = documents
    query_ids, query_vectors = queries
    names = Names(doc_ids)
    right = checked(doc_ids, vectors, metric, "the documents", vectors.shape[-1])
    left = checked(query_ids, query_vectors, metric, "the queries", vectors.shape[-1])
    scores = left @ right.T
    rows = np.tile(np.arange(len(doc_ids)), (len(query_ids), 1))
    for place, query_id in enumerate(query_ids):
        rows[place, names.excluded_rows(query_id, excluded)] = -1
    return Hits(query_ids, names.ids, *best(names, rows, scores, k))
