"""Lance: a table in a folder or an object store, read and written in this process. Needs the `[lance]` extra.

Two merges at a time would both insert a new id; the column is marked as the primary key, so that the second
one is done again instead. Scores are computed here from the vectors that were found: those of a quantised
index are estimates, and "dot" distances have lost digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, HnswSq

from o1_index.databases.database import Keep, Neighbour, Shape, Stored, Target, explained, scored
from o1_index.databases.jsonpath import json_paths
from o1_index.documents import Comparison
from o1_index.vectors import Matrix

REFINE = 4
"""Times as many candidates are scored again with their vectors as hits are asked for."""
ASKED = 1_000
"""Documents that are asked for at once."""

_ABOUT = b"o1_index.about"
_ERRORS = (RuntimeError, OSError, ValueError)


def connect(where: Target) -> Table:
    """Open the folder; every read sees the newest version of the table."""
    with explained(where, _ERRORS):
        return Table(lancedb.connect(where.place, read_consistency_interval=timedelta(0)), where.name)


class Table:
    """A `Database`: one table."""

    shape: Shape
    kinds: tuple[type[Exception], ...] = _ERRORS
    most: int | None = None
    longest_id: int | None = None
    longest_payload: int | None = None

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self._name = name
        self._opened: Any = None

    @property
    def _table(self) -> Any:
        if self._opened is None:
            self._opened = self._connection.open_table(self._name)
        return self._opened

    def about(self) -> str | None:
        """Return the metadata of the schema."""
        try:
            metadata = self._table.schema.metadata or {}
        except (ValueError, FileNotFoundError) as error:
            if "not found" in str(error):
                return None
            raise
        return str(metadata.get(_ABOUT, b"").decode())

    def no_graph(self) -> str:
        """Return nothing: there can always be one."""
        return ""

    def create(self, about: str) -> None:
        """Create the table."""
        schema = self._schema({_ABOUT: about.encode()})
        self._opened = self._connection.create_table(self._name, schema=schema)

    def put(self, ids: Sequence[str], vectors: Matrix, payloads: Sequence[str]) -> None:
        """Merge by id: one new version of the table."""
        columns = [
            pa.array(ids, type=pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.shape.dim),
            pa.array(payloads, type=pa.json_()),
        ]
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.Table.from_arrays(columns, schema=self._schema()))

    def drop(self, ids: Sequence[str]) -> None:
        """Delete by id."""
        for among in _in(ids):
            self._table.delete(among)

    def nearest(
        self, vectors: Matrix, count: int, keep: Keep, *, payloads: bool, exact: bool, effort: int
    ) -> list[list[Neighbour]]:
        """Search with the filter applied before; candidates of the index are scored again."""
        tests = [] if keep.only is None else [" OR ".join(_in(keep.only)) or "false"]
        tests += [
            " OR ".join(f"json_exists(payload, {_text(path)})" for path in paths)
            for paths in json_paths([whole for each in keep.comparisons for whole in _whole(each)])
        ]
        found = []
        for vector in vectors:
            query = (
                self._table.search(vector).distance_type("l2" if self.shape.distance else "dot").limit(count)
            )
            query = query.select(["id", "vector", *(["payload"] if payloads else []), "_distance"])
            if tests:
                query = query.where(" AND ".join(f"({test})" for test in tests), prefilter=True)
            if exact:
                query = query.bypass_vector_index()
            else:
                query = query.refine_factor(REFINE).ef(max(effort, REFINE * count))
            rows = query.to_arrow()
            scores = scored(vector, self._matrix(rows), distance=self.shape.distance)
            texts = rows["payload"].to_pylist() if payloads else [""] * len(rows)
            found.append(
                [
                    Neighbour(*each)
                    for each in zip(rows["id"].to_pylist(), scores.tolist(), texts, strict=True)
                ]
            )
        return found

    def get(self, ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        """Return rows by id."""
        found: dict[str, Stored] = {}
        fields = ["id", "payload", *(["vector"] if vectors else [])]
        for among in _in(ids):
            rows = self._table.search().where(among).limit(len(ids)).select(fields).to_arrow()
            matrix = self._matrix(rows) if vectors else [None] * len(rows)
            pairs = zip(rows["id"].to_pylist(), matrix, rows["payload"].to_pylist(), strict=True)
            found.update({name: Stored(vector, payload) for name, vector, payload in pairs})
        return found

    def count(self) -> int:
        """Count the rows."""
        return int(self._table.count_rows())

    def persist(self) -> None:
        """Do nothing: a version is written whole, and then named."""

    def index(self) -> None:
        """Join small fragments; index ids and, unless the search is exact, vectors."""
        names = {index.name for index in self._table.list_indices()}
        if "id_idx" not in names and self.count():
            self._table.create_index("id", config=BTree())
        if "vector_idx" not in names and not self.shape.exact and self.count():
            kind = "l2" if self.shape.distance else "dot"
            self._table.create_index("vector", config=HnswSq(distance_type=kind))
        self._table.optimize()

    def version(self) -> str:
        """Return the version of the library."""
        return f"LanceDB {lancedb.__version__}"

    def close(self) -> None:
        """Let go of the table."""
        self._opened = None

    def _schema(self, metadata: dict[bytes, bytes] | None = None) -> Any:
        key = {b"lance-schema:unenforced-primary-key": b"true"}
        fields = [
            pa.field("id", pa.string(), nullable=False, metadata=key),
            pa.field("vector", pa.list_(pa.float32(), self.shape.dim), nullable=False),
            pa.field("payload", pa.json_()),
        ]
        return pa.schema(fields, metadata=metadata)

    def _matrix(self, rows: Any) -> Matrix:
        values = rows["vector"].combine_chunks()
        matrix: Matrix = np.asarray(values.flatten(), dtype=np.float32).reshape(len(rows), self.shape.dim)
        return matrix


def _whole(comparison: Comparison) -> list[Comparison]:
    """Return comparisons that keep at least as much: Lance reads no decimals in a path, and no empty text."""
    field, how, value = comparison
    if isinstance(value, float) and not value.is_integer():
        above = Comparison(field, ">=", math.floor(value))
        below = Comparison(field, "<=", math.ceil(value))
        return {"=": [above, below], ">": [above], ">=": [above], "<": [below], "<=": [below]}.get(how, [])
    values = value if how == "in" else [value]
    values = [int(each) if isinstance(each, float) and each.is_integer() else each for each in values]
    if "" in values or any(isinstance(each, float) for each in values):
        return []
    return [Comparison(field, how, values if how == "in" else values[0])]


def _in(ids: Sequence[str]) -> Iterator[str]:
    """Yield conditions on ids, for so many at a time."""
    for start in range(0, len(ids), ASKED):
        yield f"id IN ({', '.join(map(_text, ids[start : start + ASKED]))})"


def _text(value: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
