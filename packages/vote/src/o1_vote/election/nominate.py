"""What takes part in an election: queries joined with their thoughts and positive documents.

Queries that ask the same share their positives, because data sets judge a document for one of them and forget
the others. The join happens in a temporary SQLite file, so memory does not grow with the input.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

from o1_records import Document, Example, InputError, Qrel, Query, Record, Thought, quoted
from o1_records.jsonl import encode
from o1_records.keys import KeySet, itself, same_query
from o1_records.kit.job import Database
from o1_records.types import Id, NonBlank
from o1_vote._job import files_of, identified
from o1_vote.members.protocol import Candidate, checked

NO_POSITIVE = "no document is judged relevant, so thoughts cannot be compared"
NO_NEGATIVE = "no hard negative is known, so no margin to it can be measured"

_SCHEMA = """
CREATE TABLE query (
    place INTEGER PRIMARY KEY, query_id TEXT UNIQUE NOT NULL, body BLOB NOT NULL, same BLOB NOT NULL);
CREATE INDEX query_same ON query (same);
CREATE TABLE example (query_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
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
_QUERY, _THOUGHT = msgspec.json.Decoder(Query), msgspec.json.Decoder(Thought)
_DOCUMENT, _EXAMPLE = msgspec.json.Decoder(Document), msgspec.json.Decoder(Example)
_REMEDY = "free space where temporary files are kept, or name another folder in TMPDIR"
_POSITIVE, _SHARED, _NEGATIVE, _RELATED = "positive", "shared positive", "negative", "related"
_IS_POSITIVE = f"kind IN ('{_POSITIVE}', '{_SHARED}')"


@dataclass(frozen=True)
class Nomination:
    """A query with its candidate thoughts (possibly none) and at least one positive document.

    Attributes:
        query: what is asked.
        thoughts: the candidates.
        positives: the documents that are relevant to it, or to a query that asks the same.
        negatives: known hard negatives.
        related: doc_ids that are judged, and neither relevant nor irrelevant.
        example: the example that it comes from, if it comes from one.
    """

    query: Query
    thoughts: tuple[Thought, ...]
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()
    related: tuple[str, ...] = ()
    example: Example | None = None

    @property
    def beside(self) -> frozenset[str]:
        """The doc_ids that are neither positive nor a competitor: `related`, and the query itself."""
        judged = {document.doc_id for document in (*self.positives, *self.negatives)}
        return itself(self.query.query_id, judged) | frozenset(self.related)

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


def candidate_of(nomination: Nomination, thought: Thought | None) -> Candidate:
    """Return what members are asked about a thought of a query, or about the query alone."""
    return Candidate(nomination.query, thought, nomination.positives, nomination.negatives, nomination.beside)


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
    *,
    relevance: int = 1,
) -> tuple[list[Nomination], list[Reason]]:
    """Join what belongs together; every query is nominated or has a reason why not.

    Positives are the documents judged `relevance` or more, the most relevant first, then those of queries
    that ask the same. Documents judged lower, but above 0, are neither positive nor negative. Judgements of
    queries that are not asked for are passed over, so that a sample of the queries can be elected with the
    qrels of all. Order is that of `queries`; thoughts are ordered by thought_id. Records may be dicts.

    Raises InputError for a thought of an unknown query, a positive that is not in the corpus,
    duplicate ids, contradictory judgements and records that cannot be written.
    """
    with Nominations(queries, thoughts, qrels, documents, relevance=relevance) as nominations:
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
        relevance: the lowest grade of a positive.
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
        relevance: int = 1,
    ) -> None:
        self._inputs: dict[str, Iterable[Any]]
        self._inputs = {"queries": queries, "thoughts": thoughts, "qrels": qrels, "documents": documents}
        if negatives is not None:
            self._inputs["negatives"] = negatives
        if relevance < 1:
            raise InputError(f"relevance must be 1 or more, got {relevance}")
        self._every_document, self._relevance = every_document, relevance
        self._stack = contextlib.ExitStack()

    @classmethod
    def of_examples(cls, examples: Iterable[Example], documents: Iterable[Document]) -> Self:
        """Return the queries of examples with their thoughts and positives, and all documents."""
        self = cls((), (), (), documents, every_document=True)
        self._inputs = {"examples": examples, "documents": documents}
        return self

    def copied(self, path: Path) -> Path:
        """Write a copy that `opened` reads, unless it is there; return its path."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = path.with_suffix(".partial")
            begun.unlink(missing_ok=True)
            self._db.execute("VACUUM INTO ?", str(begun))
            begun.rename(path)
        return path

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Return what `copied` wrote, for reading; many processes may."""
        self = cls((), (), (), ())
        self._db = self._stack.enter_context(Database.read_only(path))
        return self

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

    @property
    def files(self) -> list[Path]:
        """The files that it is read from, where they are known."""
        return files_of(*self._inputs.values())

    @property
    def settings(self) -> dict[str, str]:
        """What is not as it is by default, for a job to note."""
        return {"relevance": str(self._relevance)} if self._relevance != 1 else {}

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
        of_query = "SELECT body FROM thought WHERE query_id = ? ORDER BY thought_id"
        of_example = "SELECT body FROM example WHERE query_id = ?"
        related = "SELECT doc_id FROM judged WHERE query_id = ? AND kind = ? ORDER BY place"
        for name, body in self._db.rows(sql, start, count):
            example = self._db.row(of_example, name)
            yield Nomination(
                _QUERY.decode(body),
                tuple(_THOUGHT.decode(own) for (own,) in self._db.rows(of_query, name)),
                (*self._judged(name, _POSITIVE), *self._judged(name, _SHARED)),
                self._judged(name, _NEGATIVE),
                tuple(doc_id for (doc_id,) in self._db.rows(related, name, _RELATED)),
                example and msgspec.json.decode(example[0], type=Example),
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
            f"SELECT query_id, query_id IN (SELECT query_id FROM judged WHERE {_IS_POSITIVE}) FROM query "
            "WHERE place NOT IN (SELECT query FROM nominated) ORDER BY place"
        )
        for name, judged in self._db.rows(sql):
            yield Reason(query_id=name, reason=NO_NEGATIVE if judged else NO_POSITIVE)

    @property
    def shared(self) -> int:
        """How many positives queries have from others that ask the same."""
        return int(self._db.row("SELECT count(*) FROM judged WHERE kind = ?", _SHARED)[0])

    @property
    def documents(self) -> Mapping[str, Document]:
        """The documents that are kept, looked up on the disk; in the order of their ids."""
        return _Documents(self)

    @functools.cached_property
    def _db(self) -> Database:
        db = self._stack.enter_context(Database("", _SCHEMA, remedy=_REMEDY))
        with db.transaction():
            if "examples" in self._inputs:
                _fill_examples(db, self._inputs["examples"])
            else:
                _fill_queries(db, self._inputs["queries"])
                _fill_thoughts(db, self._inputs["thoughts"])
                _fill_judged(db, self._inputs["qrels"], self._relevance)
                _fill_negatives(db, self._inputs.get("negatives", ()))
            _share_positives(db)
            _fill_documents(db, self._inputs["documents"], every=self._every_document)
            kinds = [_IS_POSITIVE] + [f"kind = '{_NEGATIVE}'"] * ("negatives" in self._inputs)
            each = " AND ".join(f"query_id IN (SELECT query_id FROM judged WHERE {kind})" for kind in kinds)
            db.execute(
                "INSERT INTO nominated (place, query) SELECT row_number() OVER (ORDER BY place) - 1, place "
                f"FROM query WHERE {each}"  # kinds are words of this file
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

    def __contains__(self, doc_id: object) -> bool:
        return self._db.row("SELECT 1 FROM document WHERE doc_id = ?", doc_id) is not None

    def __iter__(self) -> Iterator[str]:
        return (doc_id for (doc_id,) in self._db.rows("SELECT doc_id FROM document ORDER BY doc_id"))

    def __len__(self) -> int:
        return int(self._db.row("SELECT count(*) FROM document")[0])

    def values(self) -> ValuesView[Document]:
        return _Values(self)


class _Values(ValuesView[Document]):
    """All documents, read one after another and not each by its id."""

    _mapping: _Documents

    def __iter__(self) -> Iterator[Document]:
        decoder = msgspec.json.Decoder(Document)
        for (body,) in self._mapping._db.rows("SELECT body FROM document ORDER BY doc_id"):
            yield decoder.decode(body)


def _fill_queries(db: Database, queries: Iterable[Query]) -> None:
    for place, each in enumerate(queries):
        _put_query(db, place, checked(each, Query, "queries"))


def _put_query(db: Database, place: int, query: Query) -> None:
    body = encode(query, f"query {quoted(query.query_id)}", _QUERY)
    same = hashlib.blake2b(same_query(query).encode(), digest_size=16).digest()
    if not _insert(db, "query", (place, query.query_id, body, same)):
        raise InputError(f"duplicate query_id {quoted(query.query_id)}; keep one of the queries")


def _fill_thoughts(db: Database, thoughts: Iterable[Thought]) -> None:
    for each in thoughts:
        _put_thought(db, checked(each, Thought, "thoughts"))


def _put_thought(db: Database, thought: Thought) -> None:
    place = f"thought {quoted(thought.thought_id)} of query {quoted(thought.query_id)}"
    body = encode(thought, place, _THOUGHT)
    if not _is_asked(db, thought.query_id):
        raise InputError(f"{place}: there is no such query; give the queries that the thoughts were made for")
    if not _insert(db, "thought", (*thought.key, body)):
        raise InputError(
            f"duplicate thought_id {quoted(thought.thought_id)} of query {quoted(thought.query_id)}; "
            "keep one of the thoughts"
        )


def _fill_judged(db: Database, qrels: Iterable[Qrel], least: int) -> None:
    for place, each in enumerate(qrels):
        qrel = checked(each, Qrel, "qrels")
        if not isinstance(qrel.query_id, str) or not isinstance(qrel.doc_id, str):
            raise InputError(f"{quoted(qrel)}: ids are text; write them in quotes")
        if not qrel.relevance > 0 or not _is_asked(db, qrel.query_id):
            continue
        sql = "SELECT relevance FROM judged WHERE query_id = ? AND doc_id = ?"
        before = db.row(sql, qrel.query_id, qrel.doc_id)
        if before is None:
            kind = _POSITIVE if qrel.relevance >= least else _RELATED
            _insert(db, "judged", (qrel.query_id, kind, place, qrel.relevance, qrel.doc_id))
        elif before[0] != qrel.relevance:
            raise InputError(
                f"document {quoted(qrel.doc_id)} has two relevances for query {quoted(qrel.query_id)}, "
                f"{before[0]} and {qrel.relevance}; keep one of the judgements"
            )


def _fill_negatives(db: Database, negatives: Iterable[Example]) -> None:
    for each in negatives:
        example = checked(each, Example, "negatives")
        name = example.query.query_id
        for place, document in enumerate(example.negatives if _is_asked(db, name) else ()):
            _insert(db, "judged", (name, _NEGATIVE, place, 0, document.doc_id))


def _fill_examples(db: Database, examples: Iterable[Example]) -> None:
    for place, each in enumerate(examples):
        example = checked(each, Example, "examples")
        name = example.query.query_id
        _put_query(db, place, example.query)
        if example.thought is not None:
            _put_thought(db, example.thought)
        for number, document in enumerate(example.positives):
            _insert(db, "judged", (name, _POSITIVE, number, 1, document.doc_id))
        _insert(db, "example", (name, encode(example, f"example {quoted(name)}", _EXAMPLE)))


def _share_positives(db: Database) -> None:
    """Give each query the positives and the related documents of those that ask the same.

    A related document or a hard negative that is a positive is the positive alone.
    """
    for kind, shared in ((_POSITIVE, _SHARED), (_RELATED, _RELATED)):
        db.execute(
            "INSERT OR IGNORE INTO judged SELECT other.query_id, ?, judged.place, judged.relevance, "
            "judged.doc_id FROM judged JOIN query own USING (query_id) "
            "JOIN query other ON other.same = own.same AND other.query_id != own.query_id "
            "WHERE judged.kind = ? AND NOT EXISTS (SELECT 1 FROM judged known WHERE known.kind = ? "
            "AND known.query_id = other.query_id AND known.doc_id = judged.doc_id)",
            shared, kind, _POSITIVE,
        )  # fmt: skip
    db.execute(
        f"DELETE FROM judged WHERE kind IN (?, ?) AND EXISTS (SELECT 1 FROM judged known "
        f"WHERE known.{_IS_POSITIVE} AND known.query_id = judged.query_id AND known.doc_id = judged.doc_id)",
        _NEGATIVE, _RELATED,
    )  # fmt: skip


def _fill_documents(db: Database, documents: Iterable[Document], *, every: bool) -> None:
    seen = KeySet()
    for each in documents:
        document = checked(each, Document, "documents")
        if not seen.add((document.doc_id,)):
            raise InputError(f"duplicate doc_id {quoted(document.doc_id)}; keep one of the documents")
        if every or db.row("SELECT 1 FROM judged WHERE doc_id = ? LIMIT 1", document.doc_id):
            body = encode(document, f"document {quoted(document.doc_id)}", _DOCUMENT)
            _insert(db, "document", (document.doc_id, body))
    missing = db.row(
        "SELECT doc_id, kind, query_id FROM judged WHERE doc_id NOT IN (SELECT doc_id FROM document) "
        "AND kind != ? ORDER BY kind = ?, place LIMIT 1",
        _RELATED, _NEGATIVE,
    )  # fmt: skip
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
