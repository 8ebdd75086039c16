"""A collection: what is searched, what is asked, what is right.

Datasets make collections (`o1_bench.datasets`), retrievers and scores take them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
import numpy as np

from o1_records import Document, Exclusion, InputError, Qrel, Query, Record, quoted


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Documents, the queries of one split, their judgements and the protocol around them.

    `documents` is iterated several times and never kept, so it may read a file: give a list, or
    an object whose `__iter__` starts again. Making a collection reads the documents once, holds
    40 bytes a document while it does (no ids, no texts), and raises InputError for a duplicate
    id, for no judgements, and for judgements and exclusions of ids that do not exist.

    Attributes:
        name: What the collection is called in results, with its split: `scifact/test`.
        documents: All documents, in a fixed order.
        queries: The queries that are asked. One without a judgement is refused.
        qrels: Human judgements; a document without one counts as not relevant.
        excluded: query_id to documents that are never counted for it (BRIGHT's excluded ids).
        instruction: The task, for encoders that take one; a query's own instruction wins.
        revision: The edition of the data, as its source names it.
        absent: How many judged documents this edition is known to lack (BEIR's ArguAna lacks 5).
            They stay judged, so that no system can find them; if more are missing, it is an error.
    """

    name: str
    documents: Iterable[Document]
    queries: tuple[Query, ...]
    qrels: tuple[Qrel, ...]
    excluded: Mapping[str, Set[str]] = field(default_factory=dict)
    instruction: str = ""
    revision: str = ""
    absent: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be scored."""
        object.__setattr__(self, "queries", tuple(self.queries))
        object.__setattr__(self, "qrels", tuple(self.qrels))
        if iter(self.documents) is self.documents:
            raise InputError(f"{self.name}: documents can be read only once; give a list")
        self._check_queries()
        if not len(self):
            raise InputError(f"{self.name}: the corpus is empty")

    @cached_property
    def digests(self) -> dict[str, str]:
        """The sha256 of each part; equal records have equal digests, in whatever order they come."""
        return {
            "documents": self._documents[1],
            "queries": digest(self.queries),
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
        return self._documents[0]

    @cached_property
    def _documents(self) -> tuple[int, str]:
        """Their number and their digest; the same pass checks the ids."""
        hashes = array("q")
        missing = {qrel.doc_id: qrel.query_id for qrel in self.qrels}

        def checked() -> Iterator[Document]:
            for document in self.documents:
                # 8 bytes an id; a set of the ids would hold some 100
                hashes.append(hash(document.doc_id))
                missing.pop(document.doc_id, None)
                yield document

        found = digest(checked())
        self._refuse_duplicate_documents(hashes)
        if len(missing) > self.absent:
            doc_id, query_id = next(iter(missing.items()))
            raise InputError(
                f"{self.name}: {len(missing)} judged documents are not in the corpus, the first "
                f"{quoted(doc_id)} of query {quoted(query_id)}; "
                "are corpus and qrels of the same edition?"
            )
        return len(hashes), found

    def _refuse_duplicate_documents(self, hashes: array[int]) -> None:
        values = np.array(hashes, dtype=np.int64)
        values.sort()
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
