"""Documents on their way into a vector database: checked, sent in parts, continued, counted, searched."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np
from tqdm import tqdm

from o1_index.auto import FLAT_ROWS
from o1_index.databases.database import (
    EFFORT,
    About,
    Database,
    DatabaseStore,
    Target,
    connected,
    created,
    read_about,
    refuse_limits,
    target,
)
from o1_index.documents import Payload, encoded_payloads, read_payloads
from o1_index.hits import Hits
from o1_index.index import Index, open_index
from o1_index.store.manifest import Settings
from o1_index.tuning import QUERIES, RECALL, K, exact_hits, found_shares
from o1_index.vectors import Metric, Vectors, VectorSource, as_numpy, fingerprint, spread
from o1_records import InputError, Record, atomic_write, sha256_file
from o1_records.kit.job import Job
from o1_records.types import Count
from o1_records.vectors import Manifest

ROWS = 16_384
"""Documents that are sent, made durable and noted at a time; at most so many are sent again after a crash."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sent (one INTEGER PRIMARY KEY CHECK (one = 1), shard INTEGER, rows INTEGER);
"""
_log = logging.getLogger("o1_index")


class Uploaded(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an upload did, and how good searches there are: the share of the exact `k` hits that are found.

    `sample` says what was searched for: real queries, or documents in their place, which are easier.
    `seconds` and `sent` are those of the last run; a run that continues another sends less.
    """

    database: str
    engine: str
    documents: Count
    count: Count
    dim: Count
    metric: Metric
    factory: str
    effort: Count
    k: Count
    recall: float
    queries: Count
    sample: Literal["queries", "documents"]
    sent: Count
    seconds: float


class Source(Protocol):
    """Vectors in parts: a folder, a file, or an index (`IndexVectors`)."""

    folder: Path
    manifest: Manifest

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def shard_ids(self) -> Iterator[list[str]]:
        """Yield the ids of each part."""
        ...

    def shards(self, start: int = 0) -> Iterator[tuple[list[str], Vectors]]:
        """Yield ids and vectors of each part, without the first `start`."""
        ...


class IndexVectors:
    """The documents of a saved index as a source; of a factory of codes, what the codes stand for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index: Index = open_index(folder, mmap=True)
        self._names = list(self.index.documents)
        encoder = self.index.settings.encoder
        self.manifest = Manifest(rows=len(self._names), dim=self.index.dim, dtype="float32", encoder=encoder)

    def __len__(self) -> int:
        return len(self._names)

    def digest(self) -> str:
        """Return the digest of the version's manifest, which has those of all its files."""
        assert self.index.opened is not None  # it was opened from a folder
        return self.index.opened.version.manifest.digest

    def shard_ids(self) -> Iterator[list[str]]:
        """Yield the ids in parts."""
        for start in range(0, len(self._names), ROWS):
            yield self._names[start : start + ROWS]

    def shards(self, start: int = 0) -> Iterator[tuple[list[str], Vectors]]:
        """Yield ids and vectors in parts, without the first `start`."""
        for ids in itertools.islice(self.shard_ids(), start, None):
            yield ids, self.index.fetch(ids).vectors

    def payloads(self) -> Iterator[Payload]:
        """Yield what is stored beside each document."""
        for ids in self.shard_ids():
            for row in self.index.documents.rows(ids).tolist():
                yield self.index.documents.payload(row)


def upload(
    source: VectorSource | IndexVectors,
    where: str,
    report: str | Path,
    *,
    payloads: str | Path | None = None,
    metric: Metric | None = None,
    exact: bool | None = None,
    add: bool = False,
    queries: VectorSource | None = None,
    k: int = K,
    effort: int = EFFORT,
    new_job: bool = False,
) -> Uploaded:
    """Put vectors into a collection of a vector database, and measure how well it is searched.

    Everything is read and checked before anything is sent. What was sent is noted in `REPORT.job`: the same
    call continues an interrupted upload, and does nothing once it is done. Documents are upserted by id, so
    none is there twice.

    Args:
        source: the document vectors, or an index, whose payloads go along.
        where: `ENGINE:PLACE#NAME` (see `o1_index.databases.database.FORMS`).
        report: JSON file to write, an `Uploaded`.
        payloads: JSONL file of what is stored beside each document: an object with its doc_id (or _id).
        metric: "inner_product" (default), "cosine" or "l2"; with `add`, and for an index, theirs.
        exact: compare every document with every query, or search a graph; by default exactly up to 100,000
            documents, and where the engine has no graph that can be relied on.
        add: put the documents into a collection that exists, replacing those of the same id.
        queries: query vectors to measure the recall with; by default documents are searched for.
        k: hits a query, at which the recall is measured.
        effort: candidates that an approximate search looks at.
        new_job: move an earlier report, or an interrupted upload, with other settings aside.

    Raises:
        InputError: bad vectors, ids or payloads, which are named; the collection exists (without `add`) or
            not (with it); another encoder, dimension or metric; fewer documents are there than were sent.
        ChangedJobError: earlier work under this name was made from something else.
        MissingExtraError: the client of the database is not installed.
    """
    place = target(where)
    if not len(source):
        raise InputError(f"{source.folder}: holds no vectors")
    if queries is not None and not len(queries):
        raise InputError(f"{queries.folder}: holds no vectors")
    if add and exact is not None:
        raise InputError(
            "how a collection is searched is chosen when it is created; leave exact out with add"
        )
    if isinstance(source, IndexVectors):
        if payloads is not None:
            raise InputError("an index has its payloads in it; leave the file of payloads out")
        if metric not in (None, source.index.settings.metric):
            raise InputError(f"{source.folder}: its metric is {source.index.settings.metric}, not {metric}")
        metric = source.index.settings.metric
    made_from = {
        "vectors": source.digest() if isinstance(source, IndexVectors) else fingerprint(source),
        "payloads": "" if payloads is None else sha256_file(payloads),
        "queries": "" if queries is None else fingerprint(queries),
        "database": str(place),
        "metric": metric or "",
        "exact": "" if exact is None else str(exact),
        "add": str(add),
        "k": str(k),
        "effort": str(effort),
    }
    with Job(report, made_from, schema=_SCHEMA, new_job=new_job) as job:
        if job.finished:
            _log.info("%s: up to date", report)
            return msgspec.json.decode(Path(report).read_bytes(), type=Uploaded)
        work = _Upload(source, place, job, metric=metric, exact=exact, add=add, effort=effort)
        with contextlib.closing(connected(place)) as database:
            found = work.run(database, _stored(source, payloads), queries, k)
        with atomic_write(report) as file:
            file.write(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        job.finish()
    return found


def _stored(source: Source, payloads: str | Path | None) -> list[bytes] | None:
    """Return the payload of each document as JSON, in the order of the source; None where there are none."""
    if isinstance(source, IndexVectors):
        return encoded_payloads(source.payloads(), len(source))
    if payloads is None:
        return None
    return encoded_payloads(
        read_payloads(payloads, [name for ids in source.shard_ids() for name in ids]), len(source)
    )


class _Upload:
    """One upload: everything is checked, then sent, then counted and searched."""

    def __init__(
        self,
        source: Source,
        place: Target,
        job: Job,
        *,
        metric: Metric | None,
        exact: bool | None,
        add: bool,
        effort: int,
    ) -> None:
        self.source, self.place, self.job = source, place, job
        self.metric, self.exact, self.add, self.effort = metric, exact, add, effort

    def run(
        self, database: Database, payloads: Sequence[bytes] | None, queries: VectorSource | None, k: int
    ) -> Uploaded:
        """Do what is left to do, and return the report."""
        self._refuse_limits(database, payloads)
        about = self._about(database)
        if queries is not None:
            about.settings.refuse_other_encoder(queries.manifest.encoder)
        source, itself = self.source if queries is None else queries, queries is None
        parts = list(spread(source.shards(), len(source), QUERIES))
        names = [name for ids, _ in parts for name in ids]
        vectors = np.concatenate([as_numpy(part) for _, part in parts])
        # reads and checks every vector
        exact = exact_hits(self.source.shards(), vectors, names, k=k + itself, metric=about.settings.metric)
        began = time.perf_counter()
        store = self._store(database, about)
        sent = self._send(store, payloads)
        total = len(self.source)
        if store.count() < total and sent < total:
            _log.warning("%s: what an earlier run sent is not all there; sending all again", self.place)
            self.job.db.execute("UPDATE sent SET shard = 0, rows = 0")
            sent = self._send(store, payloads)
        count = store.count()
        if count < total or (count > total and not self.add):
            raise InputError(
                f"{self.place}: holds {count:,} documents after {total:,} were sent; something else "
                "writes there, or has: upload to another collection"
            )
        store.index()
        seconds = time.perf_counter() - began
        recall = self._recall(store, names, vectors, exact, k, itself=itself)
        if recall < RECALL:
            _log.warning(
                "%s: recall@%s is %.3f, below %s; search with a larger effort than %s",
                self.place, k, recall, RECALL, self.effort,
            )  # fmt: skip
        return Uploaded(
            database=str(self.place),
            engine=store.info()["engine"],
            documents=total,
            count=count,
            dim=store.dim,
            metric=store.settings.metric,
            factory=store.settings.factory,
            effort=self.effort,
            k=k,
            recall=recall,
            queries=len(names),
            sample="documents" if itself else "queries",
            sent=sent,
            seconds=round(seconds, 3),
        )

    def _refuse_limits(self, database: Database, payloads: Sequence[bytes] | None) -> None:
        start = 0
        for ids in self.source.shard_ids():
            texts = [] if payloads is None else payloads[start : start + len(ids)]
            refuse_limits(database, self.place, ids, [text.decode() for text in texts])
            start += len(ids)

    def _about(self, database: Database) -> About:
        """Return how the collection is, or is to be. Raises InputError where it is not as it should be."""
        manifest = self.source.manifest
        there = read_about(database, self.place)
        if there is None:
            if self.add:
                raise InputError(f"{self.place}: no such collection; leave --add out to create it")
            settings = Settings(metric=self.metric or "inner_product", encoder=manifest.encoder)
            asked = About(dim=manifest.dim, settings=settings)
            database.shape = asked.shape
            exact = self.exact
            if exact is None:
                exact = len(self.source) <= FLAT_ROWS or bool(database.no_graph())
                _log.info("%s: searched %s", self.place, "exactly" if exact else "by a graph (HNSW)")
            settings = msgspec.structs.replace(settings, factory="Flat" if exact else "HNSW")
            return msgspec.structs.replace(asked, settings=settings)
        if not self.add and self.job.db.row("SELECT 1 FROM sent") is None:
            raise InputError(
                f"{self.place}: there is such a collection already; choose another name, or "
                "give --add to put the documents into it"
            )
        there.settings.refuse_other_documents(manifest.encoder)
        if there.dim != manifest.dim:
            raise InputError(
                f"{self.source.folder}: vectors of {manifest.dim} dimensions, {self.place} has {there.dim}"
            )
        if self.metric not in (None, there.settings.metric):
            raise InputError(f"{self.place}: its metric is {there.settings.metric}, not {self.metric}")
        return there

    def _store(self, database: Database, about: About) -> DatabaseStore:
        """Open the collection, or note that it is ours and create it."""
        if read_about(database, self.place) is not None:
            if self.job.db.row("SELECT 1 FROM sent") is None:
                self.job.db.execute("INSERT INTO sent VALUES (1, 0, 0)")
            return DatabaseStore(database, self.place, about, effort=self.effort)
        self.job.db.execute("INSERT OR REPLACE INTO sent VALUES (1, 0, 0)")
        return created(database, self.place, about, effort=self.effort)

    def _send(self, store: DatabaseStore, payloads: Sequence[bytes] | None) -> int:
        """Send what was not sent; return how many documents these are."""
        shard, skipped = self.job.db.row("SELECT shard, rows FROM sent")
        before = sum(map(len, itertools.islice(self.source.shard_ids(), shard)))
        start = before + skipped
        total = len(self.source)
        with tqdm(total=total, initial=start, desc="upload", unit=" vectors", disable=None) as bar:
            for number, (ids, vectors) in enumerate(self.source.shards(shard), start=shard):
                matrix = as_numpy(vectors)
                for first in range(skipped, len(ids), ROWS):
                    last = min(first + ROWS, len(ids))
                    stored = None
                    if payloads is not None:
                        texts = payloads[before + first : before + last]
                        stored = [msgspec.json.decode(text) if text else {} for text in texts]
                    store.upsert(matrix[first:last], ids[first:last], stored)
                    store.persist()
                    self.job.db.execute("UPDATE sent SET shard = ?, rows = ?", number, last)
                    bar.update(last - first)
                before, skipped = before + len(ids), 0
        return total - int(start)

    def _recall(
        self, store: DatabaseStore, names: list[str], vectors: Vectors, exact: Hits, k: int, *, itself: bool
    ) -> float:
        hits = store.search(vectors, names, k=k + itself)
        if self.add:
            # other documents may take places: those that score below the last hit were not to be found
            full = (hits.rows >= 0).all(axis=1, keepdims=True)
            lowest = np.where(full, hits.scores[:, -1:], -np.inf)
            exact = Hits(
                exact.query_ids, exact.names, np.where(exact.scores >= lowest, exact.rows, -1), exact.scores
            )
        squares = None
        if store.settings.metric == "l2":
            squares = np.square(as_numpy(vectors), dtype=np.float64).sum(axis=1).tolist()
        shares = found_shares(hits, exact, k, itself=itself, squares=squares)
        return float(np.mean(shares)) if shares else 1.0
