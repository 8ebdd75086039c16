"""Joining queries, thoughts, judgements and documents on the disk, so that memory does not grow with them.

What `ballot.nominate` does in memory, in the tables of a journal: the same nominations, reasons and errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from o1_records import Document, Example, InputError, Qrel, Query, Thought, quoted
from o1_vote.ballot import NO_NEGATIVE, NO_POSITIVE, Nomination, Reason
from o1_vote.journal import Journal

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS query (
        place INTEGER PRIMARY KEY, query_id TEXT UNIQUE NOT NULL, body BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS thought (
        query_id TEXT NOT NULL, thought_id TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (query_id, thought_id)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS judged (
        query_id TEXT NOT NULL, kind TEXT NOT NULL, place INTEGER NOT NULL, relevance INTEGER NOT NULL,
        doc_id TEXT NOT NULL, PRIMARY KEY (query_id, kind, doc_id)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS judged_document ON judged (doc_id)",
    "CREATE TABLE IF NOT EXISTS document (doc_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS nominated (place INTEGER PRIMARY KEY, query INTEGER NOT NULL)",
)
_POSITIVE, _NEGATIVE = "positive", "negative"
_queries = msgspec.json.Decoder(Query)
_thoughts = msgspec.json.Decoder(Thought)
_documents = msgspec.json.Decoder(Document)


class Staging:
    """The input of an election in a journal. Raises InputError as `nominate` does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        for statement in _SCHEMA:
            with journal.transaction():
                journal.db.execute(statement)

    def fill(
        self,
        queries: Iterable[Query],
        thoughts: Iterable[Thought],
        qrels: Iterable[Qrel],
        documents: Iterable[Document],
        negatives: Iterable[Example] = (),
        *,
        every_document: bool = False,
        need_negatives: bool = False,
    ) -> None:
        """Read the whole input once; `negatives` are examples with the hard negatives of queries.

        Only documents that are judged are kept, unless `every_document` is. With `need_negatives` a
        query without one takes no part.
        """
        if not self._journal.staged:
            filling = self._filling(queries, thoughts, qrels, documents, negatives, every_document)
            self._journal.stage(itertools.chain(filling, self._nominate(need_negatives)))

    def __len__(self) -> int:
        """How many queries are nominated."""
        return int(next(self._journal.rows("SELECT count(*) FROM nominated"))[0])

    def ballots(self, count: int) -> int:
        """How many ballots a member casts on the first `count` nominations."""
        sql = (
            "SELECT count(*) FROM nominated n JOIN query q ON q.place = n.query "
            "JOIN thought USING (query_id) WHERE n.place < ?"
        )
        return count + int(next(self._journal.rows(sql, count))[0])

    def nominations(self, start: int = 0, count: int = -1) -> Iterator[Nomination]:
        """Yield nominations in the order of the queries, from place `start`."""
        sql = (
            "SELECT q.query_id, q.body FROM nominated n JOIN query q ON q.place = n.query "
            "WHERE n.place >= ? ORDER BY n.place LIMIT ?"
        )
        for name, body in self._journal.rows(sql, start, count):
            yield Nomination(
                _queries.decode(body),
                tuple(self._thoughts(name)),
                tuple(self._judged(name, _POSITIVE)),
                tuple(self._judged(name, _NEGATIVE)),
            )

    def reasons(self) -> Iterator[Reason]:
        """Yield the queries that take no part."""
        sql = (
            "SELECT query_id, query_id IN (SELECT query_id FROM judged WHERE kind = ?) FROM query "
            "WHERE place NOT IN (SELECT query FROM nominated) ORDER BY place"
        )
        for name, judged in self._journal.rows(sql, _POSITIVE):
            yield Reason(query_id=name, reason=NO_NEGATIVE if judged else NO_POSITIVE)

    @property
    def documents(self) -> Mapping[str, Document]:
        """The documents that members are asked about, looked up on the disk."""
        return _Documents(self._journal)

    def _thoughts(self, name: str) -> Iterator[Thought]:
        sql = "SELECT body FROM thought WHERE query_id = ? ORDER BY thought_id"
        return (_thoughts.decode(body) for (body,) in self._journal.rows(sql, name))

    def _judged(self, name: str, kind: str) -> Iterator[Document]:
        sql = (
            "SELECT d.body FROM judged j JOIN document d USING (doc_id) "
            "WHERE j.query_id = ? AND j.kind = ? ORDER BY j.relevance DESC, j.place"
        )
        return (_documents.decode(body) for (body,) in self._journal.rows(sql, name, kind))

    def _filling(
        self,
        queries: Iterable[Query],
        thoughts: Iterable[Thought],
        qrels: Iterable[Qrel],
        documents: Iterable[Document],
        negatives: Iterable[Example],
        every_document: bool,
    ) -> Iterator[None]:
        yield from self._fill_queries(queries)
        yield from self._fill_thoughts(thoughts)
        yield from self._fill_judged(qrels, negatives)
        yield from self._fill_documents(documents, every_document)

    def _nominate(self, need_negatives: bool) -> Iterator[None]:
        kinds = (_POSITIVE, _NEGATIVE) if need_negatives else (_POSITIVE,)
        each = " AND ".join("query_id IN (SELECT query_id FROM judged WHERE kind = ?)" for _ in kinds)
        self._journal.db.execute(
            "INSERT INTO nominated (place, query) SELECT row_number() OVER (ORDER BY place) - 1, place "
            f"FROM query WHERE {each}",
            kinds,
        )
        yield

    def _fill_queries(self, queries: Iterable[Query]) -> Iterator[None]:
        for place, query in enumerate(queries):
            row = (place, query.query_id, msgspec.json.encode(query))
            if not self._insert("query", row):
                raise InputError(f"query {quoted(query.query_id)} stands twice; keep one of them")
            yield

    def _fill_thoughts(self, thoughts: Iterable[Thought]) -> Iterator[None]:
        for thought in thoughts:
            if not self._asked(thought.query_id):
                raise InputError(
                    f"thought {quoted(thought.thought_id)} is about query {quoted(thought.query_id)}, "
                    "which is not among the queries; give the queries that the thoughts were made for"
                )
            if not self._insert("thought", (*thought.key, msgspec.json.encode(thought))):
                raise InputError(
                    f"thought {quoted(thought.thought_id)} of query {quoted(thought.query_id)} "
                    "stands twice; keep one of them"
                )
            yield

    def _fill_judged(self, qrels: Iterable[Qrel], negatives: Iterable[Example]) -> Iterator[None]:
        for place, qrel in enumerate(qrels):
            if qrel.relevance > 0 and self._asked(qrel.query_id):
                self._insert("judged", (qrel.query_id, _POSITIVE, place, qrel.relevance, qrel.doc_id))
            yield
        for example in negatives:
            name = example.query.query_id
            for place, document in enumerate(example.negatives if self._asked(name) else ()):
                self._insert("judged", (name, _NEGATIVE, place, 0, document.doc_id))
            yield

    def _fill_documents(self, documents: Iterable[Document], every: bool) -> Iterator[None]:
        db = self._journal.db
        for document in documents:
            wanted = (
                every
                or db.execute("SELECT 1 FROM judged WHERE doc_id = ? LIMIT 1", (document.doc_id,)).fetchone()
            )
            if wanted and not self._insert("document", (document.doc_id, msgspec.json.encode(document))):
                raise InputError(f"document {quoted(document.doc_id)} stands twice; keep one of them")
            yield
        missing = db.execute(
            "SELECT doc_id, kind, query_id FROM judged WHERE doc_id NOT IN (SELECT doc_id FROM document) "
            "ORDER BY kind DESC, place LIMIT 1"
        ).fetchone()
        if missing:
            doc_id, kind, query_id = missing
            raise InputError(
                f"document {quoted(doc_id)}, a {kind} of query {quoted(query_id)}, is not in the corpus"
            )

    def _asked(self, name: str) -> bool:
        sql = "SELECT 1 FROM query WHERE query_id = ?"
        return self._journal.db.execute(sql, (name,)).fetchone() is not None

    def _insert(self, table: str, row: tuple[object, ...]) -> bool:
        """Whether the row was new."""
        marks = ",".join("?" * len(row))
        done = self._journal.db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
        return done.rowcount == 1


class _Documents(Mapping[str, Document]):
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __getitem__(self, doc_id: str) -> Document:
        for (body,) in self._journal.rows("SELECT body FROM document WHERE doc_id = ?", doc_id):
            return _documents.decode(body)
        raise KeyError(doc_id)

    def __iter__(self) -> Iterator[str]:
        return (doc_id for (doc_id,) in self._journal.rows("SELECT doc_id FROM document ORDER BY doc_id"))

    def __len__(self) -> int:
        return int(next(self._journal.rows("SELECT count(*) FROM document"))[0])
