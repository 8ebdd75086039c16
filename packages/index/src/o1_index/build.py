"""Making an index: of a matrix, of a folder of vectors shard by shard, of a saved one.

A long build leaves checkpoints, and a build that was interrupted goes on from the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from o1_index import store
from o1_index.auto import choose
from o1_index.checkpoint import Checkpoints
from o1_index.engine import add, new_engine, refusals, reserve, set_parameters
from o1_index.gpu import Placement, accelerate, count_gpus, gpus_of, to_cpu
from o1_index.hits import Names, listed
from o1_index.index import Index, Opened
from o1_index.settings import Metric, Settings
from o1_index.vectors import Matrix, Vectors, checked, checked_on_device, on_device, refuse_shape
from o1_records import InputError, sha256_file
from o1_records.vectors import Encoder, VectorSet

TRAINING_ROWS = 262_144
"""At most so many vectors, spread evenly over all, train a factory that needs training."""

_BATCH_ROWS = 16_384
_log = logging.getLogger("o1_index")

Batches = Callable[[], Iterable[tuple[Sequence[str], Vectors]]]


def build(
    vectors: Vectors,
    ids: Sequence[str],
    *,
    factory: str = "Flat",
    metric: Metric = "inner_product",
    encoder: Encoder | None = None,
    device: str = "cpu",
) -> Index:
    """Build an index of `vectors` [len(ids), dim]: an array, or a torch tensor (bfloat16 too).

    A tensor on the GPU that builds is added where it is. `factory` is FAISS's factory string, or
    "auto" (see `o1_index.auto`). Raises InputError for repeated ids, NaN, Inf and zero vectors (by id),
    another number of ids, a factory that FAISS does not know, that ranks by distance or that cannot be
    trained on so few vectors, a missing device.
    """
    ids = listed(ids)

    def batches() -> Iterator[tuple[Sequence[str], Vectors]]:
        for start in range(0, len(ids), _BATCH_ROWS):
            yield ids[start : start + _BATCH_ROWS], vectors[start : start + _BATCH_ROWS]

    refuse_shape(ids, vectors, "the documents")
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
    version, engine, ids, check = store.read_current(Path(folder), mmap=mmap)
    settings = version.manifest.settings
    set_parameters(engine, settings.parameters)
    opened = Opened(version, check if mmap else None, mapped=mmap)
    names = Names(ids, known=True)
    index = Index(engine, names, settings, made_from=version.manifest.made_from, opened=opened)
    return index if device == "cpu" else place(index, device)


def place(index: Index, device: str, *, shard: bool = False, half: bool = False) -> Index:
    """The index on a device (see `o1_index.gpu`); several GPUs hold a copy each, or a shard each.

    `half` keeps the copies in float16: half the memory, scores that are rounded. The CPU engine
    stays for what GPUs cannot do: more than 2,048 hits or ties a query, filters that leave out more
    than half, and saving. It is shared: go on with the placed index, not with both.
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


def _settings(factory: str, metric: Metric, encoder: Encoder | None, rows: int, dim: int) -> Settings:
    if factory != "auto":
        return Settings(factory=factory, metric=metric, encoder=encoder)
    choice = choose(rows, dim)
    _log.info("auto: %s %s: %s", choice.factory, choice.parameters, choice.reason)
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
    gpus = gpus_of(device, count_gpus())
    # several GPUs get their copies when one has built it
    accelerator = (
        accelerate(engine, Placement(f"cuda:{gpus[0]}" if device != "auto" else device)) if gpus else None
    )
    worker = accelerator.engine if accelerator else engine
    if len(names.ids) and not worker.is_trained:
        _train(worker, batches, len(names.ids), settings)
    reserve(worker, len(names.ids) - worker.ntotal)
    with tqdm(total=len(names.ids), initial=worker.ntotal, unit="vector", desc="index", disable=None) as bar:
        for number, (ids, vectors) in enumerate(islice(batches(), done, None), start=done + 1):
            check = checked_on_device if accelerator and on_device(vectors) else checked
            matrix = check(ids, vectors, settings.metric, "the documents", dim)
            add(worker, accelerator.reachable(matrix) if accelerator else matrix, "add")
            bar.update(len(ids))
            if checkpoints is not None:
                checkpoints.offer(lambda: to_cpu(worker) if accelerator else worker, number)
    engine = to_cpu(worker) if accelerator else worker
    if len(gpus) > 1:
        accelerator = accelerate(engine, Placement(device))
    index = Index(engine, names, settings, accelerator=accelerator)
    index.set_parameters(settings.parameters)
    return index


def _train(worker: Any, batches: Batches, rows: int, settings: Settings) -> None:
    sample = _training_sample(batches, rows, worker.d, settings)
    _log.info("training factory %s with %s vectors", settings.factory, f"{len(sample):,}")
    with refusals(f"training factory {settings.factory!r} with {len(sample)} vectors"):
        worker.train(sample)


def _training_sample(
    batches: Batches, rows: int, dim: int, settings: Settings, *, most: int = TRAINING_ROWS
) -> Matrix:
    """Every n-th vector, at most `most`, so that the sample is spread over all shards."""
    step = -(-rows // most)
    sample: Matrix = np.empty((-(-rows // step), dim), dtype=np.float32)
    picked = seen = 0
    for ids, vectors in batches():
        rows_here = slice(-seen % step, None, step)
        seen += len(ids)
        part = checked(ids[rows_here], vectors[rows_here], settings.metric, "the documents", dim)
        sample[picked : picked + len(part)] = part
        picked += len(part)
    return sample
