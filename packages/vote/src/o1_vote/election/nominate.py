"""What takes part in an election: queries joined with their thoughts and positive documents.

The join happens in a temporary SQLite file, so memory does not grow with the input.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from o1_records import Document, Example, InputError, Qrel, Query, Record, Thought, quoted
from o1_records.jsonl import encode
from o1_records.keys import KeySet
from o1_records.kit.job import Database
from o1_records.types import Id, NonBlank
from o1_vote._job import identified

NO_POSITIVE = "no document is judged relevant, so thoughts cannot be compared"
NO_NEGATIVE = "no hard negative is known, so no margin to it can be measured"

_SCHEMA = """
CREATE TABLE query (place INTEGER PRIMARY KEY, query_id TEXT UNIQUE NOT NULL, body BLOB NOT NULL);
CREATE TABLE thought (
    query_id TEXT NOT NULL, thought_id TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (query_id, thought_id)) WITHOUT ROWID;
CREATE TABLE judged (
    query_id TEXT NOT NULL, kind TEXT NOT NULL, place INTEGER NOT NULL, relevance INTEGER NOT NULL,
    doc_id TEXT NOT NULL, PRIMARY KEY (query_id, kind, doc_id)) WITHOUT ROWID;
CREATE INDEX judged_document ON judged (doc_id);
CREATE TABLE document (doc_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE nominated (place INTEGER PRIMARY KEY, query INTEGER NOT NULL);
"""
_REMEDY = "free space where temporary files are kept, or name another folder in TMPDIR"
_POSITIVE, _NEGATIVE = "positive", "negative"


@dataclass(frozen=True)
class Nomination:
    """A query with its candidate thoughts (possibly none) and at least one positive document."""

    query: Query
    thoughts: tuple[Thought, ...]
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a query without positives and a thought about another query."""
        name = self.query.query_id
        if not self.positives:
            raise InputError(f"query {quoted(name)} has no positive document to measure against")
        for thought in self.thoughts:
            if thought.query_id != name:
                raise InputError(
                    f"thought {quoted(thought.thought_id)} belongs to query "
                    f"{quoted(thought.query_id)}, not to {quoted(name)}"
                )


class Reason(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a query is left out."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id",)
    query_id: Id
    reason: NonBlank


def nominate(
    queries: Iterable[Query],
    thoughts: Iterable[Thought],
    qrels: Iterable[Qrel],
    documents: Iterable[Document],
) -> tuple[list[Nomination], list[Reason]]:
    """Join what belongs together; every query is nominated or has a reason why not.

    Positives are the documents of relevance 1 or more, the most relevant first. Judgements of
    queries that are not asked for are passed over, so that a sample of the queries can be elected
    with the qrels of all. Order is that of `queries`; thoughts are ordered by thought_id.

    Raises InputError for a thought of an unknown query, a positive that is not in the corpus,
    duplicate ids, contradictory judgements and records that cannot be written.
    """
    with Nominations(queries, thoughts, qrels, documents) as nominations:
        return list(nominations), list(nominations.reasons())


class Nominations:
    """Nominations on the disk, in the order of the queries; a context manager.

    The input is read when it is needed, with the errors of `nominate`.

    Args:
        queries: what is nominated, or gets a reason why not.
        thoughts: the candidates.
        qrels: say which documents are positive.
        documents: the corpus; only judged documents are kept, unless `every_document` is.
        negatives: examples with the hard negatives of queries; with them, a query without one is left out.
        every_document: keep all documents.
    """

    def __init__(
        self,
        queries: Iterable[Query],
        thoughts: Iterable[Thought],
        qrels: Iterable[Qrel],
        documents: Iterable[Document],
        *,
        negatives: Iterable[Example] | None = None,
        every_document: bool = False,
    ) -> None:
        self._inputs: dict[str, Iterable[Any]]
        self._inputs = {"queries": queries, "thoughts": thoughts, "qrels": qrels, "documents": documents}
        if negatives is not None:
            self._inputs["negatives"] = negatives
        self._every_document = every_document
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Nominations:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def made_from(self) -> dict[str, str]:
        """Return the fingerprint of each input, by name; input without one is read once more for it."""
        found = {}
        for name, records in self._inputs.items():
            if isinstance(records, Iterator) and "_db" in vars(self):
                raise InputError(f"the {name} were read, and can be read only once; give a list of them")
            self._inputs[name] = same = identified(records)
            found[name] = same.fingerprint
        return found

    def __len__(self) -> int:
        return int(self._db.row("SELECT count(*) FROM nominated")[0])

    def __iter__(self) -> Iterator[Nomination]:
        return self.block()

    def block(self, start: int = 0, count: int = -1) -> Iterator[Nomination]:
        """Yield `count` nominations (-1: all) from place `start`."""
        sql = (
            "SELECT q.query_id, q.body FROM nominated n JOIN query q ON q.place = n.query "
            "WHERE n.place >= ? ORDER BY n.place LIMIT ?"
        )
        queries, thoughts = msgspec.json.Decoder(Query), msgspec.json.Decoder(Thought)
        of_query = "SELECT body FROM thought WHERE query_id = ? ORDER BY thought_id"
        for name, body in self._db.rows(sql, start, count):
            yield Nomination(
                queries.decode(body),
                tuple(thoughts.decode(own) for (own,) in self._db.rows(of_query, name)),
                self._judged(name, _POSITIVE),
                self._judged(name, _NEGATIVE),
            )

    def candidates(self, count: int) -> int:
        """Return how many candidates the first `count` nominations have, the queries alone included."""
        sql = (
            "SELECT count(*) FROM nominated n JOIN query q ON q.place = n.query "
            "JOIN thought USING (query_id) WHERE n.place < ?"
        )
        return count + int(self._db.row(sql, count)[0])

    def reasons(self) -> Iterator[Reason]:
        """Yield the queries that are left out, in their order."""
        sql = (
            "SELECT query_id, query_id IN (SELECT query_id FROM judged WHERE kind = ?) FROM query "
            "WHERE place NOT IN (SELECT query FROM nominated) ORDER BY place"
        )
        for name, judged in self._db.rows(sql, _POSITIVE):
            yield Reason(query_id=name, reason=NO_NEGATIVE if judged else NO_POSITIVE)

    @property
    def documents(self) -> Mapping[str, Document]:
        """The documents that are kept, looked up on the disk; in the order of their ids."""
        return _Documents(self)

    @functools.cached_property
    def _db(self) -> Database:
        db = self._stack.enter_context(Database("", _SCHEMA, remedy=_REMEDY))
        with db.transaction():
            _fill_queries(db, self._inputs["queries"])
            _fill_thoughts(db, self._inputs["thoughts"])
            _fill_judged(db, self._inputs["qrels"], self._inputs.get("negatives", ()))
            _fill_documents(db, self._inputs["documents"], every=self._every_document)
            kinds = (_POSITIVE, _NEGATIVE) if "negatives" in self._inputs else (_POSITIVE,)
            each = " AND ".join("query_id IN (SELECT query_id FROM judged WHERE kind = ?)" for _ in kinds)
            db.execute(
                "INSERT INTO nominated (place, query) SELECT row_number() OVER (ORDER BY place) - 1, place "
                f"FROM query WHERE {each}",  # marks are ?
                *kinds,
            )
        return db

    def _judged(self, name: str, kind: str) -> tuple[Document, ...]:
        sql = (
            "SELECT d.body FROM judged j JOIN document d USING (doc_id) "
            "WHERE j.query_id = ? AND j.kind = ? ORDER BY j.relevance DESC, j.place"
        )
        return tuple(msgspec.json.decode(body, type=Document) for (body,) in self._db.rows(sql, name, kind))


class _Documents(Mapping[str, Document]):
    def __init__(self, nominations: Nominations) -> None:
        self._nominations = nominations

    @property
    def fingerprint(self) -> str:
        return self._nominations.made_from()["documents"]

    @property
    def _db(self) -> Database:
        return self._nominations._db

    def __getitem__(self, doc_id: str) -> Document:
        row = self._db.row("SELECT body FROM document WHERE doc_id = ?", doc_id)
        if row is None:
            raise KeyError(doc_id)
        return msgspec.json.decode(row[0], type=Document)

    def __iter__(self) -> Iterator[str]:
        return (doc_id for (doc_id,) in self._db.rows("SELECT doc_id FROM document ORDER BY doc_id"))

    def __len__(self) -> int:
        return int(self._db.row("SELECT count(*) FROM document")[0])


def _fill_queries(db: Database, queries: Iterable[Query]) -> None:
    decoder = msgspec.json.Decoder(Query)
    for place, query in enumerate(queries):
        row = (place, query.query_id, encode(query, f"query {quoted(query.query_id)}", decoder))
        if not _insert(db, "query", row):
            raise InputError(f"duplicate query_id {quoted(query.query_id)}; keep one of the queries")


def _fill_thoughts(db: Database, thoughts: Iterable[Thought]) -> None:
    decoder = msgspec.json.Decoder(Thought)
    for thought in thoughts:
        place = f"thought {quoted(thought.thought_id)} of query {quoted(thought.query_id)}"
        if not _is_asked(db, thought.query_id):
            raise InputError(
                f"{place}: there is no such query; give the queries that the thoughts were made for"
            )
        if not _insert(db, "thought", (*thought.key, encode(thought, place, decoder))):
            raise InputError(
                f"duplicate thought_id {quoted(thought.thought_id)} of query {quoted(thought.query_id)}; "
                "keep one of the thoughts"
            )


def _fill_judged(db: Database, qrels: Iterable[Qrel], negatives: Iterable[Example]) -> None:
    for place, qrel in enumerate(qrels):
        if qrel.relevance > 0 and _is_asked(db, qrel.query_id):
            if _insert(db, "judged", (qrel.query_id, _POSITIVE, place, qrel.relevance, qrel.doc_id)):
                continue
            sql = "SELECT relevance FROM judged WHERE query_id = ? AND kind = ? AND doc_id = ?"
            (before,) = db.row(sql, qrel.query_id, _POSITIVE, qrel.doc_id)
            if before != qrel.relevance:
                raise InputError(
                    f"document {quoted(qrel.doc_id)} has two relevances for query {quoted(qrel.query_id)}, "
                    f"{before} and {qrel.relevance}; keep one of the judgements"
                )
    for example in negatives:
        name = example.query.query_id
        for place, document in enumerate(example.negatives if _is_asked(db, name) else ()):
            _insert(db, "judged", (name, _NEGATIVE, place, 0, document.doc_id))


def _fill_documents(db: Database, documents: Iterable[Document], *, every: bool) -> None:
    seen, decoder = KeySet(), msgspec.json.Decoder(Document)
    for document in documents:
        if not seen.add((document.doc_id,)):
            raise InputError(f"duplicate doc_id {quoted(document.doc_id)}; keep one of the documents")
        if every or db.row("SELECT 1 FROM judged WHERE doc_id = ? LIMIT 1", document.doc_id):
            body = encode(document, f"document {quoted(document.doc_id)}", decoder)
            _insert(db, "document", (document.doc_id, body))
    missing = db.row(
        "SELECT doc_id, kind, query_id FROM judged WHERE doc_id NOT IN (SELECT doc_id FROM document) "
        "ORDER BY kind DESC, place LIMIT 1"
    )
    if missing:
        doc_id, kind, query_id = missing
        raise InputError(
            f"document {quoted(doc_id)}, a {kind} of query {quoted(query_id)}, is not in the corpus"
        )


def _is_asked(db: Database, name: str) -> bool:
    return db.row("SELECT 1 FROM query WHERE query_id = ?", name) is not None


def _insert(db: Database, table: str, row: tuple[object, ...]) -> bool:
    """Return whether the row was new."""
    marks = ",".join("?" * len(row))
    return db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", *row).rowcount == 1
