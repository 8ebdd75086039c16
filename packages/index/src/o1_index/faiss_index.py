"""An index on FAISS with the ids, the order and the refusals that FAISS does not have.

With `Flat` the hits are exact. With an approximate factory FAISS decides which documents are
found; what it found comes back in the total order, and ties are resolved among what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index import store
from o1_index.engine import new_engine, refusals, set_parameters
from o1_index.gpu import Accelerator, accelerate, to_cpu
from o1_index.hits import Excluded, Hits, Names, Rows, Scores, best, names_of, rows_of
from o1_index.settings import Metric, Settings
from o1_index.vectors import Matrix, checked
from o1_records import InputError, sha256_file
from o1_records.vectors import Encoder, VectorSet

TRAINING_ROWS = 262_144
"""At most so many vectors, spread evenly over all, train a factory that needs training."""

_BATCH_ROWS = 65_536

Batches = Callable[[], Iterable[tuple[Sequence[str], NDArray[Any]]]]


class Index:
    """A searchable index. Made by `build`, `build_from`, `open_index` and `place`.

    `engine` is the FAISS index in host memory; it answers what an `accelerator` cannot.
    """

    def __init__(
        self,
        engine: Any,
        names: Names,
        settings: Settings,
        *,
        made_from: str = "",
        accelerator: Accelerator | None = None,
    ) -> None:
        self.engine = engine
        self.names = names
        self.settings = settings
        self.made_from = made_from
        self.accelerator = accelerator

    def __len__(self) -> int:
        return len(self.names.ids)

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.engine.d)

    def search(
        self,
        query_vectors: NDArray[Any],
        query_ids: Sequence[str],
        *,
        k: int,
        excluded: Excluded | None = None,
    ) -> Hits:
        """The k best documents of each query, in the total order; fewer where there are fewer.

        `query_vectors` is [len(query_ids), dim]. Where documents tie across the k-th place all of
        them are fetched, so that the order alone decides who comes back. `excluded` documents of a
        query are fetched past.

        Raises InputError for k below 1, a repeated query_id, another dimension, and NaN, Inf and
        zero vectors, by query_id.
        """
        if k < 1:
            raise InputError(f"k is {k}; ask for 1 document or more")
        rows_of(query_ids)  # refuses what cannot name a query
        metric = self.settings.metric
        vectors = checked(query_ids, query_vectors, metric, "the queries", self.dim)
        banned = [self.names.excluded_rows(query_id, excluded) for query_id in query_ids]
        rows, scores = self._search(vectors, banned, min(k, len(self)))
        return Hits(query_ids, self.names.ids, rows, scores)

    def set_parameters(self, parameters: str) -> None:
        """Set FAISS's search parameters ("nprobe=16"); they are saved with the index.

        Raises InputError for a parameter that the factory does not have.
        """
        set_parameters(self.engine, parameters)
        if self.accelerator is not None:
            set_parameters(self.accelerator.engine, parameters)
        self.settings = msgspec.structs.replace(self.settings, parameters=parameters)

    def save(self, folder: str | Path) -> None:
        """Publish the index under a name that is free. See `o1_index.store`."""
        store.write(Path(folder), self.engine, self.names.ids.tolist(), self.settings, self.made_from)

    def _search(self, vectors: Matrix, banned: list[list[int]], k: int) -> tuple[Rows, Scores]:
        """Fetch further for those queries whose k-th place is not settled yet."""
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        pending = np.arange(len(vectors))
        fetch = k + 1 + max(map(len, banned), default=0)
        while len(pending) and k:
            fetch = min(fetch, len(self))
            found_scores, found = self._fetch(vectors[pending], fetch)
            exhausted = (found[:, -1] < 0) | (fetch == len(self))
            for place, query in enumerate(pending):
                if banned[query]:
                    found[place, np.isin(found[place], banned[query])] = -1
            settled = exhausted | _is_settled(found, found_scores, k)
            done = pending[settled]
            rows[done], scores[done] = best(self.names, found[settled], found_scores[settled], k)
            pending = pending[~settled]
            fetch *= 4
        return rows, scores

    def _fetch(self, vectors: Matrix, fetch: int) -> tuple[Scores, Rows]:
        engine = self.engine
        if self.accelerator is not None and fetch <= self.accelerator.most:
            engine = self.accelerator.engine
        scores, rows = engine.search(vectors, fetch)
        return scores, rows


def build(
    vectors: NDArray[Any],
    ids: Sequence[str],
    *,
    factory: str = "Flat",
    metric: Metric = "inner_product",
    encoder: Encoder | None = None,
    device: str = "cpu",
) -> Index:
    """Build an index of `vectors` [len(ids), dim] of float16, float32 or float64.

    Raises InputError for repeated ids, NaN, Inf and zero vectors (by id), another number of ids,
    a factory that FAISS does not know or cannot train on so few vectors, a missing device.
    """

    def batches() -> Iterator[tuple[Sequence[str], NDArray[Any]]]:
        for start in range(0, len(ids), _BATCH_ROWS):
            yield ids[start : start + _BATCH_ROWS], vectors[start : start + _BATCH_ROWS]

    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise InputError(f"the documents: {len(ids)} ids for vectors of shape {vectors.shape}")
    settings = Settings(factory=factory, metric=metric, encoder=encoder)
    return _build(batches, names_of(ids), vectors.shape[1], settings, device)


def build_from(
    vectors: VectorSet,
    *,
    factory: str = "Flat",
    metric: Metric = "inner_product",
    device: str = "cpu",
) -> Index:
    """Build an index of a folder of vectors, shard by shard, with the encoder that made them.

    Raises InputError as `build` does and for a folder without vectors.
    """
    if not len(vectors):
        raise InputError(f"{vectors.folder}: holds no vectors")
    settings = Settings(factory=factory, metric=metric, encoder=vectors.manifest.encoder)
    names, dim = names_of(vectors.ids()), vectors.manifest.dim
    index = _build(vectors.shards, names, dim, settings, device)
    index.made_from = fingerprint(vectors)
    return index


def fingerprint(vectors: VectorSet) -> str:
    """The digest of a folder of vectors: its manifest holds the digests of all its files."""
    return sha256_file(vectors.folder / "manifest.json")


def open_index(folder: str | Path, *, mmap: bool = False, device: str = "cpu") -> Index:
    """Open a saved index after checking every byte. `mmap` leaves the vectors on the disk.

    Raises InputError for any changed, cut or foreign file.
    """
    engine, ids, manifest = store.read(Path(folder), mmap=mmap)
    set_parameters(engine, manifest.settings.parameters)
    index = Index(engine, names_of(ids), manifest.settings, made_from=manifest.made_from)
    return place(index, device)


def place(index: Index, device: str, *, shard: bool = False) -> Index:
    """The index on a device (see `o1_index.gpu`); several GPUs hold a copy each, or a shard each.

    The CPU engine stays for what GPUs cannot do: more than 2,048 hits or ties a query, and saving.
    """
    accelerator = accelerate(index.engine, device, shard=shard)
    return Index(
        index.engine,
        index.names,
        index.settings,
        made_from=index.made_from,
        accelerator=accelerator,
    )


def _build(batches: Batches, names: Names, dim: int, settings: Settings, device: str) -> Index:
    engine = new_engine(dim, settings)
    accelerator = accelerate(engine, device)
    worker = accelerator.engine if accelerator else engine
    if len(names.ids) and not worker.is_trained:
        sample = _training_sample(batches, len(names.ids), dim, settings)
        with refusals(f"training factory {settings.factory!r} with {len(sample)} vectors"):
            worker.train(sample)
    for ids, vectors in batches():
        worker.add(checked(ids, vectors, settings.metric, "the documents", dim))
    if accelerator:
        engine = to_cpu(worker)
    return Index(engine, names, settings, accelerator=accelerator)


def _training_sample(
    batches: Batches, rows: int, dim: int, settings: Settings, *, most: int = TRAINING_ROWS
) -> Matrix:
    """Every n-th vector, at most `most`, so that the sample is spread over all shards."""
    step = -(-rows // most)
    picked, seen = [], 0
    for ids, vectors in batches():
        rows_here = slice(-seen % step, None, step)
        seen += len(ids)
        names, sample = ids[rows_here], vectors[rows_here]
        picked.append(checked(names, sample, settings.metric, "the documents", dim))
    return np.concatenate(picked)


def _is_settled(found: Rows, scores: Scores, k: int) -> NDArray[np.bool_]:
    """Whether k allowed documents score above the last one fetched, so that none can be missing."""
    allowed = (found >= 0).cumsum(axis=1)
    kth = (allowed >= k).argmax(axis=1)
    kth_score = scores[np.arange(len(found)), kth]
    settled: NDArray[np.bool_] = (allowed[:, -1] >= k) & (scores[:, -1] < kth_score)
    return settled
