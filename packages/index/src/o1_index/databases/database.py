"""A vector database as a `VectorStore`: what is checked, asked for again and ordered here, for every engine.

A `Database` is the thin part that is different for each engine: one file each in this folder. An engine cuts
ties at will, orders them by chance, may lose hits to a filter, and takes NaN and repeated ids. So all input
is checked before it is sent; more than k is fetched until the k-th place is settled (`hits.settled_hits`); a
filter is looked at again here, so that the engine's own may be the looser one; and a query that got too few
is asked again without the engine's approximate index.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import operator
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index.documents import (
    Comparison,
    Excluded,
    Payload,
    Rows,
    Where,
    comparisons,
    condition,
    encoded_payloads,
    refuse_text,
    unique,
)
from o1_index.hits import Hits, Scores, first_of, settled_hits
from o1_index.index import Fetched
from o1_index.store.manifest import Settings
from o1_index.vectors import Matrix, Metric, Vectors, checked
from o1_records import InputError, MissingExtraError, quoted
from o1_records.vectors import Encoder

EFFORT = 128
"""Candidates that an approximate search looks at (`ef`), at least as many as hits are asked for."""

_log = logging.getLogger("o1_index")

# --- what every engine has to do ----------------------------------------------------------------------


class Neighbour(NamedTuple):
    """A document that an engine found; `payload` is JSON, "" where it was not asked for."""

    doc_id: str
    score: float
    payload: str = ""


class Stored(NamedTuple):
    """A document that an engine holds; `vector` is None where it was not asked for."""

    vector: Matrix | None
    payload: str


@dataclass(frozen=True)
class Keep:
    """Which documents a search keeps; an engine may keep more, since all are looked at again."""

    only: Sequence[str] | None = None
    comparisons: Sequence[Comparison] = ()


class Shape(NamedTuple):
    """How a collection was made; `distance`: scores are minus the squared one, not inner products.

    `exact`: without an approximate index.
    """

    dim: int
    distance: bool
    exact: bool


class Database(Protocol):
    """One collection in an engine. Higher scores are better.

    `shape` is set by who uses it, before anything but `about` is called. `kinds` are the engine's errors,
    `most` is how many documents one search can return, `longest_id` and `longest_payload` are limits in
    bytes; None: no limit.
    """

    shape: Shape
    kinds: tuple[type[Exception], ...]
    most: int | None
    longest_id: int | None
    longest_payload: int | None

    def about(self) -> str | None:
        """Return what was noted about the collection; "" where nothing was, None where there is none."""
        ...

    def no_graph(self) -> str:
        """Return why there can be no approximate index of this shape; "" where there can."""
        ...

    def create(self, about: str) -> None:
        """Create the collection."""
        ...

    def put(self, ids: Sequence[str], vectors: Matrix, payloads: Sequence[str]) -> None:
        """Write documents, replacing those of the same id."""
        ...

    def drop(self, ids: Sequence[str]) -> None:
        """Remove documents; ids that are not there do not matter."""
        ...

    def nearest(
        self, vectors: Matrix, count: int, keep: Keep, *, payloads: bool, exact: bool, effort: int
    ) -> list[list[Neighbour]]:
        """Return for each query the `count` nearest of the documents to keep, or of more than those."""
        ...

    def get(self, ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        """Return those of the documents that are there."""
        ...

    def count(self) -> int:
        """Return how many documents there are now, not some time ago."""
        ...

    def persist(self) -> None:
        """Return when what was put survives the end of this process."""
        ...

    def index(self) -> None:
        """Return when the approximate index, if there is one, holds every document."""
        ...

    def version(self) -> str:
        """Return the name and version of the engine."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def scored(query: Matrix, vectors: Matrix, *, distance: bool) -> Scores:
    """Return the scores of vectors [any, dim], for engines whose own have lost digits."""
    if distance:
        scores: Scores = -np.square(vectors - query).sum(axis=1)
        return scores
    products: Scores = vectors @ query
    return products


# --- where a collection is ----------------------------------------------------------------------------

ENGINES = ("milvus", "qdrant", "lance", "pgvector")
FORMS = (
    "milvus:FILE.db#NAME, milvus:http://HOST:19530#NAME, qdrant:FOLDER#NAME, qdrant:http://HOST:6333#NAME, "
    "lance:FOLDER#NAME, pgvector:postgresql://USER@HOST/DATABASE#NAME"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class Target(NamedTuple):
    """A collection in a database: the engine, where it is, and the name of the collection."""

    engine: str
    place: str
    name: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.place}#{self.name}"


def target(text: str) -> Target:
    """Return what `ENGINE:PLACE#NAME` names.

    Raises InputError for another form, for a name that not every engine takes, and for a password, which
    would be kept in reports.
    """
    engine, _, rest = text.partition(":")
    place, _, name = rest.rpartition("#")
    if engine not in ENGINES or not place:
        raise InputError(f"database {quoted(text)}: give one of {FORMS}")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"database {quoted(text)}: the name of the collection, {quoted(name)}, must be letters, "
            "digits and underscores, at most 63, and not begin with a digit"
        )
    if "://" in place and urllib.parse.urlsplit(place).password:
        raise InputError(
            f"{engine}: leave the password out of the address; give it in the environment "
            "(MILVUS_TOKEN, QDRANT_API_KEY, PGPASSWORD) or, for PostgreSQL, in ~/.pgpass"
        )
    return Target(engine, place, name)


def secret(name: str) -> str | None:
    """Return a key from the environment; None where it is not set."""
    return os.environ.get(name) or None


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is noted with a collection: the factory is "Flat" (exact search) or "HNSW"."""

    dim: int
    settings: Settings

    @property
    def shape(self) -> Shape:
        """How the engine is to hold it."""
        return Shape(self.dim, self.settings.metric == "l2", self.settings.factory == "Flat")


# --- the store ----------------------------------------------------------------------------------------


class DatabaseStore:
    """A collection in a vector database; a `VectorStore` and a context manager.

    Made by `open_store` and `create_store`. An upsert or deletion that breaks in the middle (a lost
    connection, say) may have been done in part; the same call again completes it.
    """

    def __init__(self, database: Database, where: Target, about: About, *, effort: int = EFFORT) -> None:
        self.database = database
        self.database.shape = about.shape
        self.target = where
        self.settings = about.settings
        self.dim = about.dim
        self.effort = effort
        self._told: set[str] = set()

    def __enter__(self) -> DatabaseStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, or let go of the files."""
        self.database.close()

    @property
    def exact(self) -> bool:
        """Whether every document is compared with every query."""
        return self.settings.factory == "Flat"

    def count(self) -> int:
        """Return how many documents can be found."""
        with self._explained():
            return self.database.count()

    def info(self) -> dict[str, Any]:
        """Return what there is to know about the collection, as JSON would hold it."""
        with self._explained():
            engine = self.database.version()
        return {
            "documents": self.count(),
            "dim": self.dim,
            "metric": self.settings.metric,
            "factory": self.settings.factory,
            "exact": self.exact,
            "encoder": msgspec.to_builtins(self.settings.encoder),
            "database": str(self.target),
            "engine": engine,
        }

    def upsert(self, vectors: Vectors, ids: Sequence[str], payloads: Sequence[Payload] | None = None) -> None:
        """Replace the documents that are there, with their payloads, and add the others.

        Raises InputError, before anything is sent, for duplicate ids, bad vectors (by id), and what the
        engine does not take.
        """
        names = unique(ids)
        matrix = checked(names, vectors, self.settings.metric, "the documents", self.dim)
        texts = ["{}"] * len(names)
        if payloads is not None:
            texts = [text.decode() or "{}" for text in encoded_payloads(payloads, len(names))]
        refuse_limits(self.database, self.target, names, texts)
        if names:
            with self._explained():
                self.database.put(names, matrix, texts)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove those of the documents that are there; return how many these were."""
        names = unique(ids)
        with self._explained():
            there = list(self.database.get(names, vectors=False)) if names else []
            if there:
                self.database.drop(there)
        return len(there)

    def fetch(self, ids: Sequence[str]) -> Fetched:
        """Return those of the documents that are there, in the order asked for."""
        names = unique(ids)
        with self._explained():
            stored = self.database.get(names, vectors=True) if names else {}
        found = [name for name in names if name in stored]
        vectors = np.zeros((len(found), self.dim), dtype=np.float32)
        for row, name in enumerate(found):
            vectors[row] = stored[name].vector
        return Fetched(found, vectors, [_decoded(stored[name].payload) for name in found])

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
        """Return the k best documents of each query, in the total order; see `Index.search`.

        A filter that the engine cannot evaluate (a function, an order of texts, say) is evaluated here, on
        more and more documents until k are left. Where an engine returns too few for that, an error says so.
        """
        k = operator.index(k)
        if k < 1:
            raise InputError(f"k must be 1 or more, got {k}")
        names = unique(query_ids)
        vectors = checked(names, query_vectors, self.settings.metric, "the queries", self.dim)
        chosen = None if only is None else frozenset(refuse_text(only, "only"))
        native = () if where is None or callable(where) else tuple(comparisons(where))
        keep = Keep(None if chosen is None else sorted(chosen), native)
        banned = [set(refuse_text((excluded or {}).get(name, ()), "excluded documents")) for name in names]
        found = _Found(banned, chosen, None if where is None else condition(where), self._payloads)
        rest = self.count()
        most = rest if self.database.most is None else min(rest, self.database.most)
        if min(k, rest) > most:
            raise InputError(f"{self.target}: one search returns at most {most:,} documents; k is {k:,}")

        def fetch(part: Vectors, count: int) -> tuple[Scores, Rows]:
            return found.taken(self._nearest(part, count, keep, payloads=where is not None), count)

        with self._explained():
            rows, scores = settled_hits(
                fetch,
                vectors,
                found,
                found,
                k=min(k, rest),
                first=k + 1 + max(map(len, banned), default=0),
                most=most,
            )
        counts = (rows >= 0).sum(axis=1)
        if most < rest and found.cut_off and (counts < min(k, rest)).any():
            raise InputError(
                f"{self.target}: one search returns at most {most:,} documents, and the filter leaves "
                f"fewer than k={k} of these to some queries; use a filter that the engine evaluates (a field "
                "compared with numbers or texts), or a smaller k"
            )
        if not self.exact:
            self._tell_once(
                f"{self.target}: searches are approximate (HNSW, effort {self.effort}); the report of "
                "the upload has their recall"
            )
        return Hits(names, found, rows, scores)

    def persist(self) -> None:
        """Return when what was written survives the end of this process."""
        with self._explained():
            self.database.persist()

    def index(self) -> None:
        """Return when the approximate index, if there is one, holds every document."""
        with self._explained():
            self.database.index()

    def _nearest(self, vectors: Matrix, count: int, keep: Keep, *, payloads: bool) -> list[list[Neighbour]]:
        """Ask the engine; queries that got too few are asked again without its approximate index."""
        ask = functools.partial(self.database.nearest, payloads=payloads, effort=max(self.effort, count))
        found = ask(vectors, count, keep, exact=self.exact)
        short = [place for place, each in enumerate(found) if len(each) < count]
        if short and not self.exact:
            for place, each in zip(short, ask(vectors[short], count, keep, exact=True), strict=True):
                found[place] = each
        for each in found:
            if len({neighbour.doc_id for neighbour in each}) < len(each):
                raise InputError(
                    f"{self.target}: holds a document twice; something else than o1-index wrote there: "
                    "upload again, to another collection"
                )
        return found

    def _payloads(self, ids: Sequence[str]) -> dict[str, str]:
        with self._explained():
            return {name: stored.payload for name, stored in self.database.get(ids, vectors=False).items()}

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _log.warning("%s", message)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        with explained(self.target, self.database.kinds):
            yield


def refuse_limits(
    database: Database, where: Target, ids: Sequence[str], payloads: Sequence[str] = ()
) -> None:
    """Raise InputError for ids and payloads (as JSON) that the engine does not take."""
    most = database.longest_id
    for name in ids:
        size = len(name.encode())
        if "\0" in name or (most is not None and size > most):
            what = "has a NUL character" if "\0" in name else f"has {size:,} bytes, the limit is {most:,}"
            raise InputError(f"{where}: id {quoted(name)} {what}; rename the document")
    most = database.longest_payload
    for name, payload in zip(ids, payloads, strict=True) if payloads else ():
        if "\\u0000" in payload:
            raise InputError(f"{where}: the payload of {quoted(name)} has a NUL character; leave it out")
        size = len(payload.encode())
        if most is not None and size > most:
            raise InputError(
                f"{where}: the payload of {quoted(name)} has {size:,} bytes, the limit is {most:,}; "
                "leave fields out"
            )


@contextlib.contextmanager
def explained(where: Target, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise an engine's errors as InputError, with the collection."""
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: {text[:500]}") from error


@dataclass
class _Found:
    """The documents that a search has seen, by row; which of them are no hits; their payloads."""

    banned: Sequence[Set[str]]
    only: Set[str] | None
    matches: Callable[[Payload], bool] | None
    payloads_of: Callable[[Sequence[str]], Mapping[str, str]]
    names: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    hidden: list[bool] = field(default_factory=list)
    cut_off: bool = False
    stored: Mapping[str, str] | None = None

    def taken(self, found: Sequence[Sequence[Neighbour]], count: int) -> tuple[Scores, Rows]:
        """Return what was found as scores and rows [queries, count], best first; row -1: no more."""
        rows = np.full((len(found), count), -1, dtype=np.int64)
        scores = np.full((len(found), count), -np.inf, dtype=np.float32)
        for place, each in enumerate(found):
            rows[place, : len(each)] = [self._row(neighbour) for neighbour in each]
            scores[place, : len(each)] = [neighbour.score for neighbour in each]
            self.cut_off |= len(each) == count
        return first_of(scores, rows, count)

    def _row(self, neighbour: Neighbour) -> int:
        row = self.rows.setdefault(neighbour.doc_id, len(self.names))
        if row == len(self.names):
            self.names.append(neighbour.doc_id)
            hidden = self.only is not None and neighbour.doc_id not in self.only
            if not hidden and self.matches is not None:
                hidden = not self.matches(_decoded(neighbour.payload))
            self.hidden.append(hidden)
        return row

    def empty(self, rows: Rows, queries: Sequence[int] | NDArray[np.int64]) -> None:
        """Set rows [queries, any] that are no hits of these queries to -1."""
        if any(self.hidden):
            rows[np.array(self.hidden)[rows] & (rows >= 0)] = -1
        for place, query in enumerate(queries):
            gone = [self.rows[name] for name in self.banned[query] if name in self.rows]
            if gone:
                rows[place, np.isin(rows[place], gone)] = -1

    def texts(self, rows: Rows) -> NDArray[np.object_]:
        """Return the ids of rows [any]."""
        names: NDArray[np.object_] = np.empty(len(rows), dtype=object)
        names[:] = [self.names[row] for row in rows.tolist()]
        return names

    def payload(self, row: int) -> dict[str, Any]:
        """Return what is stored beside the document of a row; all are asked for at once."""
        if self.stored is None:
            self.stored = self.payloads_of(self.names)
        return _decoded(self.stored.get(self.names[row], ""))


def _decoded(payload: str) -> dict[str, Any]:
    return msgspec.json.decode(payload, type=dict[str, Any]) if payload else {}


# --- opening ------------------------------------------------------------------------------------------


def connected(where: Target) -> Database:
    """Return the database, whether it holds the collection or not.

    Raises:
        MissingExtraError: the client is not installed.
        InputError: it cannot be reached, or somebody else is at work in its files.
    """
    try:
        plug = importlib.import_module(f"o1_index.databases.{where.engine}")
        connect: Callable[[Target], Database] = plug.connect
        return connect(where)
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-index", where.engine, f"the database {where.engine}") from error


def open_store(where: str | Target, *, effort: int = EFFORT) -> DatabaseStore:
    """Open a collection that `create_store` or `o1-index export` made.

    Args:
        where: `ENGINE:PLACE#NAME` (see `FORMS`).
        effort: candidates that an approximate search looks at (`ef`), and at least as many as hits.

    Raises:
        MissingExtraError: the client is not installed.
        InputError: there is no such collection, or something else made it.
    """
    where = target(where) if isinstance(where, str) else where
    database = connected(where)
    try:
        about = read_about(database, where)
        if about is None:
            raise InputError(f"{where}: no such collection; upload one with `o1-index export`")
        return DatabaseStore(database, where, about, effort=effort)
    except BaseException:
        database.close()
        raise


def read_about(database: Database, where: Target) -> About | None:
    """Return what was noted with a collection; None where there is none.

    Raises InputError for a collection that something else made.
    """
    with explained(where, database.kinds):
        text = database.about()
    try:
        return None if text is None else msgspec.json.decode(text, type=About)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{where}: o1-index did not make this collection, or another release did; choose another name"
        ) from error


def create_store(
    where: str | Target,
    dim: int,
    *,
    metric: Metric = "inner_product",
    encoder: Encoder | None = None,
    exact: bool = True,
    effort: int = EFFORT,
) -> DatabaseStore:
    """Create an empty collection.

    Args:
        where: `ENGINE:PLACE#NAME` (see `FORMS`).
        dim: dimensions of a vector.
        metric: "inner_product", "cosine" (vectors are stored at unit length) or "l2".
        encoder: what makes the vectors; queries of another encoder are refused.
        exact: compare every document with every query; else search the engine's HNSW graph.
        effort: candidates that an approximate search looks at (`ef`), and at least as many as hits.

    Raises InputError as `open_store` does, and where there is such a collection.
    """
    where = target(where) if isinstance(where, str) else where
    settings = Settings(factory="Flat" if exact else "HNSW", metric=metric, encoder=encoder)
    database = connected(where)
    try:
        if read_about(database, where) is not None:
            raise InputError(f"{where}: there is such a collection already; choose another name")
        return created(database, where, About(dim=dim, settings=settings), effort=effort)
    except BaseException:
        database.close()
        raise


def created(database: Database, where: Target, about: About, *, effort: int = EFFORT) -> DatabaseStore:
    """Create a collection that is not there. Raises InputError where the engine cannot hold it so."""
    database.shape = about.shape
    if not about.shape.exact and database.no_graph():
        raise InputError(f"{where}: {database.no_graph()}; search exactly, or choose another database")
    with explained(where, database.kinds):
        database.create(msgspec.json.encode(about).decode())
    return DatabaseStore(database, where, about, effort=effort)
