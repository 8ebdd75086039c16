"""What a vector database has to do here, and several indexes that do it as one."""

from __future__ import annotations

import operator
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index.documents import Excluded, Payload, Rows, Where, listed
from o1_index.hits import Hits, best
from o1_index.index import Fetched, Index, open_index
from o1_index.store.manifest import Settings
from o1_index.vectors import Vectors, checked
from o1_records import InputError, quoted


class Searchable(Protocol):
    """Vectors under ids, searched by inner product, cosine or distance."""

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        ...

    @property
    def settings(self) -> Settings:
        """The metric, and what encoded the vectors."""
        ...

    def search(
        self,
        query_vectors: Vectors,
        query_ids: Sequence[str],
        *,
        k: int,
        excluded: Excluded | None = None,
        only: Set[str] | None = None,
        where: Where | None = None,
    ) -> Hits:
        """Return the k best documents of each query, best first; ties go to the larger doc_id.

        `excluded`, `only` and `where` leave documents out before the k best are chosen, not after.
        """
        ...

    def count(self) -> int:
        """Return how many documents can be found."""
        ...

    def info(self) -> dict[str, Any]:
        """Return what there is to know about the store, as JSON would hold it."""
        ...


class VectorStore(Searchable, Protocol):
    """Vectors with payloads under ids, searched and changed.

    Implemented by `Index`, `Shards` and `o1_index.databases.database.DatabaseStore`. What every one has to do
    is tested by `tests/index/test_index_conformance.py`.
    """

    def upsert(self, vectors: Vectors, ids: Sequence[str], payloads: Sequence[Payload] | None = None) -> None:
        """Replace the documents that are there, with their payloads, and add the others.

        What is refused is refused before anything changes.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Remove those of the documents that are there; return how many these were."""
        ...

    def fetch(self, ids: Sequence[str]) -> Fetched:
        """Return those of the documents that are there, in the order asked for."""
        ...


def refuse_unlike(shards: Sequence[tuple[int, Settings]]) -> None:
    """Raise InputError for shards, as dimensions and settings, that cannot be searched as one."""
    (dim, mine), *others = shards
    for number, (width, other) in enumerate(others, start=2):
        if (dim, mine.metric) != (width, other.metric):
            raise InputError(
                f"shard 1 has {dim} dimensions and the metric {mine.metric}, shard {number} "
                f"{width} and {other.metric}; shards are searched with the same vectors"
            )
        mine.refuse_other_documents(other.encoder)


def about_store(store: Searchable) -> dict[str, Any]:
    """Return what every store says of itself in `info`."""
    return {
        "documents": store.count(),
        "dim": store.dim,
        "metric": store.settings.metric,
        "encoder": msgspec.to_builtins(store.settings.encoder),
    }


def in_order(names: Sequence[str], parts: Sequence[Fetched], dim: int) -> Fetched:
    """Return what several stores fetched as one, in the order of `names`, which are all different."""
    place = {name: row for row, name in enumerate(names)}
    found = [name for part in parts for name in part.ids]
    order = sorted(range(len(found)), key=lambda row: place[found[row]])
    vectors = np.concatenate([np.zeros((0, dim), dtype=np.float32), *(part.vectors for part in parts)])
    payloads = [payload for part in parts for payload in part.payloads]
    return Fetched([found[row] for row in order], vectors[order], [payloads[row] for row in order])


class Shards:
    """Several indexes, each of a part of a collection, as one: hits are merged in the one total order.

    Exact where the indexes are. A new document goes to the index with the fewest; a known one stays where it
    is. Two shards hold no document in common.
    """

    def __init__(self, indexes: Sequence[Index]) -> None:
        """Take the shards.

        Raises InputError for none, for shards of different dimension, metric or encoder, and for a document
        that is in two of them.
        """
        if not indexes:
            raise InputError("give at least one index")
        self.indexes = list(indexes)
        refuse_unlike([(index.dim, index.settings) for index in indexes])
        self._refuse_shared()

    @property
    def settings(self) -> Settings:
        """The settings of the first shard: the metric and the encoder are those of all."""
        return self.indexes[0].settings

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self.indexes[0].dim

    def check(self) -> None:
        """Read files that are mapped and were not checked yet; see `Index.check`."""
        for index in self.indexes:
            index.check()

    def count(self) -> int:
        """Return how many documents can be found."""
        return sum(index.count() for index in self.indexes)

    def info(self) -> dict[str, Any]:
        """Return what there is to know about the shards."""
        return {**about_store(self), "shards": [index.info() for index in self.indexes]}

    def search(
        self,
        query_vectors: Vectors,
        query_ids: Sequence[str],
        *,
        k: int,
        excluded: Excluded | None = None,
        only: Set[str] | None = None,
        where: Where | None = None,
    ) -> Hits:
        """Return the k best documents of each query in all shards; see `Index.search`."""
        k = operator.index(k)
        filters: dict[str, Any] = {"excluded": excluded, "only": only, "where": where}
        found = [index.search(query_vectors, query_ids, k=k, **filters) for index in self.indexes]
        names = _Joined([hits.names for hits in found])
        rows = np.concatenate(
            [
                np.where(hits.rows >= 0, hits.rows * len(found) + number, -1)
                for number, hits in enumerate(found)
            ],
            axis=1,
        )
        scores = np.concatenate([hits.scores for hits in found], axis=1)
        return Hits(found[0].query_ids, names, *best(names, rows, scores, k))

    def upsert(self, vectors: Vectors, ids: Sequence[str], payloads: Sequence[Payload] | None = None) -> None:
        """Replace the documents that are there and add the others; all of them or none."""
        names = listed(ids)
        # everything that a shard would refuse is refused before the first one changes
        matrix = checked(names, vectors, self.settings.metric, "the documents", self.dim)
        self.indexes[0].documents.refuse_new(names, payloads)
        home = np.full(len(names), min(range(len(self.indexes)), key=lambda n: self.indexes[n].count()))
        for number, index in enumerate(self.indexes):
            home[index.documents.rows(names) >= 0] = number
        for number, index in enumerate(self.indexes):
            mine = np.flatnonzero(home == number).tolist()
            if mine:
                stored = None if payloads is None else [payloads[row] for row in mine]
                index.upsert(matrix[mine], [names[row] for row in mine], stored)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove those of the documents that are there; return how many these were."""
        return sum(index.delete(ids) for index in self.indexes)

    def fetch(self, ids: Sequence[str]) -> Fetched:
        """Return those of the documents that are there, in the order asked for."""
        names = listed(ids)
        return in_order(names, [index.fetch(names) for index in self.indexes], self.dim)

    def _refuse_shared(self) -> None:
        for number, index in enumerate(self.indexes):
            for later, other in enumerate(self.indexes[number + 1 :], start=number + 2):
                shared = index.documents.shared_with(other.documents)
                if shared:
                    raise InputError(
                        f"{len(shared)} documents are in shard {number + 1} and in shard {later}: "
                        f"{quoted(shared[:10])}; a document belongs to one"
                    )


class _Joined:
    """The ids of several indexes: row r of index n, of N, is row r * N + n."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def texts(self, rows: Rows) -> NDArray[np.object_]:
        rows = np.asarray(rows, dtype=np.int64)
        names: NDArray[np.object_] = np.empty(len(rows), dtype=object)
        for number, part in enumerate(self.parts):
            mine = rows % len(self.parts) == number
            names[mine] = part.texts(rows[mine] // len(self.parts))
        return names

    def payload(self, row: int) -> dict[str, Any]:
        found: dict[str, Any] = self.parts[row % len(self.parts)].payload(row // len(self.parts))
        return found


def open_shards(folders: Sequence[str | Path], *, mmap: bool = False, device: str = "cpu") -> Index | Shards:
    """Open an index, or several as one."""
    indexes = [open_index(folder, mmap=mmap, device=device) for folder in folders]
    return indexes[0] if len(indexes) == 1 else Shards(indexes)
