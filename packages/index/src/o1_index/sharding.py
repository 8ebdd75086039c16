"""Indexes of the parts of a collection: built and searched in several processes, merged into one.

```
OUT/made-from.json       what all shards are made from
OUT/trained/             an index without documents: what every shard is built like
OUT/shard-00000/ ...     an index each
```
On several machines, the same command builds some of the shards on each; they share the folder.
"""

from __future__ import annotations

import multiprocessing
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index import engine as faiss_engine
from o1_index.build import build_from, train_from
from o1_index.documents import Documents, Excluded, Payload, Rows, Where
from o1_index.hits import Hits, Scores, best
from o1_index.index import Index, open_index
from o1_index.store.manifest import Settings
from o1_index.tuning import RECALL
from o1_index.vector_store import Shards, about_store, open_shards, refuse_unlike
from o1_index.vectors import Metric, Part, Vectors, as_numpy, fingerprint, open_vectors
from o1_records import InputError, atomic_write, quoted, sha256_file
from o1_records.kit.job import Lock, move_aside, refuse_changed

MADE_FROM = "made-from.json"
TRAINED = "trained"


def shard_name(number: int) -> str:
    """Return the name of a shard's folder."""
    return f"shard-{number:05d}"


# --- building -----------------------------------------------------------------------------------------


def build_shards(
    vectors: str | Path,
    out: str | Path,
    *,
    shards: int,
    only: Sequence[int] | None = None,
    processes: int = 1,
    ids: str | Path | None = None,
    factory: str = "Flat",
    parameters: str = "",
    metric: Metric = "inner_product",
    recall: float | None = None,
    k: int | None = None,
    memory: int | None = None,
    payloads: str | Path | None = None,
    new_job: bool = False,
) -> list[Path]:
    """Build an index of each part of a folder or file of vectors, and return their folders.

    The factory is trained once, on vectors spread over all, so shards can be merged. A build that was
    interrupted goes on with the shards that are missing. Memory holds as many shards as there are processes.

    Args:
        vectors: folder or file of document vectors.
        out: the folder of the shards.
        shards: how many parts.
        only: the parts to build now, counted from 0, such as those of this machine; none: train only.
        processes: shards that are built at a time; each has its share of the cores.
        ids: text file with the doc_id of each vector, if `vectors` has none.
        factory: FAISS's index_factory string, or "auto", which chooses for one shard.
        parameters: FAISS's search parameters; without them each shard's are measured.
        metric: "inner_product", "cosine" or "l2".
        recall: the share of the exact hits to aim at (default 0.95); for "auto", 1 means exact.
        k: hits a query, at which the recall is measured.
        memory: for "auto", bytes that a shard may take.
        payloads: JSONL file of what is stored beside each document.
        new_job: move earlier shards with other settings aside.

    Raises:
        InputError: as `build_from` does; there is no such part.
        ChangedJobError: earlier shards were made from something else; the message names what.
    """
    source, out = open_vectors(vectors, ids), Path(out)
    if shards < 1 or shards > len(source):
        raise InputError(f"{source.folder}: {len(source)} vectors cannot be cut into {shards} shards")
    unknown = [number for number in only or () if not 0 <= number < shards]
    if unknown:
        raise InputError(f"no shards {quoted(unknown)} of {shards}; they are counted from 0")
    made_from = {
        "vectors": fingerprint(source),
        "payloads": "" if payloads is None else sha256_file(payloads),
        "shards": str(shards),
        "factory": factory,
        "parameters": parameters,
        "metric": metric,
        "recall": "" if recall is None else f"{recall:g}",
        "k": "" if k is None else str(k),
        "memory": "" if memory is None else str(memory),
    }
    _claim(out, made_from, new_job=new_job)
    trained = out / TRAINED
    with Lock(out / "lock"):
        if not trained.exists():
            rows = -(-len(source) // shards)
            aim = RECALL if recall is None else recall
            train_from(
                source,
                factory=factory,
                parameters=parameters,
                metric=metric,
                recall=aim,
                rows=rows,
                memory=memory,
            ).save(trained)
    # Flat is exact, whoever chose it
    exact = open_index(trained, mmap=True).settings.factory == "Flat"
    options: dict[str, Any] = {"parameters": parameters, "payloads": payloads}
    options |= {} if exact else {"recall": recall, "k": k}
    numbers = list(range(shards)) if only is None else sorted(set(only))
    build = partial(_build_shard, vectors, ids, out, shards, options)
    if processes == 1:
        for number in numbers:
            build(number)
    else:
        with _processes(min(processes, max(len(numbers), 1)), processes) as pool:
            list(pool.map(build, numbers))
    return [out / shard_name(number) for number in numbers]


def _claim(out: Path, made_from: dict[str, str], *, new_job: bool) -> None:
    """Note what the shards are made from. Others are refused, or moved aside."""
    path = out / MADE_FROM
    if path.exists():
        earlier = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        if earlier == made_from:
            return
        if not new_job:
            refuse_changed(out, earlier, made_from)
        with Lock(out / "lock") as lock:
            [moved] = move_aside(out)
            lock.path = moved / "lock"
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: exists, and holds no shards; choose another name")
    with atomic_write(path) as file:
        file.write(msgspec.json.encode(made_from))


def _build_shard(
    vectors: str | Path,
    ids: str | Path | None,
    out: Path,
    shards: int,
    options: Mapping[str, Any],
    number: int,
) -> None:
    part = Part(open_vectors(vectors, ids), number, shards)
    build_from(part, like=open_index(out / TRAINED), out=out / shard_name(number), **options)


def _processes(count: int, share: int, **options: Any) -> ProcessPoolExecutor:
    """Return so many processes, each of which has its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // share)
    setup = options.pop("initializer", None)
    return ProcessPoolExecutor(
        count,
        # not forked: FAISS's threads would be missing in the copies
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(threads, setup, options.pop("initargs", ())),
    )


def _begin(threads: int, setup: Any, arguments: Sequence[Any]) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    faiss_engine.load_faiss().omp_set_num_threads(threads)
    if setup is not None:
        setup(*arguments)


# --- searching ----------------------------------------------------------------------------------------

_opened: list[Index | Shards] = []  # in a process of `ShardProcesses`: the shards that it searches


def _open(folders: Sequence[Path], mmap: bool) -> None:
    _opened[:] = [open_shards(folders, mmap=mmap)]


def _about() -> tuple[Settings, int, int, dict[str, Any]]:
    [store] = _opened
    return store.settings, store.dim, store.count(), store.info()


def _search(
    vectors: NDArray[Any], query_ids: Sequence[str], options: dict[str, Any]
) -> tuple[NDArray[np.object_], Scores]:
    [store] = _opened
    return store.search(vectors, query_ids, **options).arrays()


class ShardProcesses:
    """Several indexes, searched as one in several processes; hits are merged in the one total order.

    Exact where the indexes are. Only searched: to change a shard, open it. A context manager.
    """

    def __init__(self, folders: Sequence[str | Path], *, processes: int, mmap: bool = False) -> None:
        """Open each shard in one of the processes.

        Raises InputError as `Shards` does, and for a folder that is given twice.
        """
        paths = [Path(folder) for folder in folders]
        refuse_twice(list(map(str, paths)))
        count = min(processes, len(paths))
        groups = [paths[number::count] for number in range(count)]
        # a pool each, so that a shard is always asked for where it is open
        self._pools = [_processes(1, count, initializer=_open, initargs=(group, mmap)) for group in groups]
        self._places = [" or ".join(map(str, group)) for group in groups]
        try:
            about = [pool.submit(_about) for pool in self._pools]
            found = [each.result() for each in about]
            self.settings, self.dim = found[0][0], found[0][1]
            self._count = sum(each[2] for each in found)
            self._info = [each[3] for each in found]
            # each process has compared its own; the first shard of process n is number n of all
            refuse_unlike([(dim, settings) for settings, dim, _, _ in found])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def count(self) -> int:
        """Return how many documents can be found."""
        return self._count

    def info(self) -> dict[str, Any]:
        """Return what there is to know about the shards."""
        return {**about_store(self), "processes": self._info}

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
        """Return the k best documents of each query in all shards; see `Index.search`.

        A filter that is a function cannot go to another process.
        """
        if callable(where):
            raise InputError("a filter that is a function cannot go to another process; give it as text")
        k = operator.index(k)
        options = {"k": k, "excluded": excluded, "only": only, "where": where}
        asked: list[Future[tuple[NDArray[np.object_], Scores]]] = [
            pool.submit(_search, as_numpy(query_vectors), list(query_ids), options) for pool in self._pools
        ]
        found = [each.result() for each in asked]
        return merged_hits(query_ids, dict(zip(self._places, found, strict=True)), k)


def merged_hits(
    query_ids: Sequence[str],
    answers: Mapping[str, tuple[NDArray[np.object_], Scores]],
    k: int,
    payloads: Mapping[str, Payload] | None = None,
) -> Hits:
    """Return the k best of what several indexes found, as `Hits.arrays` of each, in the one total order.

    Args:
        query_ids: one id for each row.
        answers: what was found, by the name of the place where it was.
        k: hits a query.
        payloads: those of the hits by id, if they are wanted.

    Raises InputError for a document that was found in two places.
    """
    names = _Names(payloads or {})
    rows = names.rows_of({place: ids for place, (ids, _) in answers.items()})
    scores = np.concatenate([scores for _, scores in answers.values()], axis=1)
    return Hits(list(query_ids), names, *best(names, rows, scores, k))


def refuse_twice(places: Sequence[str]) -> None:
    """Raise InputError for a folder, or the address of a server, that is given twice."""
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise InputError(f"{twice[0]}: given twice; its documents are searched once")


def refuse_shared(homes: dict[str, str], place: str, names: Iterable[str]) -> None:
    """Add the ids that are in a place to `homes`, which says where each is.

    Raises InputError for one that is elsewhere, too: the two may differ, and one is out of date then.
    """
    for name in names:
        home = homes.setdefault(name, place)
        if home != place:
            raise InputError(
                f"document {quoted(name)} is in {home} and in {place}; a document belongs to one: remove it "
                "from the other (`o1-index remove --index FOLDER --ids FILE`)"
            )


class _Names:
    """The ids that a search found, by row, and their payloads."""

    def __init__(self, payloads: Mapping[str, Payload]) -> None:
        self.names: NDArray[np.object_] = np.zeros(0, dtype=object)
        self._payloads = payloads

    def rows_of(self, answers: Mapping[str, NDArray[np.object_]]) -> Rows:
        """Return the ids [queries, any] of each place, side by side, as rows; -1 for None."""
        homes: dict[str, str] = {}
        for place, ids in answers.items():
            refuse_shared(homes, place, ids[ids != None].tolist())  # noqa: E711  # element by element
        rows = {name: row for row, name in enumerate(homes)}
        self.names = np.array(list(rows), dtype=object)
        together = np.concatenate(list(answers.values()), axis=1)
        found = [[-1 if name is None else rows[name] for name in names] for names in together.tolist()]
        return np.array(found, dtype=np.int64).reshape(together.shape)

    def texts(self, rows: Rows) -> NDArray[np.object_]:
        """Return the ids of rows [any]."""
        return self.names[np.asarray(rows, dtype=np.int64)]

    def payload(self, row: int) -> dict[str, Any]:
        """Return what is stored beside the document of a row."""
        return dict(self._payloads[self.names[row]])


# --- merging ------------------------------------------------------------------------------------------


def merged(folders: Sequence[str | Path]) -> Index:
    """Return one index of the documents of several that were built alike (`build_shards`).

    Removed documents are left out. Memory holds the result and one of the indexes.

    Raises InputError for a document that is in two of them, and for indexes that were trained otherwise or
    that FAISS cannot merge (graphs): search those together, or build one from all vectors.
    """
    if not folders:
        raise InputError("give at least one index")
    if faiss_engine.graph_of(open_index(folders[0], mmap=True).engine) is not None:
        raise InputError(
            f"{folders[0]}: graphs cannot be merged; build one from all vectors, or search them together"
        )
    indexes = _compacted(folders)
    first = next(indexes)
    names, payloads = [list(first.documents)], [_payloads(first)]
    for folder, index in zip(folders[1:], indexes, strict=True):
        mine, other = first.settings, index.settings
        if (first.dim, mine.metric, mine.factory, mine.radius) != (
            index.dim,
            other.metric,
            other.factory,
            other.radius,
        ):
            raise InputError(
                f"{folder}: {other.factory} by {other.metric} in {index.dim} dimensions, {folders[0]} is "
                f"{mine.factory} by {mine.metric} in {first.dim}; merge indexes that were built alike"
            )
        mine.refuse_other_documents(other.encoder)
        names.append(list(index.documents))
        payloads.append(_payloads(index))
        faiss_engine.absorb(first.engine, index.engine, str(folder))
    stored = [payload for part in payloads for payload in part]
    measured = first.settings.measured
    if measured is not None and len(folders) > 1:
        measured = msgspec.structs.replace(measured, outdated=True)
    settings = msgspec.structs.replace(first.settings, measured=measured)
    return Index(first.engine, Documents.of(names, stored if any(stored) else None), settings)


def _compacted(folders: Sequence[str | Path]) -> Iterator[Index]:
    for folder in folders:
        index = open_index(folder)
        index.compact()
        yield index


def _payloads(index: Index) -> list[Payload]:
    return [index.documents.payload(row) for row in range(len(index))]
