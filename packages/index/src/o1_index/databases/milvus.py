"""Milvus: the server, or Milvus Lite in this process where the place is a file whose name ends in .db.

Milvus counts some time after it writes, unless asked for strong consistency; takes NaN; and the server keeps
both of two rows with one id in a batch. Needs the `[milvus]` extra. A server's token comes from MILVUS_TOKEN.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from o1_index.databases.database import Keep, Neighbour, Shape, Stored, Target, explained, scored, secret
from o1_index.databases.jsonpath import PLAIN, plain_value
from o1_index.documents import Comparison
from o1_index.vectors import Matrix

SENT = 2**22
"""Bytes of vectors and payloads that are sent at once; the server takes 64 MiB."""
ASKED = 1_000
"""Documents that are asked for at once."""
MOST_EFFORT = 32_768
"""`ef` is at most this."""
WIDER = 8
"""Times as many candidates are looked at under a filter: many of them are left out."""

_ABOUT = "o1_index.about"
_ERRORS = (MilvusException, grpc.RpcError)


def connect(where: Target) -> Collection:
    """Connect to the server, or open the file."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors are raised as well
    with explained(where, (*_ERRORS, OSError)):
        token = secret("MILVUS_TOKEN") if "://" in where.place else None
        return Collection(MilvusClient(where.place, **({"token": token} if token else {})), where)


class Collection:
    """A `Database`: one collection."""

    shape: Shape
    kinds: tuple[type[Exception], ...] = _ERRORS
    most: int | None = 16_384
    longest_id: int | None = 65_535
    longest_payload: int | None = 65_536

    def __init__(self, client: Any, where: Target) -> None:
        self._client = client
        self._name = where.name
        self._place = where.place
        self._is_server = "://" in where.place

    def about(self) -> str | None:
        """Return the property of the collection; loads it."""
        if not self._client.has_collection(self._name):
            return None
        self._client.load_collection(self._name)
        properties = self._client.describe_collection(self._name)["properties"]
        return str(properties.get(_ABOUT, ""))

    def no_graph(self) -> str:
        """Return that Milvus Lite loses hits."""
        lite = "Milvus Lite ignores ef in a graph where documents are filtered or deleted, and loses hits"
        return "" if self._is_server else lite

    def create(self, about: str) -> None:
        """Create the collection with its index and load it."""
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=self.longest_id)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.shape.dim)
        schema.add_field("payload", DataType.JSON)
        index = self._client.prepare_index_params()
        index.add_index(
            "vector",
            index_type="FLAT" if self.shape.exact else "HNSW",
            metric_type="L2" if self.shape.distance else "IP",
            params={} if self.shape.exact else {"M": 16, "efConstruction": 200},
        )
        self._client.create_collection(
            self._name,
            schema=schema,
            index_params=index,
            consistency_level="Strong",
            properties={_ABOUT: about},
        )

    def put(self, ids: Sequence[str], vectors: Matrix, payloads: Sequence[str]) -> None:
        """Upsert, in batches."""
        for part in _batches(vectors, payloads):
            rows = [
                {"id": ids[row], "vector": vectors[row], "payload": json.loads(payloads[row])} for row in part
            ]
            self._client.upsert(self._name, rows)

    def drop(self, ids: Sequence[str]) -> None:
        """Delete by id."""
        for start in range(0, len(ids), ASKED):
            self._client.delete(self._name, filter=_in(ids[start : start + ASKED]))

    def nearest(
        self, vectors: Matrix, count: int, keep: Keep, *, payloads: bool, exact: bool, effort: int
    ) -> list[list[Neighbour]]:
        """Search with the filter as a mask.

        `exact` looks at as many candidates as the graph can; where that is too few, because parts of a graph
        are cut off from others, every document that passes the filter is compared here.
        """
        kept = _filter(keep)
        effort = MOST_EFFORT if exact else min(max(effort, count) * (WIDER if kept else 1), MOST_EFFORT)
        answers = self._client.search(
            self._name,
            list(vectors),
            limit=count,
            filter=kept,
            output_fields=["id", "payload"] if payloads else ["id"],
            search_params={"params": {} if self.shape.exact else {"ef": effort}},
        )
        sign = -1.0 if self.shape.distance else 1.0
        found = [
            [
                Neighbour(
                    hit["id"],
                    sign * hit["distance"],
                    json.dumps(hit["entity"]["payload"]) if payloads else "",
                )
                for hit in hits
            ]
            for hits in answers
        ]
        short = [place for place, hits in enumerate(found) if len(hits) < count]
        if short and exact and not self.shape.exact:
            for place, hits in zip(short, self._compared(vectors[short], count, kept), strict=True):
                found[place] = hits
        return found

    def _compared(self, vectors: Matrix, count: int, kept: str) -> list[list[Neighbour]]:
        """Return the best of all documents that pass a filter, compared here."""
        rows = self._client.query(self._name, filter=kept or 'id != ""', output_fields=["id"])
        names = [row["id"] for row in rows]
        best: list[list[Neighbour]] = [[] for _ in vectors]
        for start in range(0, len(names), ASKED):
            stored = self.get(names[start : start + ASKED], vectors=True)
            matrix = np.array([document.vector for document in stored.values()], dtype=np.float32)
            payloads = [document.payload for document in stored.values()]
            for place, vector in enumerate(vectors):
                scores = scored(vector, matrix, distance=self.shape.distance).tolist()
                near = map(Neighbour, stored, scores, payloads)
                best[place] = heapq.nlargest(count, [*best[place], *near], key=lambda each: each.score)
        return best

    def get(self, ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        """Return rows by id."""
        fields = ["id", "payload", *(["vector"] if vectors else [])]
        found: dict[str, Stored] = {}
        for start in range(0, len(ids), ASKED):
            # not `get`, which puts ids into its filter as they are, quotes and all
            among = _in(ids[start : start + ASKED])
            for row in self._client.query(self._name, filter=among, output_fields=fields):
                vector = np.asarray(row["vector"], dtype=np.float32) if vectors else None
                found[row["id"]] = Stored(vector, json.dumps(row["payload"]))
        return found

    def count(self) -> int:
        """Count by a query, which sees every write; the statistics of a collection lag behind."""
        [row] = self._client.query(self._name, filter="", output_fields=["count(*)"])
        return int(row["count(*)"])

    def persist(self) -> None:
        """Do nothing: what was written is in a log before the answer comes.

        A flush would be dear on a server; and Milvus Lite, killed in one, cannot open its file again.
        """

    def index(self) -> None:
        """Flush where there is a graph: segments that are closed are indexed, others compared exactly."""
        if not self.shape.exact:
            self._client.flush(self._name)

    def version(self) -> str:
        """Return the version of the server."""
        return f"{'Milvus' if self._is_server else 'Milvus Lite'} {self._client.get_server_version()}"

    def close(self) -> None:
        """Close the connection, or let go of the file."""
        self._client.close()
        if not self._is_server:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self._place)


def _batches(vectors: Matrix, payloads: Sequence[str]) -> Iterator[range]:
    """Yield runs of rows whose vectors and payloads are about `SENT` bytes."""
    start, size = 0, 0
    for row, payload in enumerate(payloads):
        size += vectors[row].nbytes + len(payload)
        if size >= SENT or row == len(payloads) - 1:
            yield range(start, row + 1)
            start, size = row + 1, 0


# --- filters ------------------------------------------------------------------------------------------


def _filter(keep: Keep) -> str:
    """Return a filter that keeps what is to be kept, and perhaps more; "" keeps all."""
    tests = [text for text in map(_test, keep.comparisons) if text]
    if keep.only is not None:
        tests.append(_in(keep.only))
    return " and ".join(tests)


def _in(ids: Sequence[str]) -> str:
    return f"id in [{', '.join(map(_text, ids))}]"


def _text(value: str) -> str:
    """Return a text as Milvus reads it: the Lite one knows few escapes."""
    for special, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(special, escape)
    return f'"{value}"'


def _test(comparison: Comparison) -> str:
    values = comparison.value if comparison.how == "in" else [comparison.value]
    if not PLAIN.fullmatch(comparison.field) or not all(map(plain_value, values)):
        return ""
    field = f'payload["{comparison.field}"]'
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    if comparison.how in ("=", "in"):
        return _any(f"({field} == {text}) or json_contains({field}, {text})" for text in texts)
    if isinstance(comparison.value, str) and comparison.how != "!=":
        return ""  # the order of texts is not Python's
    # a list is kept, whatever is in it: Milvus compares no elements
    return _any([f"({field} {comparison.how} {texts[0]})", f"(exists {field}[0])"])


def _any(tests: Sequence[str] | Iterator[str]) -> str:
    return f"({' or '.join(tests)})"
