"""A collection: what is searched, what is asked, what is right.

Datasets make collections (`o1_bench.datasets`), retrievers and scores take them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_bench.protocol import PLAIN, Protocol
from o1_records import Document, Exclusion, InputError, Qrel, Query, Record, quoted


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Documents, the queries of one split, their judgements and the protocol around them.

    `documents` is iterated several times and never kept, so it may read a file: give a list, or
    an object whose `__iter__` starts again. Making a collection reads the documents once, holds
    40 bytes a document while it does and 8 afterwards (no ids, no texts), and raises InputError for a
    duplicate id, for no judgements, and for judgements and exclusions of ids that do not exist.

    Attributes:
        name: What the collection is called in results, with its split: `scifact/test`.
        documents: All documents, in a fixed order.
        queries: The queries that are asked. One without a judgement is refused. Each carries the
            collection's instruction, unless it has one of its own.
        qrels: Human judgements; a document without one counts as not relevant.
        excluded: query_id to documents that are never counted for it: BRIGHT's excluded ids, and by BEIR's
            protocol the document with the query's id.
        instruction: The task, for encoders that take one.
        revision: The edition of the data, as its source names it.
        absent: How many judged documents this edition is known to lack (BEIR's ArguAna lacks 5).
            They stay judged, so that no system can find them; if more are missing, it is an error.
        protocol: How it is evaluated.
    """

    name: str
    documents: Iterable[Document]
    queries: tuple[Query, ...]
    qrels: tuple[Qrel, ...]
    excluded: Mapping[str, Set[str]] = field(default_factory=dict)
    instruction: str = ""
    revision: str = ""
    absent: int = 0
    protocol: Protocol = PLAIN

    def __post_init__(self) -> None:
        """Refuse what could not be scored; fill in what the instruction and the protocol say."""
        object.__setattr__(self, "queries", _Asked.with_instruction(self.queries, self.instruction))
        object.__setattr__(self, "qrels", tuple(self.qrels))
        if iter(self.documents) is self.documents:
            raise InputError(f"{self.name}: documents can be read only once; give a list")
        self._check_queries()
        object.__setattr__(self, "excluded", _Excluded.by(self.excluded, self.queries, self.protocol))
        if not len(self):
            raise InputError(f"{self.name}: the corpus is empty")

    def changed(self, **changes: Any) -> Self:
        """Return the collection with other attributes; unchanged documents are not read again."""
        new = object.__new__(type(self))
        for each in fields(self):
            object.__setattr__(new, each.name, changes.get(each.name, getattr(self, each.name)))
        if changes.keys().isdisjoint({"documents", "qrels", "absent"}):
            new.__dict__["_documents"] = self._documents
        new.__post_init__()
        return new

    @cached_property
    def digests(self) -> dict[str, str]:
        """The sha256 of each part; equal records have equal digests, in whatever order they come.

        Of the queries as they came: a query that has the collection's instruction only has none here.
        """
        return {
            "documents": self._documents.sha256,
            "queries": digest(_Asked.as_given(self.queries)),
            "qrels": digest(self.qrels),
            "excluded": digest(self.exclusions()),
        }

    def exclusions(self) -> Iterator[Exclusion]:
        """Yield `excluded` as records, sorted."""
        for query_id, doc_ids in sorted(self.excluded.items()):
            for doc_id in sorted(doc_ids):
                yield Exclusion(query_id=query_id, doc_id=doc_id)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._documents.hashes)

    def lacking(self, doc_ids: Iterable[str]) -> list[str]:
        """Return those of the ids, each once, that are no document of the corpus; the corpus is not read."""
        asked = list(dict.fromkeys(doc_ids))
        hashes = self._documents.hashes
        wanted = np.fromiter(map(hash, asked), dtype=np.int64, count=len(asked))
        places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        return [doc_id for doc_id, there in zip(asked, hashes[places] == wanted, strict=True) if not there]

    @cached_property
    def _documents(self) -> _Read:
        """What one pass over the documents found; it checks the ids."""
        hashes = array("q")
        missing = {qrel.doc_id: qrel.query_id for qrel in self.qrels}

        def checked() -> Iterator[Document]:
            for document in self.documents:
                # 8 bytes an id; a set of the ids would hold some 100
                hashes.append(hash(document.doc_id))
                missing.pop(document.doc_id, None)
                yield document

        found = digest(checked())
        values = np.array(hashes, dtype=np.int64)
        values.sort()
        self._refuse_duplicate_documents(values)
        if len(missing) > self.absent:
            doc_id, query_id = next(iter(missing.items()))
            raise InputError(
                f"{self.name}: {len(missing)} judged documents are not in the corpus, the first "
                f"{quoted(doc_id)} of query {quoted(query_id)}; "
                "are corpus and qrels of the same edition?"
            )
        return _Read(values, found)

    def _refuse_duplicate_documents(self, values: NDArray[np.int64]) -> None:
        suspects = set(values[1:][values[1:] == values[:-1]].tolist())
        if not suspects:
            return
        seen: dict[str, int] = {}
        # a second look, because two ids can share a hash
        for number, document in enumerate(self.documents, 1):
            if hash(document.doc_id) in suspects:
                first = seen.setdefault(document.doc_id, number)
                if first != number:
                    raise InputError(
                        f"{self.name}: duplicate doc_id {quoted(document.doc_id)} "
                        f"(documents {first} and {number}); keep one"
                    )

    def _check_queries(self) -> None:
        if not self.qrels:
            raise InputError(f"{self.name}: no judgements; the split's qrels are empty")
        records: tuple[tuple[str, Iterable[Query | Qrel]], ...] = (
            ("query_id", self.queries),
            ("judgement", self.qrels),
        )
        for what, every in records:
            seen: set[tuple[object, ...]] = set()
            for record in every:
                if record.key in seen:
                    raise InputError(
                        f"{self.name}: duplicate {what} {', '.join(map(quoted, record.key))}; keep one"
                    )
                seen.add(record.key)
        asked = {query.query_id for query in self.queries}
        judged = {qrel.query_id for qrel in self.qrels}
        for what, ids in (
            ("judged queries without a text", judged - asked),
            ("queries without a judgement", asked - judged),
            ("queries with excluded documents that are not asked", set(self.excluded) - asked),
        ):
            if ids:
                raise InputError(
                    f"{self.name}: {len(ids)} {what}, the first {quoted(min(ids))}; "
                    "are queries and qrels of the same edition?"
                )


def excluded_ids(exclusions: Iterable[Exclusion]) -> dict[str, set[str]]:
    """Return the documents that are never counted, by query, as `score` takes them."""
    ids: dict[str, set[str]] = {}
    for exclusion in exclusions:
        ids.setdefault(exclusion.query_id, set()).add(exclusion.doc_id)
    return ids


class _Read(NamedTuple):
    """The sorted hashes of all doc_ids, and the digest of the documents."""

    hashes: NDArray[np.int64]
    sha256: str


class _Asked(tuple[Query, ...]):
    """Queries that carry their collection's instruction; `given` are the same as they came.

    They come again as an attribute of a collection that is made of another one.
    """

    given: tuple[Query, ...]

    @classmethod
    def with_instruction(cls, queries: Iterable[Query], instruction: str) -> Self:
        given = cls.as_given(queries)
        new = cls(
            msgspec.structs.replace(query, instruction=instruction)
            if instruction and not query.instruction
            else query
            for query in given
        )
        new.given = given
        return new

    @classmethod
    def as_given(cls, queries: Iterable[Query]) -> tuple[Query, ...]:
        return queries.given if isinstance(queries, cls) else tuple(queries)


class _Excluded(dict[str, Set[str]]):
    """Documents that are never counted, those of the protocol too; `given` are the data's own."""

    given: Mapping[str, Set[str]]

    @classmethod
    def by(cls, excluded: Mapping[str, Set[str]], queries: Iterable[Query], protocol: Protocol) -> Self:
        given = excluded.given if isinstance(excluded, cls) else excluded
        new = cls(given)
        new.given = given
        if protocol.ignore_identical_ids:
            for query in queries:
                new[query.query_id] = {*given.get(query.query_id, ()), query.query_id}
        return new


def digest(records: Iterable[Record]) -> str:
    """Return the sha256 of a set of records: of their sorted sha256s, so that order does not matter.

    Memory holds 32 bytes a record. Raises InputError for text that is not valid Unicode.
    """
    encoder = msgspec.json.Encoder(order="sorted")
    each = bytearray()
    for record in records:
        try:
            line = encoder.encode(record)
        except UnicodeError as error:
            raise InputError(f"{quoted(record)}: {error}; a lone surrogate is not valid text") from error
        each += hashlib.sha256(line).digest()
    # sorts the bytes in place; all have one width, so numpy compares them as bytes do
    np.frombuffer(each, dtype="S32").sort()
    return hashlib.sha256(each).hexdigest()
