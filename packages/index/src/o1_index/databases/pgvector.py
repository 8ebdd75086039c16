"""PostgreSQL with the extension pgvector: a table with a column of vectors and one of JSON.

An HNSW index holds up to 2,000 dimensions and returns at most 1,000 rows; beyond, and where a filter left too
few of its rows, the table is read. Needs the `[pgvector]` extra (psycopg, pgvector). The password comes from
PGPASSWORD or ~/.pgpass.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from o1_index.databases.database import Keep, Neighbour, Shape, Stored, Target, explained
from o1_index.databases.jsonpath import json_paths
from o1_index.vectors import Matrix

MOST_DIMENSIONS = 2_000
"""Of an HNSW index of the type `vector`."""
MOST_CANDIDATES = 1_000
"""hnsw.ef_search is at most this, and no more rows come from the index (before pgvector 0.8)."""


def connect(where: Target) -> Table:
    """Connect to a database, create the extension in it if need be, and return the table."""
    with explained(where, (psycopg.Error,)):
        return Table(where)


class Table:
    """A `Database`: one table. Each thread has a connection of its own."""

    shape: Shape
    kinds: tuple[type[Exception], ...] = (psycopg.Error,)
    most: int | None = None
    longest_id: int | None = 2_000  # an entry of the primary key's index is at most a third of a page
    longest_payload: int | None = None

    def __init__(self, where: Target) -> None:
        self._place = where.place
        self._name = where.name
        self._mine = threading.local()
        self._all: list[psycopg.Connection[Any]] = []
        self._connection.execute("SELECT 1")

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        if not hasattr(self._mine, "connection"):
            connection = psycopg.connect(self._place, autocommit=True)
            self._all.append(connection)
            connection.prepare_threshold = None  # a prepared plan would outlive the settings of a search
            connection.execute("SET client_min_messages = warning")
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
            self._mine.connection = connection
        found: psycopg.Connection[Any] = self._mine.connection
        return found

    def about(self) -> str | None:
        """Return the comment on the table."""
        row = self._sql(
            "SELECT coalesce(obj_description(to_regclass(%s), 'pg_class'), ''), to_regclass(%s) IS NULL",
            (f'"{self._name}"', f'"{self._name}"'),
        ).fetchone()
        return None if row is None or row[1] else str(row[0])

    def no_graph(self) -> str:
        """Return that there are too many dimensions, if so."""
        few = self.shape.dim <= MOST_DIMENSIONS
        return (
            ""
            if few
            else f"an HNSW index holds at most {MOST_DIMENSIONS:,} dimensions, not {self.shape.dim:,}"
        )

    def create(self, about: str) -> None:
        """Create the table."""
        with self._connection.transaction():
            self._sql(
                # "C": ids are compared byte by byte, whatever the locale
                'CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, vector vector({dim}) NOT NULL, '
                "payload jsonb NOT NULL)",
                dim=sql.Literal(self.shape.dim),
            )
            self._sql("COMMENT ON TABLE {table} IS {about}", about=sql.Literal(about))

    def put(self, ids: Sequence[str], vectors: Matrix, payloads: Sequence[str]) -> None:
        """Insert, or update on conflict, in one transaction."""
        statement = self._written(
            "INSERT INTO {table} VALUES (%s, %b, %s::jsonb) ON CONFLICT (id) DO UPDATE "
            "SET vector = excluded.vector, payload = excluded.payload"
        )
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(statement, list(zip(ids, vectors, payloads, strict=True)))

    def drop(self, ids: Sequence[str]) -> None:
        """Delete rows."""
        self._sql("DELETE FROM {table} WHERE id = ANY(%s)", (list(ids),))

    def nearest(
        self, vectors: Matrix, count: int, keep: Keep, *, payloads: bool, exact: bool, effort: int
    ) -> list[list[Neighbour]]:
        """Search by the index, or by reading the table; the filter is applied before the rows are counted."""
        tests: list[str] = []
        values: list[Any] = []
        if keep.only is not None:
            tests.append("id = ANY(%s)")
            values.append(list(keep.only))
        for paths in json_paths(keep.comparisons):
            tests.append(f"({' OR '.join(['payload @? %s::jsonpath'] * len(paths))})")
            values += paths
        statement = self._written(
            "SELECT id, vector {operator} %b, {payload} FROM {table} {tests} "
            "ORDER BY vector {operator} %b LIMIT %s",
            operator=sql.SQL("<->" if self.shape.distance else "<#>"),
            payload=sql.SQL("payload::text" if payloads else "''"),
            tests=sql.SQL(f"WHERE {' AND '.join(tests)}" if tests else ""),
        )
        exact = exact or count > MOST_CANDIDATES
        with self._connection.transaction():
            if exact:
                self._sql("SET LOCAL enable_indexscan = off")
            else:
                self._sql(f"SET LOCAL hnsw.ef_search = {min(max(effort, count), MOST_CANDIDATES)}")
            return [
                [
                    Neighbour(name, -value * value if self.shape.distance else -value, payload)
                    for name, value, payload in self._connection.execute(
                        statement, (vector, *values, vector, count)
                    )
                ]
                for vector in vectors
            ]

    def get(self, ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        """Return rows by id."""
        found = self._sql(
            "SELECT id, {vector}, payload::text FROM {table} WHERE id = ANY(%s)",
            (list(ids),),
            vector=sql.SQL("vector" if vectors else "NULL"),
        )
        return {
            name: Stored(None if vector is None else vector.to_numpy(), payload)
            for name, vector, payload in found
        }

    def count(self) -> int:
        """Count the rows."""
        row = self._sql("SELECT count(*) FROM {table}").fetchone()
        return int(row[0]) if row else 0

    def persist(self) -> None:
        """Do nothing: a committed transaction is on disk."""

    def index(self) -> None:
        """Create the HNSW index, if it is not there, and refresh the planner's statistics."""
        if not self.shape.exact:
            self._sql(
                "CREATE INDEX IF NOT EXISTS {name} ON {table} USING hnsw (vector {operators})",
                name=sql.Identifier(f"{self._name}_vector"),
                operators=sql.SQL("vector_l2_ops" if self.shape.distance else "vector_ip_ops"),
            )
        self._sql("ANALYZE {table}")

    def version(self) -> str:
        """Return the versions of PostgreSQL and of the extension."""
        row = self._sql(
            "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        return f"PostgreSQL {row[0]}, pgvector {row[1]}" if row else "PostgreSQL"

    def close(self) -> None:
        """Close the connections."""
        for connection in self._all:
            connection.close()

    def _sql(self, text: str, values: Sequence[Any] = (), **parts: sql.Composable) -> psycopg.Cursor[Any]:
        return self._connection.execute(self._written(text, **parts), values or None)

    def _written(self, text: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(table=sql.Identifier(self._name), **parts)
