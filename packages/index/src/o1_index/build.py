"""Making an index: of a matrix, or of a folder or file of vectors, shard by shard and with checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from o1_index import engine as faiss_engine
from o1_index.auto import POINTS, choose
from o1_index.documents import Documents, Payload, listed, read_payloads
from o1_index.engine import new_engine, set_parameters
from o1_index.gpu import Placement, accelerate, cagra, count_gpus, gpus_of, refuse_no_cagra, to_cpu
from o1_index.index import Index, open_index
from o1_index.store.checkpoint import Checkpoints
from o1_index.store.manifest import EASIER, Settings, origin
from o1_index.store.versions import CHECKPOINT, LOCK, Draft, alone, open_version
from o1_index.tuning import QUERIES, RECALL, K, exact_hits, refuse_no_recall, sample_of, tune
from o1_index.vectors import (
    Layout,
    Matrix,
    Metric,
    Part,
    Vectors,
    VectorSource,
    as_numpy,
    checked,
    checked_on_device,
    fingerprint,
    largest_norm,
    on_device,
    refuse_shape,
    spread,
)
from o1_records import InputError, sha256_file
from o1_records.kit.job import ChangedJobError, move_aside, refuse_changed
from o1_records.vectors import Encoder

TRAINING_ROWS = 262_144
"""The most vectors, spread evenly over all, that train a factory, unless its lists need more."""

_BATCH_ROWS = 16_384
_log = logging.getLogger("o1_index")

Batches = Callable[[int], Iterable[tuple[Sequence[str], Vectors]]]
"""Returns ids and vectors in batches, from the n-th on."""


@dataclass(frozen=True)
class Tune:
    """How the search parameters of an approximate factory are chosen, where they are not given.

    Queries are real ones, where there are any, else documents. `recall` is the share of the exact `k` hits.
    """

    k: int = K
    recall: float = RECALL
    query_ids: Sequence[str] = ()
    queries: Vectors = None


def build(
    vectors: Vectors,
    ids: Sequence[str],
    *,
    factory: str = "Flat",
    parameters: str = "",
    metric: Metric = "inner_product",
    encoder: Encoder | None = None,
    device: str = "cpu",
    k: int = K,
    recall: float = RECALL,
    payloads: Sequence[Payload] | None = None,
) -> Index:
    """Build an index of a matrix.

    Args:
        vectors: [len(ids), dim], a numpy array or a torch tensor (bfloat16 too). A tensor on the GPU that
            builds is added without a way through the host.
        ids: one id for each row.
        factory: FAISS's index_factory string, "auto" (see `o1_index.auto.choose`), or "CAGRA64", a graph that
            a GPU builds and the CPU searches.
        parameters: FAISS's search parameters, such as "nprobe=16". Without them those of an approximate
            factory are measured: the fastest that find `recall` of the exact `k` hits are set.
        metric: "inner_product", "cosine" or "l2" (the score is minus the squared distance).
        encoder: what made the vectors; queries of another encoder are refused later.
        device: where to build (see `o1_index.gpu`).
        k: hits a query, at which the recall is measured.
        recall: the share of the exact hits to aim at; for "auto", 1 means exact.
        payloads: what is stored beside each document, fields by name; searches may filter by it.

    Raises:
        InputError: ids are repeated or not as many as vectors; vectors are NaN, Inf or zero (by id); FAISS
            does not know the factory, ranks by distance with it or cannot train it on so few vectors; the
            device is missing.
    """
    ids = listed(ids)
    refuse_shape(ids, vectors, "the documents")
    refuse_no_recall(recall)

    def batches(first: int) -> Iterator[tuple[Sequence[str], Vectors]]:
        for start in range(first * _BATCH_ROWS, len(ids), _BATCH_ROWS):
            yield ids[start : start + _BATCH_ROWS], vectors[start : start + _BATCH_ROWS]

    dim = vectors.shape[1]
    asked = Settings(factory=factory, parameters=parameters, metric=metric, encoder=encoder)
    settings = _chosen(asked, len(ids), dim, recall=recall) if factory == "auto" else asked
    documents = Documents.of([ids], payloads)
    return _Build(batches, documents, dim, settings, device, _tuning(parameters, k, recall)).run()


def build_from(
    vectors: VectorSource,
    *,
    factory: str = "Flat",
    parameters: str = "",
    metric: Metric = "inner_product",
    recall: float | None = None,
    k: int | None = None,
    queries: VectorSource | None = None,
    memory: int | None = None,
    device: str = "cpu",
    payloads: str | Path | None = None,
    out: str | Path | None = None,
    new_job: bool = False,
    like: Index | None = None,
) -> Index:
    """Build an index of a folder or file of vectors, shard by shard; memory holds the index and one shard.

    With `out` the index is published there, and an interrupted build continues from its last checkpoint
    when it is started again. Where `out` is this very index already it is opened, with `mmap`. An index, or
    an interrupted build, of other vectors or with other settings is refused; with `new_job` it is moved
    aside, to `NAME.old1`. Nothing is deleted.

    Args:
        vectors: the document vectors.
        factory: FAISS's index_factory string, "auto" or "CAGRA64", as for `build`.
        parameters: FAISS's search parameters, such as "nprobe=16"; without them they are measured (`build`).
        metric: "inner_product", "cosine" or "l2".
        recall: the share of the exact hits to aim at (default 0.95); for "auto", 1 means exact.
        k: hits a query, at which the recall is measured (default 100).
        queries: query vectors to measure with; by default documents are searched for.
        memory: for "auto", bytes that the index may take; by default half of this machine's memory.
        device: where to build (see `o1_index.gpu`).
        payloads: JSONL file of what is stored beside each document: an object with its doc_id (or _id).
        out: the folder of the index.
        new_job: move earlier work with other settings aside.
        like: an index whose factory, metric and trained engine are used (see `train_from`); `factory` and
            `metric` have no effect.

    Raises:
        InputError: as for `build`; the folder holds no vectors; somebody else is building `out`.
        ChangedJobError: earlier work under this name was made from something else; the message names what.
    """
    if not len(vectors):
        raise InputError(f"{vectors.folder}: holds no vectors")
    if like is not None:
        factory, metric = like.settings.factory, like.settings.metric
        like.settings.refuse_other_documents(vectors.manifest.encoder)
    if new_job and out is None:
        raise InputError("new_job moves earlier work of `out` aside; give `out`")
    if memory is not None and factory != "auto":
        raise InputError(f"memory is for the factory 'auto', not for {factory!r}; leave it out")
    for name, value in (("k", k), ("queries", queries), ("recall", recall)):
        if value is not None and (parameters or factory == "Flat") and (name, factory) != ("recall", "auto"):
            given = f"parameters {parameters!r} are given" if parameters else "the factory Flat is exact"
            raise InputError(f"{name} has no effect where {given}; leave it out")
    if queries is not None and not len(queries):
        raise InputError(f"{queries.folder}: holds no vectors")
    manifest, made_from = vectors.manifest, fingerprint(vectors)
    settings = Settings(
        factory=factory,
        parameters=parameters,
        metric=metric,
        encoder=manifest.encoder,
        payloads="" if payloads is None else sha256_file(payloads),
    )
    given_recall, recall = recall, RECALL if recall is None else recall
    refuse_no_recall(recall)
    if queries is not None:
        settings.refuse_other_encoder(queries.manifest.encoder)
    if factory == "auto":
        settings = _chosen(settings, len(vectors), manifest.dim, recall=recall, memory=memory)

    def built(found: tuple[Any, int, float] | None = None, checkpoints: Checkpoints | None = None) -> Index:
        part = isinstance(vectors, Part)
        stored = None if payloads is None else read_payloads(payloads, vectors.ids(), others=part)
        documents = Documents.of(vectors.shard_ids(), stored)
        tuning = _tuning(parameters, K if k is None else k, recall, queries)
        work = _Build(vectors.shards, documents, manifest.dim, settings, device, tuning, checkpoints, like)
        index = work.run(found)
        index.made_from = made_from
        return index

    if out is None:
        return built()
    out = Path(out)
    asked = {"parameters": parameters} if parameters else {}
    asked |= {} if k is None else {"k": str(k)}
    asked |= {} if given_recall is None or factory == "Flat" else {"recall": f"{recall:g}"}
    if out.exists() and _is_published(out, made_from, settings, asked, new_job):
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
        index.published(draft.publish(index.content()))
    _log.info("%s: %s vectors of %s dimensions", out, len(index), index.dim)
    return index


def train_from(
    vectors: VectorSource,
    *,
    factory: str = "Flat",
    parameters: str = "",
    metric: Metric = "inner_product",
    recall: float = RECALL,
    rows: int | None = None,
    memory: int | None = None,
) -> Index:
    """Return an index without documents, trained on vectors spread over all: what shards are built like.

    `rows` is how many documents a shard will have, for "auto"; the others are those of `build_from`.
    """
    manifest = vectors.manifest
    settings = Settings(factory=factory, parameters=parameters, metric=metric, encoder=manifest.encoder)
    if factory == "auto":
        settings = _chosen(settings, rows or len(vectors), manifest.dim, recall=recall, memory=memory)
    work = _Build(vectors.shards, Documents.of([]), manifest.dim, settings, "cpu", None)
    engine, _, radius = work.prepared(len(vectors))
    return Index(engine, Documents.of([]), msgspec.structs.replace(settings, radius=radius))


def adopt(path: str | Path, ids: Sequence[str] | None = None, *, metric: Metric | None = None) -> Index:
    """Return a FAISS file that another program wrote as an index.

    Args:
        path: a file of `faiss.write_index`. Numbers that were given with `add_with_ids` or by an IDMap count
            as ids, "7" for 7, where no ids are given.
        ids: one id for each vector; of a file with numbers, in their ascending order.
        metric: "cosine" where the vectors have unit length; else what the file says.

    Raises:
        InputError: FAISS cannot read the file, its metric is neither inner product nor L2, there are not as
            many ids as vectors.
    """
    engine, numbers, factory, distance = faiss_engine.adopted(Path(path))
    own: Metric = "l2" if distance else "inner_product"
    if metric is not None and metric != own and (metric, own) != ("cosine", "inner_product"):
        raise InputError(f"{path}: ranks by {own}; the metric {metric!r} cannot be had from it")
    names = [str(number) for number in numbers.tolist()] if ids is None else listed(ids)
    if len(names) != engine.ntotal:
        raise InputError(f"{path}: {len(names)} ids for {engine.ntotal} vectors")
    index = Index(engine, Documents.of([names]), Settings(factory=factory, metric=metric or own))
    _tell_unreachable(index)
    return index


def _tell_unreachable(index: Index) -> None:
    """Say how many documents a graph cannot find, where these are more than one in a hundred."""
    lost, rows = len(index.unreachable), len(index)
    if lost * 100 > rows:
        _log.warning(
            "%s of %s documents cannot be reached in the graph, so they are compared with every query, which "
            "takes time; build it here, or choose an IVF factory", f"{lost:,}", f"{rows:,}",
        )  # fmt: skip


def _tuning(parameters: str, k: int, recall: float, queries: VectorSource | None = None) -> Tune | None:
    if parameters:
        return None
    ids, vectors = sample_of(queries, QUERIES) if queries is not None else ([], None)
    return Tune(k, recall, ids, vectors)


def _chosen(
    asked: Settings, rows: int, dim: int, *, recall: float = RECALL, memory: int | None = None
) -> Settings:
    """Return the settings that were asked for, with the factory that "auto" chooses."""
    choice = choose(rows, dim, recall=recall, memory=memory)
    _log.info("auto: %s: %s", choice.factory, choice.reason)
    return msgspec.structs.replace(asked, factory=choice.factory)


def _is_published(
    out: Path, made_from: str, settings: Settings, asked: Mapping[str, str], new_job: bool
) -> bool:
    """Return whether `out` is this index. Another one is refused, or moved aside.

    Search parameters, and the k and recall they were measured for, may have changed since by tuning; that is
    no reason to refuse unless they were `asked` for.
    """
    wanted = {**origin(made_from, settings), **asked}
    try:
        try:
            manifest = open_version(out).manifest
        except (InputError, FileNotFoundError, NotADirectoryError) as error:
            raise ChangedJobError(
                f"{out}: exists, and no index can be opened there ({error}); choose another name, or give "
                "--new-job to move it aside"
            ) from error
        held, measured = manifest.settings, manifest.settings.measured
        there = {"parameters": held.parameters, "k": "not measured", "recall": "not measured"}
        if measured is not None:
            there |= {"k": str(measured.k), "recall": f"{measured.aim:g}"}
        found = origin(manifest.made_from, held) | {name: there[name] for name in asked}
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


# --- one build ----------------------------------------------------------------------------------------


@dataclass
class _Build:
    """One build: the layout is chosen, the engine trained, filled and tuned."""

    batches: Batches
    documents: Documents
    dim: int
    settings: Settings
    device: str
    tuning: Tune | None
    checkpoints: Checkpoints | None = None
    like: Index | None = None
    gpus: list[int] = field(default_factory=list)

    def run(self, found: tuple[Any, int, float] | None = None) -> Index:
        """Return the index; `found` is an engine with the first so many batches, and its radius."""
        settings, rows = self.settings, len(self.documents)
        self.gpus = gpus_of(self.device, count_gpus())
        on_gpu = faiss_engine.is_cagra(settings.factory)
        if on_gpu:
            refuse_no_cagra(settings.factory, self.gpus)
        if found is not None:
            (engine, done, radius), sample = found, np.zeros((0, self.dim), dtype=np.float32)
            set_parameters(engine, settings.parameters)
        elif self.like is not None:
            engine, done, radius = faiss_engine.emptied(self.like.engine), 0, self.like.settings.radius
            sample = np.zeros((0, self.dim), dtype=np.float32)
            set_parameters(engine, settings.parameters)
        else:
            (engine, sample, radius), done = self._untrained(rows), 0
        layout = Layout(radius)
        self.settings = msgspec.structs.replace(settings, radius=radius)
        # several GPUs get their copies when one has built it
        device = f"cuda:{self.gpus[0]}" if self.gpus and self.device != "auto" else self.device
        accelerator = accelerate(engine, Placement(device)) if self.gpus and not on_gpu else None
        worker = accelerator.engine if accelerator else engine
        if rows and not worker.is_trained:
            self._train(worker, layout.documents(sample))
        del sample  # may be as large as the index
        faiss_engine.reserve(worker, rows - worker.ntotal)
        self._fill(worker, layout, done, accelerator)
        engine = to_cpu(worker) if accelerator else worker
        if len(self.gpus) > 1 and not on_gpu:
            accelerator = accelerate(engine, Placement(self.device))
        return self._finished(Index(engine, self.documents, self.settings, accelerator=accelerator))

    def prepared(self, rows: int) -> tuple[Any, Matrix, float]:
        """Return a trained engine for so many documents, without any, the sample, and the layout's radius."""
        if faiss_engine.is_cagra(self.settings.factory):
            raise InputError(
                f"factory {self.settings.factory!r} is built all at once; choose another one for shards"
            )
        engine, sample, radius = self._untrained(rows)
        if rows and not engine.is_trained:
            self._train(engine, Layout(radius).documents(sample))
        return engine, sample, radius

    def _untrained(self, rows: int) -> tuple[Any, Matrix, float]:
        engine, radius = self._engine(0.0), 0.0
        # parameters that it lacks are refused now, not at the end
        set_parameters(engine, self.settings.parameters)
        if not rows:
            return engine, np.zeros((0, self.dim), dtype=np.float32), radius
        sample = self._sample(engine, rows)
        radius = self._radius(engine, sample)
        if radius:
            engine = self._engine(radius)
            set_parameters(engine, self.settings.parameters)
        return engine, sample, radius

    def _finished(self, index: Index) -> Index:
        """Look at a filled index: set its parameters, or choose them, and say what cannot be reached."""
        engine, rows = index.engine, len(self.documents)
        index.set_parameters(self.settings.parameters)
        _tell_unreachable(index)
        if self.tuning is not None and rows and not faiss_engine.is_exact(engine):
            self._tune(index, self.tuning)
        return index

    def _engine(self, radius: float) -> Any:
        wide = self.dim + (1 if radius else 0)
        return new_engine(wide, self.settings.factory, distance=self.settings.metric == "l2" or radius > 0)

    def _sample(self, engine: Any, rows: int) -> Matrix:
        """Return documents to train and to look at, spread over all; none where nothing depends on them."""
        lists = faiss_engine.lists_of(engine)
        graph = faiss_engine.graph_of(engine) is not None and self.settings.metric == "inner_product"
        if engine.is_trained and not graph:
            return np.zeros((0, self.dim), dtype=np.float32)
        most = max(TRAINING_ROWS, POINTS * lists) if not engine.is_trained else _PILOT
        if lists and rows < POINTS * lists:
            _log.warning(
                "%s lists are trained with %s vectors, FAISS asks for %s: fewer lists would do better",
                f"{lists:,}", f"{rows:,}", f"{POINTS * lists:,}",
            )  # fmt: skip
        sample = np.empty((-(-rows // -(-rows // most)), self.dim), dtype=np.float32)
        filled = 0
        for ids, vectors in spread(self.batches(0), rows, most):
            part = checked(ids, vectors, self.settings.metric, "the documents", self.dim)
            sample[filled : filled + len(part)] = part
            filled += len(part)
        return sample

    def _radius(self, engine: Any, sample: Matrix) -> float:
        """Return the radius of the layout: 0 unless a graph by inner product would miss documents."""
        if faiss_engine.graph_of(engine) is None or self.settings.metric != "inner_product":
            return 0.0
        norms = np.linalg.norm(sample, axis=1)
        if norms.max() <= norms.min() * 1.01 or graph_finds(
            sample[:: -(-len(sample) // _PILOT)], self.settings.factory
        ):
            return 0.0
        longest = max(
            largest_norm(checked(ids, vectors, self.settings.metric, "the documents", self.dim))
            for ids, vectors in self.batches(0)
        )
        _log.info("the lengths of the vectors differ: the graph is built by distance in one dimension more")
        return longest

    def _train(self, worker: Any, sample: Matrix) -> None:
        _log.info("training factory %s with %s vectors", self.settings.factory, f"{len(sample):,}")
        faiss_engine.train(worker, sample, self.settings.factory)

    def _fill(self, worker: Any, layout: Layout, done: int, accelerator: Any) -> None:
        rows = len(self.documents)
        on_gpu = faiss_engine.is_cagra(self.settings.factory)
        at_once = on_gpu or faiss_engine.takes_all_at_once(worker)
        together: list[Matrix] | None = [] if at_once else None
        with tqdm(total=rows, initial=worker.ntotal, unit="vector", desc="index", disable=None) as bar:
            for number, (ids, vectors) in enumerate(self.batches(done), start=done + 1):
                check = checked_on_device if accelerator and on_device(vectors) else checked
                matrix = check(ids, vectors, self.settings.metric, "the documents", self.dim)
                if layout.radius:
                    matrix = layout.documents(as_numpy(matrix))
                if together is not None:
                    together.append(matrix)
                else:
                    faiss_engine.add(worker, accelerator.reachable(matrix) if accelerator else matrix, "add")
                bar.update(len(ids))
                if self.checkpoints is not None and together is None:
                    self.checkpoints.offer(
                        lambda: to_cpu(worker) if accelerator else worker, number, layout.radius
                    )
            if together and on_gpu:
                cagra(worker, np.concatenate([as_numpy(part) for part in together]), self.gpus[0])
            elif together:
                faiss_engine.add(worker, np.concatenate(together), "add")

    def _tune(self, index: Index, how: Tune) -> None:
        """Set the search parameters that find enough, measured on queries or on documents."""
        real = len(how.query_ids) > 0
        ids, queries = how.query_ids, how.queries
        if not real:
            parts = list(spread(self.batches(0), len(self.documents), QUERIES))
            ids = [name for names, _ in parts for name in names]
            queries = np.concatenate([as_numpy(part) for _, part in parts])
        # a document finds its neighbours more easily than a query does, so more is asked of it
        target = how.recall if real else 1 - (1 - how.recall) * EASIER
        k = max(1, min(how.k, len(self.documents) - (0 if real else 1)))
        exact = exact_hits(self.batches(0), queries, ids, k=k if real else k + 1, metric=self.settings.metric)
        tuning = tune(
            index, queries, ids, exact, k=k, target=target, every=False,
            sample="queries" if real else "documents",
        )  # fmt: skip
        tuned = tuning.chosen
        if index.settings.measured is not None:  # where there are not so many documents, all are found or not
            measured = msgspec.structs.replace(index.settings.measured, k=how.k)
            index.set_parameters(tuned.parameters, measured=measured)
        what = "queries" if real else "documents, in the place of queries"
        _log.log(
            logging.INFO if tuned.recall >= target else logging.WARNING,
            "%s%s: recall@%s %.3f, %.3g ms a query, measured with %s %s%s",
            index.settings.factory, f" {tuned.parameters}" if tuned.parameters else "", k, tuned.recall,
            tuned.milliseconds, len(ids), what,
            "" if tuned.recall >= target else f"; nothing reached {target:.3f}",
        )  # fmt: skip


_PILOT = 8_192  # documents of which a graph is built to see whether it finds them


def graph_finds(sample: Matrix, factory: str, *, k: int = 100, least: float = 0.99) -> bool:
    """Return whether a graph of these documents by inner product finds nearly all that it should.

    It does unless a few long vectors are the best answer to everything: then all links lead to them.
    """
    engine = new_engine(sample.shape[1], factory)
    if not engine.is_trained:
        faiss_engine.train(engine, sample, factory)
    faiss_engine.add(engine, sample, "add")
    queries = np.ascontiguousarray(sample[:: max(1, len(sample) // QUERIES)])
    k = min(k, max(1, len(sample) // 10))
    if "efSearch" in faiss_engine.parameter_values(engine):
        set_parameters(engine, "efSearch=1024")
    _, found = faiss_engine.search(engine, queries, k)
    _, exact = faiss_engine.nearest(queries, sample, k, distance=False)
    shares = [
        len(set(mine) & set(best)) / k for mine, best in zip(found.tolist(), exact.tolist(), strict=True)
    ]
    return float(np.mean(shares)) >= least
