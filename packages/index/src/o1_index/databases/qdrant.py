"""Qdrant: the server, or Qdrant Edge (the same engine, in this process) where the place is a folder.

Ids are UUIDs there: of a document the UUID5 of its id, which stands in the payload as `doc_id`. Needs the
`[qdrant]` extra (qdrant-client, qdrant-edge-py). The server's key comes from QDRANT_API_KEY.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import qdrant_client
import qdrant_edge

from o1_index.databases.database import Keep, Neighbour, Shape, Stored, Target, explained, scored, secret
from o1_index.databases.jsonpath import PLAIN, plain_value
from o1_index.documents import Comparison
from o1_index.vectors import Matrix
from o1_records import InputError, atomic_write, quoted
from o1_records.files import PlainErrors
from o1_records.kit.job import Lock, move_aside

SPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "o1-index")
"""The namespace of the UUID5 of a doc_id."""
SENT = 2**21
"""Bytes of vectors that are sent at once; as JSON they are a few times longer; a server takes 32 MiB."""
ASKED = 1_000
"""Documents that are asked for at once."""

_ID = "doc_id"
_ABOUT = "o1_index.about"
_LINKS, _CANDIDATES = 16, 200


def connect(where: Target) -> Collection:
    """Connect to the server, or open the folder, alone."""
    if "://" not in where.place:
        return Collection(_Edge(Path(where.place), where), where)
    with explained(where, _Server.kinds):
        return Collection(_Server(where), where)


class Collection:
    """A `Database`: one collection."""

    shape: Shape
    most: int | None = None
    longest_id: int | None = None
    longest_payload: int | None = None

    def __init__(self, engine: _Engine, where: Target) -> None:
        self._engine = engine
        self._where = where
        self.kinds = engine.kinds

    def about(self) -> str | None:
        """Return what stands beside the collection."""
        return self._engine.about()

    def no_graph(self) -> str:
        """Return nothing: there can always be one."""
        return ""

    def create(self, about: str) -> None:
        """Create the collection."""
        self._engine.create(self.shape, about)

    def put(self, ids: Sequence[str], vectors: Matrix, payloads: Sequence[str]) -> None:
        """Upsert, in batches."""
        fields = [json.loads(payload) for payload in payloads]
        for name, payload in zip(ids, fields, strict=True):
            if _ID in payload:
                raise InputError(
                    f"{self._where}: the payload of {quoted(name)} has a field {_ID!r}, which holds its id "
                    "there; rename the field"
                )
        step = max(1, SENT // (4 * self.shape.dim))
        for start in range(0, len(ids), step):
            self._engine.upsert(
                [
                    _Point(_uuid(ids[row]), vectors[row].tolist(), {_ID: ids[row], **fields[row]})
                    for row in range(start, min(start + step, len(ids)))
                ]
            )

    def drop(self, ids: Sequence[str]) -> None:
        """Delete by id."""
        for part in _parts(ids):
            self._engine.delete(part)

    def nearest(
        self, vectors: Matrix, count: int, keep: Keep, *, payloads: bool, exact: bool, effort: int
    ) -> list[list[Neighbour]]:
        """Search with the filter as part of the search."""
        # the score of a distance is its root, which has lost digits
        kept, effort_or_exact = _filter(keep, booleans=self._engine.booleans), None if exact else effort
        asked = _Asked(vectors.tolist(), count, kept, payloads, self.shape.distance, effort_or_exact)
        found = []
        for vector, points in zip(vectors, self._engine.query(asked), strict=True):
            scores = [point.score for point in points]
            if self.shape.distance and points:
                matrix = np.array([point.vector for point in points], dtype=np.float32)
                scores = scored(vector, matrix, distance=True).tolist()
            found.append(
                [
                    Neighbour(point.payload[_ID], score, _payload(point.payload) if payloads else "")
                    for point, score in zip(points, scores, strict=True)
                ]
            )
        return found

    def get(self, ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        """Return points by id."""
        found: dict[str, Stored] = {}
        for part in _parts(ids):
            for point in self._engine.retrieve(part, vectors):
                vector = np.array(point.vector, dtype=np.float32) if vectors else None
                found[point.payload[_ID]] = Stored(vector, _payload(point.payload))
        return found

    def count(self) -> int:
        """Count the points, not an estimate of them."""
        return self._engine.count()

    def persist(self) -> None:
        """Flush; the server has its log of writes on disk before it answers."""
        self._engine.flush()

    def index(self) -> None:
        """Build the graphs; a server builds them when it has time, and compares all points meanwhile."""
        self._engine.optimize()

    def version(self) -> str:
        """Return the version of the engine."""
        return self._engine.version()

    def close(self) -> None:
        """Close the connection or the folder."""
        self._engine.close()


def _uuid(name: str) -> str:
    return str(uuid.uuid5(SPACE, name))


def _parts(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), ASKED):
        yield [_uuid(name) for name in ids[start : start + ASKED]]


def _payload(fields: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in fields.items() if name != _ID})


# --- the engine, here or behind a server --------------------------------------------------------------


class _Point(NamedTuple):
    id: str
    vector: list[float]
    payload: dict[str, Any]


class _Asked(NamedTuple):
    """A search: `effort` is None where it is exact; `filter` is one of Qdrant's REST interface."""

    vectors: list[list[float]]
    limit: int
    filter: dict[str, Any]
    payloads: bool
    with_vectors: bool
    effort: int | None


class _Engine(Protocol):
    kinds: tuple[type[Exception], ...]
    booleans: bool  # whether it can look for true and false

    def about(self) -> str | None: ...
    def create(self, shape: Shape, about: str) -> None: ...
    def upsert(self, points: Sequence[_Point]) -> None: ...
    def delete(self, ids: list[str]) -> None: ...
    def query(self, asked: _Asked) -> list[list[Any]]: ...
    def retrieve(self, ids: list[str], vectors: bool) -> list[Any]: ...
    def count(self) -> int: ...
    def flush(self) -> None: ...
    def optimize(self) -> None: ...
    def version(self) -> str: ...
    def close(self) -> None: ...


class _Edge:
    """A shard in the folder PLACE/NAME; what it was made from stands in PLACE/NAME.json."""

    kinds: tuple[type[Exception], ...] = (OSError,)
    booleans = False  # its MatchValue takes True for 1

    def __init__(self, place: Path, where: Target) -> None:
        self._shard: Any = None
        self._told = PlainErrors(f"{where}: Qdrant Edge")
        self._folder = place / where.name
        self._about = place / f"{where.name}.json"
        with ExitStack() as stack:
            place.mkdir(parents=True, exist_ok=True)
            stack.enter_context(Lock(place / f"{where.name}.lock"))
            if self._about.exists():
                with self._told:
                    self._shard = qdrant_edge.EdgeShard.load(str(self._folder))
            self._stack = stack.pop_all()

    def about(self) -> str | None:
        return self._about.read_text(encoding="utf-8") if self._about.exists() else None

    def create(self, shape: Shape, about: str) -> None:
        move_aside(self._folder)  # of one that was killed while it created the collection
        distance = qdrant_edge.Distance.Euclid if shape.distance else qdrant_edge.Distance.Dot
        self._folder.mkdir()
        config = qdrant_edge.EdgeConfig(
            vectors=qdrant_edge.EdgeVectorParams(size=shape.dim, distance=distance),
            # without links there is no graph, and every search is exact
            hnsw_config=qdrant_edge.HnswIndexConfig(
                m=0 if shape.exact else _LINKS, ef_construct=_CANDIDATES, full_scan_threshold=10
            ),
            optimizers=qdrant_edge.EdgeOptimizersConfig(indexing_threshold=10),
        )
        with self._told:
            self._shard = qdrant_edge.EdgeShard.create(str(self._folder), config)
        with atomic_write(self._about) as file:
            file.write(about.encode())

    def upsert(self, points: Sequence[_Point]) -> None:
        with self._told:
            self._shard.update(
                qdrant_edge.UpdateOperation.upsert_points([qdrant_edge.Point(*point) for point in points])
            )

    def delete(self, ids: list[str]) -> None:
        with self._told:
            self._shard.update(qdrant_edge.UpdateOperation.delete_points(ids))

    def query(self, asked: _Asked) -> list[list[Any]]:
        parameters = qdrant_edge.SearchParams(hnsw_ef=asked.effort, exact=asked.effort is None)
        requests = [
            qdrant_edge.QueryRequest(
                limit=asked.limit,
                query=qdrant_edge.Query.Nearest(vector),
                filter=_edge_filter(asked.filter),
                params=parameters,
                with_payload=True if asked.payloads else [_ID],
                with_vector=asked.with_vectors,
            )
            for vector in asked.vectors
        ]
        with self._told:
            found: list[list[Any]] = self._shard.query_batch(qdrant_edge.QueryBatchRequest(requests))
        return found

    def retrieve(self, ids: list[str], vectors: bool) -> list[Any]:
        with self._told:
            return list(self._shard.retrieve(ids, with_payload=True, with_vector=vectors))

    def count(self) -> int:
        with self._told:
            return int(self._shard.count(qdrant_edge.CountRequest(exact=True)))

    def flush(self) -> None:
        with self._told:
            self._shard.flush()

    def optimize(self) -> None:
        with self._told:
            self._shard.optimize()
            self._shard.flush()

    def version(self) -> str:
        from importlib.metadata import version

        return f"Qdrant Edge {version('qdrant-edge-py')}"

    def close(self) -> None:
        with self._stack, self._told:
            if self._shard is not None:
                self._shard.close()


class _Server:
    """A collection of a Qdrant server of 1.16 or later (its collections have metadata)."""

    kinds: tuple[type[Exception], ...] = (
        qdrant_client.http.exceptions.ApiException,
        qdrant_client.http.exceptions.ResponseHandlingException,
        OSError,
    )
    booleans = True

    def __init__(self, where: Target) -> None:
        self._client = qdrant_client.QdrantClient(
            url=where.place, api_key=secret("QDRANT_API_KEY"), timeout=600
        )
        self._name = where.name

    def about(self) -> str | None:
        if not self._client.collection_exists(self._name):
            return None
        metadata = self._client.get_collection(self._name).config.metadata or {}
        return str(metadata.get(_ABOUT, ""))

    def create(self, shape: Shape, about: str) -> None:
        models = qdrant_client.models
        distance = models.Distance.EUCLID if shape.distance else models.Distance.DOT
        self._client.create_collection(
            self._name,
            vectors_config=models.VectorParams(size=shape.dim, distance=distance),
            hnsw_config=models.HnswConfigDiff(m=0 if shape.exact else _LINKS, ef_construct=_CANDIDATES),
            metadata={_ABOUT: about},
        )

    def upsert(self, points: Sequence[_Point]) -> None:
        models = qdrant_client.models
        rows = [
            models.PointStruct(id=point.id, vector=point.vector, payload=point.payload) for point in points
        ]
        self._client.upsert(self._name, rows, wait=True)

    def delete(self, ids: list[str]) -> None:
        self._client.delete(self._name, qdrant_client.models.PointIdsList(points=list(ids)), wait=True)

    def query(self, asked: _Asked) -> list[list[Any]]:
        models = qdrant_client.models
        parameters = models.SearchParams(hnsw_ef=asked.effort, exact=asked.effort is None)
        requests = [
            models.QueryRequest(
                query=vector,
                limit=asked.limit,
                filter=models.Filter(**asked.filter) if asked.filter else None,
                params=parameters,
                with_payload=True if asked.payloads else [_ID],
                with_vector=asked.with_vectors,
            )
            for vector in asked.vectors
        ]
        return [answer.points for answer in self._client.query_batch_points(self._name, requests)]

    def retrieve(self, ids: list[str], vectors: bool) -> list[Any]:
        return list(self._client.retrieve(self._name, ids, with_payload=True, with_vectors=vectors))

    def count(self) -> int:
        return int(self._client.count(self._name, exact=True).count)

    def flush(self) -> None:
        pass

    def optimize(self) -> None:
        pass

    def version(self) -> str:
        return f"Qdrant {self._client.info().version}"

    def close(self) -> None:
        self._client.close()


# --- filters ------------------------------------------------------------------------------------------


def _filter(keep: Keep, *, booleans: bool) -> dict[str, Any]:
    """Return a filter of Qdrant's REST interface that keeps what is to be kept, and perhaps more."""
    must = [test for each in keep.comparisons if (test := _test(each, booleans))]
    if keep.only is not None:
        must.append({"has_id": [_uuid(name) for name in keep.only]})
    return {"must": must} if must else {}


def _test(comparison: Comparison, booleans: bool) -> dict[str, Any]:
    values = comparison.value if comparison.how == "in" else [comparison.value]
    if not PLAIN.fullmatch(comparison.field) or not all(map(plain_value, values)):
        return {}
    if not booleans and any(isinstance(value, bool) for value in values):
        return {}
    if comparison.how in ("=", "in"):
        return _any([_equal(comparison.field, value) for value in values])
    [value] = values
    if isinstance(value, str):
        return {"key": comparison.field, "match": {"except": [value]}} if comparison.how == "!=" else {}
    if isinstance(value, bool):
        return _equal(comparison.field, not value) if comparison.how == "!=" else {}
    if comparison.how == "!=":
        return _any([_range(comparison.field, lt=value), _range(comparison.field, gt=value)])
    name = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[comparison.how]
    return _range(comparison.field, **{name: value})


def _equal(field: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str | bool):
        return {"key": field, "match": {"value": value}}
    return _range(field, gte=value, lte=value)  # 5 is 5.0, too


def _range(field: str, **limits: float) -> dict[str, Any]:
    return {"key": field, "range": limits}


def _any(tests: list[dict[str, Any]]) -> dict[str, Any]:
    return {"should": tests}


def _edge_filter(test: Mapping[str, Any]) -> Any:
    """Return a filter of the REST interface as objects of Qdrant Edge; None for an empty one."""
    if "must" in test or "should" in test:
        [(how, tests)] = test.items()
        return qdrant_edge.Filter(**{how: [_edge_filter(each) for each in tests]})
    if "has_id" in test:
        return qdrant_edge.HasIdCondition(set(test["has_id"]))
    if "range" in test:
        return qdrant_edge.FieldCondition(test["key"], range=qdrant_edge.RangeFloat(**test["range"]))
    if "match" in test:
        match = test["match"]
        if "except" in match:
            return qdrant_edge.FieldCondition(test["key"], match=qdrant_edge.MatchExcept(match["except"]))
        return qdrant_edge.FieldCondition(test["key"], match=qdrant_edge.MatchValue(match["value"]))
    return None
