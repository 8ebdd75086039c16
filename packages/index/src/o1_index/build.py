"""Making an index: of a matrix, of a folder of vectors shard by shard, of a saved one.

A long build leaves checkpoints, and a build that was interrupted goes on from the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from o1_index import store
from o1_index.auto import choose
from o1_index.checkpoint import Checkpoints
from o1_index.engine import new_engine, refusals, reserve, set_parameters
from o1_index.gpu import accelerate, to_cpu
from o1_index.hits import Names
from o1_index.index import Index, Opened
from o1_index.settings import Metric, Settings
from o1_index.vectors import Matrix, checked
from o1_records import InputError, sha256_file
from o1_records.vectors import Encoder, VectorSet

TRAINING_ROWS = 262_144
"""At most so many vectors, spread evenly over all, train a factory that needs training."""

_BATCH_ROWS = 65_536

Batches = Callable[[], Iterable[tuple[Sequence[str], NDArray[Any]]]]


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

    `factory` is FAISS's factory string, or "auto" (see `o1_index.auto`). Raises InputError for
    repeated ids, NaN, Inf and zero vectors (by id), another number of ids, a factory that FAISS does
    not know or cannot train on so few vectors, a missing device.
    """

    def batches() -> Iterator[tuple[Sequence[str], NDArray[Any]]]:
        for start in range(0, len(ids), _BATCH_ROWS):
            yield ids[start : start + _BATCH_ROWS], vectors[start : start + _BATCH_ROWS]

    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise InputError(f"the documents: {len(ids)} ids for vectors of shape {vectors.shape}")
    settings = _settings(factory, metric, encoder, len(ids), vectors.shape[1])
    return _build(batches, Names(ids), vectors.shape[1], settings, device, None)


def build_from(
    vectors: VectorSet,
    *,
    factory: str = "Flat",
    metric: Metric = "inner_product",
    device: str = "cpu",
    checkpoints: str | Path | None = None,
) -> Index:
    """Build an index of a folder of vectors, shard by shard, with the encoder that made them.

    Memory holds the index and one shard. With a folder for `checkpoints` an interrupted build of
    the same vectors and settings goes on where it was; remove the folder when the index is saved.
    Raises InputError as `build` does and for a folder without vectors.
    """
    if not len(vectors):
        raise InputError(f"{vectors.folder}: holds no vectors")
    manifest = vectors.manifest
    settings = _settings(factory, metric, manifest.encoder, len(vectors), manifest.dim)
    made_from = fingerprint(vectors)
    saved = None if checkpoints is None else Checkpoints(Path(checkpoints), settings, made_from)
    index = _build(vectors.shards, Names(vectors.ids()), manifest.dim, settings, device, saved)
    index.made_from = made_from
    return index


def fingerprint(vectors: VectorSet) -> str:
    """The digest of a folder of vectors: its manifest holds the digests of all its files."""
    return sha256_file(vectors.folder / "manifest.json")


def open_index(folder: str | Path, *, mmap: bool = False, device: str = "cpu") -> Index:
    """Open the current version of a saved index; no answer comes from bytes that were not checked.

    `mmap` leaves the vectors on the disk, opens at once and checks before the first search. Raises
    InputError for any changed, cut or foreign file.
    """
    version = store.open_version(Path(folder))
    engine, ids, check = store.read(version, mmap=mmap)
    settings = version.manifest.settings
    set_parameters(engine, settings.parameters)
    opened = Opened(version, check if mmap else None, mapped=mmap)
    names = Names(ids, known=True)
    index = Index(engine, names, settings, made_from=version.manifest.made_from, opened=opened)
    return index if device == "cpu" else place(index, device)


def place(index: Index, device: str, *, shard: bool = False) -> Index:
    """The index on a device (see `o1_index.gpu`); several GPUs hold a copy each, or a shard each.

    The CPU engine stays for what GPUs cannot do: more than 2,048 hits or ties a query, filters, and
    saving.
    """
    index.check()
    return Index(
        index.engine,
        index.names,
        index.settings,
        made_from=index.made_from,
        accelerator=accelerate(index.engine, device, shard=shard),
        opened=index.opened,
    )


def _settings(factory: str, metric: Metric, encoder: Encoder | None, rows: int, dim: int) -> Settings:
    if factory != "auto":
        return Settings(factory=factory, metric=metric, encoder=encoder)
    choice = choose(rows, dim)
    return Settings(factory=choice.factory, parameters=choice.parameters, metric=metric, encoder=encoder)


def _build(
    batches: Batches,
    names: Names,
    dim: int,
    settings: Settings,
    device: str,
    checkpoints: Checkpoints | None,
) -> Index:
    found = checkpoints.load() if checkpoints else None
    engine, done = found or (new_engine(dim, settings), 0)
    accelerator = accelerate(engine, device)
    worker = accelerator.engine if accelerator else engine
    if len(names.ids) and not worker.is_trained:
        sample = _training_sample(batches, len(names.ids), dim, settings)
        with refusals(f"training factory {settings.factory!r} with {len(sample)} vectors"):
            worker.train(sample)
    reserve(worker, len(names.ids) - worker.ntotal)
    with tqdm(total=len(names.ids), initial=worker.ntotal, unit="vector", desc="index", disable=None) as bar:
        for number, (ids, vectors) in enumerate(islice(batches(), done, None), start=done + 1):
            worker.add(checked(ids, vectors, settings.metric, "the documents", dim))
            bar.update(len(ids))
            if checkpoints is not None:
                checkpoints.offer(lambda: to_cpu(worker) if accelerator else worker, number)
    engine = to_cpu(worker) if accelerator else worker
    set_parameters(engine, settings.parameters)
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
