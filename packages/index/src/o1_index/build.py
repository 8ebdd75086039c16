"""Making an index: of a matrix, or of a folder of vectors, shard by shard and with checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from o1_index.engine import add, new_engine, refusals, reserve, set_parameters
from o1_index.gpu import Placement, accelerate, count_gpus, gpus_of, to_cpu
from o1_index.hits import Names, listed
from o1_index.index import Index, Opened, open_index
from o1_index.store.checkpoint import Checkpoints
from o1_index.store.manifest import Settings, fingerprint, origin
from o1_index.store.versions import CHECKPOINT, LOCK, Draft, alone, open_version
from o1_index.tuning import RECALL, choose_factory
from o1_index.vectors import Matrix, Metric, Vectors, checked, checked_on_device, on_device, refuse_shape
from o1_records import InputError
from o1_records.kit.job import ChangedJobError, move_aside, refuse_changed
from o1_records.vectors import Encoder, VectorSet

TRAINING_ROWS = 262_144
"""The most vectors, spread evenly over all, that train a factory which needs training."""

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
    """Build an index of a matrix.

    Args:
        vectors: [len(ids), dim], a numpy array or a torch tensor (bfloat16 too). A tensor on the GPU that
            builds is added without a way through the host.
        ids: one id for each row.
        factory: FAISS's index_factory string, or "auto" (see `o1_index.tuning.choose_factory`).
        metric: "inner_product" or "cosine".
        encoder: what made the vectors; queries of another encoder are refused later.
        device: where to build (see `o1_index.gpu`).

    Raises:
        InputError: ids are repeated or not as many as vectors; vectors are NaN, Inf or zero (by id); FAISS
            does not know the factory, ranks by distance with it or cannot train it on so few vectors; the
            device is missing.
    """
    ids = listed(ids)

    def batches() -> Iterator[tuple[Sequence[str], Vectors]]:
        for start in range(0, len(ids), _BATCH_ROWS):
            yield ids[start : start + _BATCH_ROWS], vectors[start : start + _BATCH_ROWS]

    refuse_shape(ids, vectors, "the documents")
    dim = vectors.shape[1]
    asked = Settings(factory=factory, metric=metric, encoder=encoder)
    settings = _chosen(asked, len(ids), dim) if factory == "auto" else asked
    return _build(batches, Names(ids), dim, settings, device)


def build_from(
    vectors: VectorSet,
    *,
    factory: str = "Flat",
    parameters: str = "",
    metric: Metric = "inner_product",
    recall: float | None = None,
    memory: int | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    new_job: bool = False,
) -> Index:
    """Build an index of a folder of vectors, shard by shard; memory holds the index and one shard.

    With `out` the index is published there, and an interrupted build continues from its last checkpoint
    when it is started again. Where `out` is this very index already it is opened, with `mmap`. An index, or
    an interrupted build, of other vectors or with other settings is refused; with `new_job` it is moved
    aside, to `NAME.old1`. Nothing is deleted.

    Args:
        vectors: the document vectors.
        factory: FAISS's index_factory string, or "auto".
        parameters: FAISS's search parameters, such as "nprobe=16".
        metric: "inner_product" or "cosine".
        recall: for "auto", the share of the exact hits to aim at; 1 means exact.
        memory: for "auto", bytes that the index may take; by default half of this machine's memory.
        device: where to build (see `o1_index.gpu`).
        out: the folder of the index.
        new_job: move earlier work with other settings aside.

    Raises:
        InputError: as for `build`; the folder holds no vectors; somebody else is building `out`.
        ChangedJobError: earlier work under this name was made from something else; the message names what.
    """
    if not len(vectors):
        raise InputError(f"{vectors.folder}: holds no vectors")
    if new_job and out is None:
        raise InputError("new_job moves earlier work of `out` aside; give `out`")
    manifest, made_from = vectors.manifest, fingerprint(vectors)
    settings = Settings(factory=factory, parameters=parameters, metric=metric, encoder=manifest.encoder)
    if factory == "auto":
        settings = _chosen(settings, len(vectors), manifest.dim, recall=recall, memory=memory)
    elif recall is not None or memory is not None:
        raise InputError(f"recall and memory are for the factory 'auto', not for {factory!r}; leave them out")

    def built(found: tuple[Any, int] | None = None, checkpoints: Checkpoints | None = None) -> Index:
        names = Names(vectors.ids())
        index = _build(vectors.shards, names, manifest.dim, settings, device, found, checkpoints)
        index.made_from = made_from
        return index

    if out is None:
        return built()
    out = Path(out)
    if out.exists() and _is_published(out, made_from, settings, parameters, new_job):
        _log.info("%s: up to date", out)
        return open_index(out, mmap=True, device=device)
    with Draft(out) as draft:
        checkpoints = Checkpoints(draft.folder / CHECKPOINT, settings, made_from)
        try:
            found = checkpoints.load()
        except ChangedJobError:
            if not new_job:
                raise
            found, moved = None, draft.move_aside()
            _log.info("%s: moved aside, to %s", draft.folder, moved)
        index = built(found, checkpoints)
        index.opened = Opened(draft.publish(index.content()))
    _log.info("%s: %s vectors of %s dimensions", out, len(index), index.dim)
    return index


def _chosen(
    asked: Settings, rows: int, dim: int, *, recall: float | None = None, memory: int | None = None
) -> Settings:
    """Return the settings that were asked for, with the factory that "auto" chooses."""
    choice = choose_factory(rows, dim, recall=RECALL if recall is None else recall, memory=memory)
    parameters = asked.parameters or choice.parameters
    _log.info("auto: %s %s: %s", choice.factory, parameters, choice.reason)
    return msgspec.structs.replace(asked, factory=choice.factory, parameters=parameters)


def _is_published(out: Path, made_from: str, settings: Settings, parameters: str, new_job: bool) -> bool:
    """Return whether `out` is this index. Another one is refused, or moved aside."""
    wanted = origin(made_from, settings)
    if parameters:  # tuning may have set others, which is no reason to refuse unless these were asked for
        wanted["parameters"] = parameters
    try:
        try:
            manifest = open_version(out).manifest
        except (InputError, FileNotFoundError, NotADirectoryError) as error:
            raise ChangedJobError(
                f"{out}: exists, and no index can be opened there ({error}); choose another name, or give "
                "--new-job to move it aside"
            ) from error
        found = origin(manifest.made_from, manifest.settings)
        if parameters:
            found["parameters"] = manifest.settings.parameters
        refuse_changed(out, found, wanted)
        return True
    except ChangedJobError:
        if not new_job:
            raise
    with alone(out) as lock:  # nobody may be publishing a version there
        [moved] = move_aside(out)
        lock.path = moved / LOCK
    _log.info("%s: moved aside, to %s", out, moved)
    return False


def _build(
    batches: Batches,
    names: Names,
    dim: int,
    settings: Settings,
    device: str,
    found: tuple[Any, int] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Index:
    """Fill an engine batch by batch; `found` is one with the first so many batches."""
    engine, done = found or (new_engine(dim, settings.factory), 0)
    set_parameters(engine, settings.parameters)  # those that it does not have are refused now, not at the end
    gpus = gpus_of(device, count_gpus())
    # several GPUs get their copies when one has built it
    accelerator = (
        accelerate(engine, Placement(f"cuda:{gpus[0]}" if device != "auto" else device)) if gpus else None
    )
    worker = accelerator.engine if accelerator else engine
    rows = len(names.ids)
    if rows and not worker.is_trained:
        sample = _training_sample(batches, rows, dim, settings.metric)
        _log.info("training factory %s with %s vectors", settings.factory, f"{len(sample):,}")
        with refusals(f"training factory {settings.factory!r} with {len(sample)} vectors"):
            worker.train(sample)
    reserve(worker, rows - worker.ntotal)
    with tqdm(total=rows, initial=worker.ntotal, unit="vector", desc="index", disable=None) as bar:
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


def _training_sample(
    batches: Batches, rows: int, dim: int, metric: Metric, *, most: int = TRAINING_ROWS
) -> Matrix:
    """Return every n-th vector, at most `most`, so that the sample is spread over all shards."""
    step = -(-rows // most)
    sample: Matrix = np.empty((-(-rows // step), dim), dtype=np.float32)
    picked = seen = 0
    for ids, vectors in batches():
        rows_here = slice(-seen % step, None, step)
        seen += len(ids)
        part = checked(ids[rows_here], vectors[rows_here], metric, "the documents", dim)
        sample[picked : picked + len(part)] = part
        picked += len(part)
    return sample
