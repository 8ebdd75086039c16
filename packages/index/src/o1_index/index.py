"""An index on FAISS with the ids, the order and the refusals that FAISS does not have.

With `Flat` the hits are exact. With an approximate factory FAISS decides which documents are found; what it
found comes back in the total order, and ties are resolved among what it found.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index import engine as faiss_engine
from o1_index.documents import Documents, Excluded, Payload, Rows, Where, listed, unique
from o1_index.engine import SCANNED, Selection, set_parameters
from o1_index.gpu import Accelerator, Placement, accelerate
from o1_index.hits import Fetch, Hits, LeftOut, Scores, best, first_of, settled_hits
from o1_index.store import versions
from o1_index.store.manifest import Measured, Settings
from o1_index.store.versions import Content, Version
from o1_index.threads import ManyReadersOneWriter
from o1_index.vectors import (
    Layout,
    Matrix,
    Metric,
    Vectors,
    VectorSource,
    as_numpy,
    checked,
    checked_on_device,
    largest_norm,
    on_device,
)
from o1_records import InputError, quoted
from o1_records.vectors import VectorSet, VectorWriter

RECENT = 4_096
"""Up to so many added documents lie beside the engine and are compared exactly; more go into it."""
RECENT_MAPPED = 16 * RECENT
"""Up to so many lie beside an engine that is mapped from disk, which cannot take them in."""

_log = logging.getLogger("o1_index")


@dataclass(frozen=True)
class Opened:
    """Where an index comes from: the version on disk, and what is still to be checked of it."""

    version: Version
    check: Callable[[], None] | None = None
    mapped: bool = False


class State(NamedTuple):
    """What a search sees: the documents, and the vectors [added, dim] of those that are not in the engine."""

    documents: Documents
    recent: Matrix


class Fetched(NamedTuple):
    """Documents as the index holds them; of a factory of codes, `vectors` are what the codes stand for."""

    ids: list[str]
    vectors: Matrix
    payloads: list[dict[str, Any]]


class Index:
    """A searchable index. Made by `build`, `build_from`, `open_index` and `place`.

    Any number of threads may search while one changes the index: each search sees the documents as they were
    when it began. Changes wait for each other; only those that go into the engine (`compact`, and adding more
    than a few thousand documents) wait for running searches, too.

    `engine` is the FAISS index in host memory; it answers what an `accelerator` cannot. Its rows that a graph
    cannot reach (`unreachable`) are compared with every query. An `opened` index that is mapped is checked
    before it answers: all of it once, and again after somebody wrote to its file.
    """

    def __init__(
        self,
        engine: Any,
        documents: Documents,
        settings: Settings,
        *,
        recent: Matrix | None = None,
        made_from: str = "",
        accelerator: Accelerator | None = None,
        opened: Opened | None = None,
        lock: ManyReadersOneWriter | None = None,
        unreachable: Rows | None = None,
    ) -> None:
        self.engine = engine
        self.unreachable = faiss_engine.unreachable(engine) if unreachable is None else unreachable
        self.settings = settings
        self.made_from = made_from
        self.accelerator = accelerator
        self.opened = opened
        if recent is None:
            recent = np.zeros((0, self.dim), dtype=np.float32)
        self._state = State(documents, recent)
        self._spare = recent  # room behind the recent vectors that no state has yet
        self._lock = lock or ManyReadersOneWriter()  # held while FAISS reads or changes the engine
        self._changing = threading.Lock()  # held by who makes the next state
        self._device = threading.Lock()  # GPUs answer one search at a time
        self._base = opened.version if opened else None  # whose file on disk holds this engine
        self._told: set[str] = set()

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, name: str) -> bool:
        return name in self.documents

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.engine.d) - (1 if self.settings.radius else 0)

    @property
    def documents(self) -> Documents:
        """The ids and payloads as they are now."""
        return self._state.documents

    def count(self) -> int:
        """Return how many documents can be found."""
        return self.documents.count

    def info(self) -> dict[str, Any]:
        """Return what there is to know about the index, as JSON would hold it."""
        state, settings = self._state, self.settings
        version = self.opened.version if self.opened else None
        files = version.manifest.files if version else ()
        return {
            "documents": state.documents.count,
            "dim": self.dim,
            "metric": settings.metric,
            "factory": settings.factory,
            "parameters": settings.parameters,
            "exact": faiss_engine.is_exact(self.engine),
            "measured": msgspec.to_builtins(settings.measured),
            "removed_rows": len(state.documents) - state.documents.count,
            "rows_beside_the_engine": len(state.recent),
            "unreachable": len(self.unreachable),
            "payloads": state.documents.payloads is not None or bool(state.documents.added_payloads),
            "encoder": msgspec.to_builtins(settings.encoder),
            "made_from": self.made_from,
            "version": version.number if version else None,
            "bytes": {file.name: file.size for file in files},
        }

    # --- searching ------------------------------------------------------------------------------------

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
        """Return the k best documents of each query, in the total order; fewer where there are fewer.

        Where documents tie across the k-th place all of them are fetched, so that the order alone decides
        which come back. Where `only` and `where` leave few documents, all of those are compared, with every
        factory. What is known about the recall of an approximate factory is said in the log `o1_index`, once:
        that nobody measured it (at this k, or since the engine changed), that it is below what was aimed at,
        that queries got too few hits.

        Args:
            query_vectors: [len(query_ids), dim], a numpy array or a torch tensor.
            query_ids: one id for each row.
            k: hits a query, 1 or more.
            excluded: for a query_id, documents that are not returned for it.
            only: the documents to search; all others are left out, for all queries.
            where: a filter on payloads, such as "year >= 2020" (see `o1_index.documents.condition`).

        Raises:
            InputError: k is below 1, a query_id is repeated, the dimension is another, vectors are NaN, Inf
                or zero (by query_id), or a filter cannot be read.
        """
        k = operator.index(k)
        if k < 1:
            raise InputError(f"k must be 1 or more, got {k}")
        names = unique(query_ids)
        self.check()
        with self._lock.reading():
            state = self._current()
            documents = state.documents
            vectors = self._queries(query_vectors, names)
            banned = [documents.banned_rows(name, excluded) for name in names] if excluded else []
            allowed = documents.allowed(only, where)
            count = len(documents) if allowed is None else int(np.count_nonzero(allowed))
            most, first = count, k + 1 + max(map(len, banned), default=0)
            left_out = LeftOut(banned)
            fetch = self._fetching(state, allowed, count)
            if fetch is None:  # few rows are left out, or the engine cannot do it: they are taken out again
                left_out, most = LeftOut(banned, ~allowed if allowed is not None else None), len(documents)
                first = first * len(documents) // max(count, 1)
                fetch = self._fetching(state, None, len(documents))
            assert fetch is not None  # nothing is left out: that can be searched always
            rows, scores = settled_hits(
                fetch, vectors, documents, left_out, k=min(k, count), first=first, most=most
            )
        hits = Hits(names, documents, rows, scores)
        self._tell(hits, k, count, [len(rows) for rows in banned])
        return hits

    def range_search(
        self,
        query_vectors: Vectors,
        query_ids: Sequence[str],
        *,
        above: float,
        only: Set[str] | None = None,
        where: Where | None = None,
    ) -> Hits:
        """Return all documents of each query that score more than `above`, in the total order.

        Every document is compared, with approximate factories too; of SQ and PQ codes, what they stand for.

        Raises InputError as `search` does, and for factories with which FAISS finds only a part of the range
        or compares estimates (fast scan, RaBitQ).
        """
        names = unique(query_ids)
        self.check()
        with self._lock.reading():
            state = self._current()
            documents, nearer = state.documents, self.settings.ranks_by_distance
            vectors = as_numpy(self._queries(query_vectors, names))
            queries, limit = self.layout.queries(vectors), above
            if self.settings.metric == "l2":
                limit = -above
            elif nearer:  # FAISS takes one limit for all queries: the widest, cut to size below
                limit = self.layout.distance(vectors, above)
            place = f"range search with factory {self.settings.factory!r}"
            limits, raw, found = faiss_engine.within(self.engine, queries, limit, place)
            counts = np.diff(limits.astype(np.int64))
            beside = np.zeros((len(names), len(state.recent)), dtype=np.bool_)
            near = np.zeros(beside.shape, dtype=np.float32)
            if len(state.recent):
                scores, rows = faiss_engine.nearest(
                    vectors, state.recent, len(state.recent), distance=self.settings.metric == "l2"
                )
                np.put_along_axis(near, rows, -scores if self.settings.metric == "l2" else scores, axis=1)
                beside = near > above
            filled = np.arange(int(counts.max(initial=0))) < counts[:, None]
            rows = np.full(filled.shape, -1, dtype=np.int64)
            scores = np.full(filled.shape, -np.inf, dtype=np.float32)
            rows[filled], scores[filled] = found, raw
            scores = self._as_scores(queries, scores, rows)
            rows[~(scores > above)] = -1
            later = np.arange(len(state.recent), dtype=np.int64) + len(documents.ids)
            rows = np.concatenate([rows, np.where(beside, later, -1)], axis=1)
            scores = np.concatenate([scores, near], axis=1)
        allowed = documents.allowed(only, where)
        LeftOut(hidden=None if allowed is None else ~allowed).empty(rows, ())
        most = int((rows >= 0).sum(axis=1).max(initial=0))
        return Hits(names, documents, *best(documents, rows, scores, most))

    @property
    def layout(self) -> Layout:
        """How vectors lie in the engine."""
        return Layout(self.settings.radius)

    def set_parameters(self, parameters: str, *, measured: Measured | None = None) -> None:
        """Set FAISS's search parameters ("nprobe=16"); they are saved with the index.

        `measured` is what is known about their recall.

        Raises InputError for a parameter that the factory does not have, and for values below 1.
        """
        with self._changing, self._lock.writing():
            set_parameters(self.engine, parameters)
            if self.accelerator is not None:
                set_parameters(self.accelerator.engine, parameters)
            self.settings = msgspec.structs.replace(self.settings, parameters=parameters, measured=measured)

    def fetch(self, ids: Sequence[str]) -> Fetched:
        """Return those of the documents that are in the index, in the order asked for.

        Raises InputError for a factory whose codes cannot be turned into vectors.
        """
        names = unique(ids)
        self.check()
        with self._lock.reading():
            state = self._current()
            rows = state.documents.rows(names)
            there = np.flatnonzero(rows >= 0)
            rows = rows[there]
            vectors = self._vectors_at(state, rows)
        return Fetched(
            [names[place] for place in there],
            vectors,
            [state.documents.payload(row) for row in rows.tolist()],
        )

    def _current(self) -> State:
        """Return the state, for as long as the lock is held."""
        state = self._state
        if self.engine.ntotal != len(state.documents.ids):
            raise InputError(
                f"the engine holds {self.engine.ntotal} vectors, this index {len(state.documents.ids)} ids: "
                "another index that shares the engine was changed; use that one"
            )
        return state

    def _queries(self, vectors: Vectors, query_ids: Sequence[str]) -> Vectors:
        check = checked_on_device if self.accelerator is not None and on_device(vectors) else checked
        return check(query_ids, vectors, self.settings.metric, "the queries", self.dim)

    def _fetching(self, state: State, allowed: NDArray[np.bool_] | None, count: int) -> Fetch | None:
        """Return how to fetch the best of the rows that a mask allows; None if they cannot be told apart.

        What a graph cannot reach, and what lies beside the engine, is compared and merged with what is found.
        """
        held = len(state.documents.ids)
        lost = self.unreachable if allowed is None else self.unreachable[allowed[self.unreachable]]
        chosen: Rows | None = None  # of the recent vectors; None: all
        selection: Selection | None = None
        rows: Rows | None = None  # of the engine, where all that are allowed are compared
        if allowed is not None:
            chosen = np.flatnonzero(allowed[held:])
            if count <= SCANNED and not faiss_engine.lists_of(self.engine):
                rows = np.flatnonzero(allowed[:held])
            elif 2 * count < len(allowed) or count <= SCANNED:
                selection = faiss_engine.selecting(self.engine, allowed[:held])
                if selection is None:
                    return None
                if selection.whole:
                    lost = lost[:0]
            else:
                return None

        def fetch(vectors: Vectors, n: int) -> tuple[Scores, Rows]:
            if rows is not None:
                found = faiss_engine.scan(self.engine, self.layout.queries(as_numpy(vectors)), rows, n)
                assert found is not None, "tried below"
            else:
                found = self._ask(selection, vectors, n)
            queries = self.layout.queries(as_numpy(vectors)) if self.settings.radius else vectors
            scores, places = self._as_scores(queries, *found), found[1]
            if rows is None and len(lost):
                more = faiss_engine.scan(self.engine, self.layout.queries(as_numpy(vectors)), lost, n)
                if more is not None:
                    scores = np.concatenate([scores, self._as_scores(queries, *more)], axis=1)
                    places = np.concatenate([places, more[1]], axis=1)
            if self.settings.radius or scores.shape[1] > n:  # scored again: order and rounding may differ
                scores, places = first_of(scores, places, n)
            recent = state.recent if chosen is None else state.recent[chosen]
            if not len(recent):
                return scores, places
            near, which = self._recent(as_numpy(vectors), recent, min(n, len(recent)))
            later = which if chosen is None else chosen[which]
            return first_of(
                np.concatenate([scores, near], axis=1), np.concatenate([places, later + held], axis=1), n
            )

        if rows is not None:
            probe = np.zeros((1, self.engine.d), dtype=np.float32)
            if faiss_engine.scan(self.engine, probe, rows[:1], 1) is None:
                return None
        return fetch

    def _ask(self, selection: Selection | None, vectors: Vectors, n: int) -> tuple[Scores, Rows]:
        if selection is not None:
            queries = self.layout.queries(as_numpy(vectors))
            return faiss_engine.search(selection.engine, queries, n, selection.parameters)
        if self.accelerator is not None and n <= self.accelerator.most:
            with self._device:
                self.accelerator = self.accelerator.of(self.engine)
                return self.accelerator.search(vectors, n)
        return faiss_engine.search(self.engine, self.layout.queries(as_numpy(vectors)), n)

    def _as_scores(self, queries: Vectors, raw: Scores, rows: Rows) -> Scores:
        """Turn what the engine says of rows [queries, any] into scores; -inf where there is no row."""
        if self.settings.metric == "l2":
            scores = -raw
        elif self.settings.radius:
            exact = faiss_engine.inner_products(self.engine, queries, rows)
            scores = self.layout.inner_products(queries, raw) if exact is None else exact
        else:
            return raw  # the usual case: `best` looks at the rows
        scores[rows < 0] = -np.inf
        return scores

    def _recent(self, vectors: Matrix, recent: Matrix, n: int) -> tuple[Scores, Rows]:
        distance = self.settings.metric == "l2"
        scores, rows = faiss_engine.nearest(vectors, recent, n, distance=distance)
        return -scores if distance else scores, rows

    def _vectors_at(self, state: State, rows: Rows) -> Matrix:
        """Return vectors [rows, dim] of the engine and beside it."""
        held = len(state.documents.ids)
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        inside = rows < held
        vectors[inside] = faiss_engine.vectors_at(self.engine, rows[inside])[:, : self.dim]
        vectors[~inside] = state.recent[rows[~inside] - held]
        return vectors

    def _tell(self, hits: Hits, k: int, count: int, banned: Sequence[int]) -> None:
        """Say once what is known about the recall of an approximate search."""
        if faiss_engine.is_exact(self.engine):
            return
        settings, measured = self.settings, self.settings.measured
        name = f"{settings.factory} {settings.parameters}".strip()
        if hits.rows[:, -1:].min(initial=0) < 0:  # the usual case costs one look at the last column
            found = (hits.rows >= 0).sum(axis=1)
            wanted = np.maximum(np.minimum(k, count - np.array(banned or [0])), 0)
            short = int((found < wanted).sum())
            if short:
                self._say(
                    "short",
                    f"{short} of {len(found)} queries got fewer than k={k} hits: {name} visits too few; "
                    "tune the index at this k",
                )
        if measured is None:
            self._say("unmeasured", f"the recall of {name} was never measured; tune the index at k={k}")
        elif measured.outdated:
            self._say(
                "outdated",
                f"the index has changed since the recall of {name} was measured; tune it again at k={k}",
            )
        elif min(k, count) > measured.k:
            self._say(
                "k",
                f"{name} was measured at k={measured.k} (recall {measured.recall:.3f}), not at k={k}, where "
                "it finds a smaller share; tune the index at this k",
            )
        elif measured.recall < measured.target:
            self._say("recall", f"expect a recall@{measured.k} of {measured.recall:.3f} from {name}")

    @contextlib.contextmanager
    def untold(self) -> Iterator[None]:
        """Say nothing about recall meanwhile; afterwards everything is said again."""
        self._told = {"short", "unmeasured", "outdated", "k", "recall"}
        try:
            yield
        finally:
            self._told = set()

    def _say(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("%s", message)

    # --- changing -------------------------------------------------------------------------------------

    def add(self, vectors: Vectors, ids: Sequence[str], payloads: Sequence[Payload] | None = None) -> None:
        """Add documents, `vectors` [len(ids), dim], with a payload for each or none; all of them or none.

        Raises InputError for ids that are in the index already, and for bad vectors (by id).
        """
        with self._changing:
            self._put(self.documents, vectors, ids, payloads)

    def add_from(self, vectors: VectorSource, *, upsert: bool = False) -> None:
        """Add the documents of a folder or file of vectors, or with `upsert` replace those that are there.

        Raises InputError as `add` does, and for query vectors and those of another encoder. Where a later
        shard is refused, the shards before it have been added: open the index again.
        """
        if not len(vectors):
            raise InputError(f"{vectors.folder}: holds no vectors")
        self.settings.refuse_other_documents(vectors.manifest.encoder)
        change = self.upsert if upsert else self.add
        # each change of the engine copies the ids, so shards go in together up to a twentieth of the index
        most = min(max(RECENT, len(self.documents) // 20), 2**28 // max(self.dim, 1))
        for shards in grouped(vectors.shards(), most):
            change(
                np.concatenate([as_numpy(matrix) for _, matrix in shards]),
                [name for ids, _ in shards for name in ids],
            )

    def remove(self, ids: Sequence[str]) -> None:
        """Remove documents. They are never found again; `compact` frees their room.

        Raises InputError for ids that are not in the index; then nothing changes.
        """
        with self._changing:
            self._state = self._state._replace(documents=self.documents.without(ids))
            self.made_from = ""

    def delete(self, ids: Sequence[str]) -> int:
        """Remove those of the documents that are in the index; return how many these were."""
        names = unique(ids)
        with self._changing:
            there = [names[place] for place in np.flatnonzero(self.documents.rows(names) >= 0)]
            if there:
                self._state = self._state._replace(documents=self.documents.without(there))
                self.made_from = ""
        return len(there)

    def update(self, vectors: Vectors, ids: Sequence[str], payloads: Sequence[Payload] | None = None) -> None:
        """Replace documents and their payloads; all of them or none.

        Raises InputError for ids that are not in the index; then nothing changes.
        """
        with self._changing:
            self._put(self.documents.without(ids), vectors, ids, payloads)

    def upsert(self, vectors: Vectors, ids: Sequence[str], payloads: Sequence[Payload] | None = None) -> None:
        """Replace the documents that are there and add the others; all of them or none."""
        names = unique(ids)
        with self._changing:
            there = np.flatnonzero(self.documents.rows(names) >= 0)
            rest = self.documents.without([names[place] for place in there])
            self._put(rest, vectors, ids, payloads)

    def compact(self) -> None:
        """Free the room of removed documents, and take those beside the engine into it.

        A graph is built again. Searches wait meanwhile. Worth it after many removals: their rows are visited
        and left out again by every search.

        Raises InputError for a mapped index, and for a factory from which FAISS cannot remove.
        """
        with self._changing:
            self._refuse_mapped("compact")
            state = self._state
            held = len(state.documents.ids)
            keep = np.ones(len(state.documents), dtype=np.bool_)
            if state.documents.removed is not None:
                keep = ~state.documents.removed
            documents, recent = state.documents.compacted(), state.recent[keep[held:]]
            with self._lock.writing():
                self._current()
                if faiss_engine.graph_of(self.engine) is not None:
                    kept = self._vectors_at(state, np.flatnonzero(keep))
                    self._built_again(kept, documents)
                    return
                if keep.all() and not len(recent):
                    return
                if not keep[:held].all():
                    faiss_engine.compact(self.engine, keep[:held])
                if len(recent):
                    faiss_engine.add(self.engine, recent, "compact")
                self._took_in(documents)

    def save(
        self, folder: str | Path, *, extras: Mapping[str, bytes] | None = None, prune: bool = False
    ) -> None:
        """Publish the index: under a free name, or as the next version of the folder it was opened from.

        A version whose engine has not changed holds only what has.

        Args:
            folder: the folder of the index.
            extras: further files of the version, by name.
            prune: delete the older versions that the new one does not need.

        Raises:
            InputError: the name is taken, somebody else is at work there, or has published a version since
                this index was opened.
        """
        folder = Path(folder)
        with self._changing:
            after = self.opened.version if self.opened else None
            if after is not None and after.folder.parent.resolve() == folder.resolve():
                if self._base is None:
                    self.check()  # the engine is written, so it is read
                version = versions.write_next(folder, after, self.content(extras, base=self._base))
            else:
                self.check()
                with versions.Draft(folder) as draft:
                    draft.refuse_checkpoint()
                    version = draft.publish(self.content(extras))
            self.published(version)
        if prune:
            versions.prune(folder)

    def published(self, version: Version) -> None:
        """Note the version on disk that holds this index as it is."""
        # what is mapped is mapped from the version that was opened
        self.opened = replace(self.opened, version=version) if self.opened else Opened(version)
        self._base = version

    def content(self, extras: Mapping[str, bytes] | None = None, base: Version | None = None) -> Content:
        """Return what a version on disk is made of; `base` is one whose engine is this one."""
        state = self._state
        return Content(
            self.engine,
            self.unreachable,
            state.documents,
            state.recent,
            self.settings,
            self.made_from,
            extras or {},
            base,
        )

    def check(self) -> None:
        """Check now what is still to be checked of the file; a search does so too."""
        if self.opened is not None and self.opened.check is not None:
            self.opened.check()

    def _put(
        self, documents: Documents, vectors: Vectors, ids: Sequence[str], payloads: Sequence[Payload] | None
    ) -> None:
        """Make `documents` with further ones the documents of the index."""
        names = listed(ids)
        documents = documents.extended(names, payloads)
        matrix = checked(names, vectors, self.settings.metric, "the documents", self.dim)
        state = self._state
        recent = len(state.recent) + len(matrix)
        mapped = self.opened is not None and self.opened.mapped
        if recent <= (RECENT_MAPPED if mapped else RECENT):
            self._state = State(documents, self._behind(state.recent, matrix))
        else:
            self._refuse_mapped(f"add {len(matrix):,} documents to")
            folded = documents.folded()
            with self._lock.writing():
                self._current()
                matrix = np.concatenate([state.recent, matrix])
                if faiss_engine.takes_all_at_once(self.engine) or not self.layout.holds(matrix):
                    every = np.arange(len(state.documents.ids))
                    self._built_again(np.concatenate([self._vectors_at(state, every), matrix]), folded)
                else:
                    faiss_engine.add(self.engine, self.layout.documents(matrix), "add")
                    self._took_in(folded)
        self.made_from = ""

    def _behind(self, recent: Matrix, matrix: Matrix) -> Matrix:
        """Return recent vectors and further ones behind them; those who hold the former see no change."""
        start, end = len(recent), len(recent) + len(matrix)
        if recent.base is not self._spare or end > len(self._spare):
            self._spare = np.empty((max(16, 2 * end), self.dim), dtype=np.float32)
            self._spare[:start] = recent
        self._spare[start:end] = matrix
        return self._spare[:end]

    def _built_again(self, vectors: Matrix, documents: Documents) -> None:
        """Replace the engine by a new one of these vectors; the caller keeps all others out."""
        settings = self.settings
        if settings.radius:
            settings = msgspec.structs.replace(settings, radius=largest_norm(vectors) or 1.0)
        matrix = Layout(settings.radius).documents(vectors)
        engine = faiss_engine.new_engine(
            matrix.shape[1], settings.factory, distance=settings.ranks_by_distance
        )
        set_parameters(engine, settings.parameters)
        if not engine.is_trained:
            faiss_engine.train(engine, matrix, settings.factory)
        if len(matrix):
            faiss_engine.add(engine, matrix, "compact")
        self.engine, self.settings = engine, settings
        self._took_in(documents)

    def _took_in(self, documents: Documents) -> None:
        """Note that the engine holds all documents now, and that its recall was not measured with them."""
        self._state = State(documents, np.zeros((0, self.dim), dtype=np.float32))
        self.unreachable = faiss_engine.unreachable(self.engine)
        if self.settings.measured is not None:
            measured = msgspec.structs.replace(self.settings.measured, outdated=True)
            self.settings = msgspec.structs.replace(self.settings, measured=measured)
        self._spare, self._base = self._state.recent, None

    def _refuse_mapped(self, what: str) -> None:
        if self.opened is not None and self.opened.mapped:
            raise InputError(f"cannot {what} an index that is mapped from disk; open it without mmap")


def grouped(
    shards: Iterable[tuple[Sequence[str], Vectors]], rows: int
) -> Iterator[list[tuple[Sequence[str], Vectors]]]:
    """Yield runs of shards that hold at least so many rows each, but for the last."""
    rest = iter(shards)
    while first := next(rest, None):
        run, count = [first], len(first[0])
        while count < rows and (shard := next(rest, None)):
            run.append(shard)
            count += len(shard[0])
        yield run


def open_index(folder: str | Path, *, mmap: bool = False, device: str = "cpu") -> Index:
    """Open the current version of a saved index; no answer comes from bytes that were not checked.

    With `mmap` the vectors stay on disk: the index opens at once and is checked before its first answer.

    Raises InputError for any file that was changed, cut or put there by somebody else.
    """
    version, held = versions.read_current(Path(folder), mmap=mmap)
    settings = version.manifest.settings
    set_parameters(held.engine, settings.parameters)
    index = Index(
        held.engine,
        held.documents,
        settings,
        recent=held.recent,
        made_from=version.manifest.made_from,
        opened=Opened(version, held.check if mmap else None, mapped=mmap),
        unreachable=held.unreachable,
    )
    return index if device == "cpu" else place(index, device)


def place(index: Index, device: str, *, shard: bool = False, half: bool = False) -> Index:
    """Return the index on a device (see `o1_index.gpu`); several GPUs hold a copy each, or a part each.

    `half` stores the copies in float16: half the memory, and scores that are rounded. The CPU engine stays
    for what GPUs cannot do: more than 2,048 hits or ties a query, filters, and saving. Both indexes share it:
    go on with the placed one only.
    """
    index.check()
    state = index._state
    return Index(
        index.engine,
        state.documents,
        index.settings,
        recent=state.recent,
        made_from=index.made_from,
        accelerator=accelerate(index.engine, Placement(device, shard=shard, half=half)),
        opened=index.opened,
        lock=index._lock,
        unreachable=index.unreachable,
    )


def export(index: Index, folder: str | Path, ids: Sequence[str] | None = None) -> VectorSet:
    """Write the vectors of documents (by default all) as a folder of vectors, and return it.

    Of a factory of codes, they are what the codes stand for.

    Raises InputError for ids that are not in the index, and for codes that cannot be turned into vectors.
    """
    names = list(index.documents) if ids is None else unique(ids)
    unknown = [names[place] for place in np.flatnonzero(index.documents.rows(names) < 0)[:10]]
    if unknown:
        raise InputError(f"ids are not in the index: {quoted(unknown)}")
    with VectorWriter(folder, encoder=index.settings.encoder) as writer:
        for start in range(0, len(names), 16_384):
            found = index.fetch(names[start : start + 16_384])
            writer.write(found.ids, found.vectors)
        return writer.close()


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
    names = Documents.of([doc_ids])
    right = checked(doc_ids, vectors, metric, "the documents", vectors.shape[-1])
    left = checked(query_ids, query_vectors, metric, "the queries", vectors.shape[-1])
    if metric == "l2":
        scores = np.empty((len(left), len(right)), dtype=np.float32)
        for row, query in enumerate(left):
            scores[row] = -np.square(right - query).sum(axis=1)
    else:
        scores = left @ right.T
    rows = np.tile(np.arange(len(doc_ids)), (len(query_ids), 1))
    for place, query_id in enumerate(query_ids):
        rows[place, names.banned_rows(query_id, excluded)] = -1
    return Hits(query_ids, names, *best(names, rows, scores, k))
