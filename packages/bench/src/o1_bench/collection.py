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
    40 bytes a document while it does (no ids, no texts), and raises InputError for a repeated
    id, for no judgements, and for judgements and exclusions that name what is not there.

    Attributes:
        name: What the collection is called in results, with its split: `scifact/test`.
        documents: All documents, in a fixed order.
        queries: The queries that are asked. One without a judgement is refused.
        qrels: Human judgements; what is not judged counts as not relevant.
        excluded: query_id to documents that are never counted for it (BRIGHT's excluded ids).
        instruction: The task, for encoders that want one; a query's own instruction wins.
        revision: Which edition of the data this is, in the words of its source.
        absent: How many judged documents this edition is known to lack (BEIR's ArguAna lacks 5).
            They stay judged, so that no system can find them; more than so many are refused.
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
        self._check_documents()

    @cached_property
    def digests(self) -> dict[str, str]:
        """The sha256 of each part: equal for equal records, in whatever order they stand."""
        exclusions = (
            Exclusion(query_id=query_id, doc_id=doc_id)
            for query_id, doc_ids in self.excluded.items()
            for doc_id in doc_ids
        )
        return {
            "documents": self._documents[1],
            "queries": digest(self.queries),
            "qrels": digest(self.qrels),
            "excluded": digest(exclusions),
        }

    def __len__(self) -> int:
        """The number of documents."""
        return self._documents[0]

    @cached_property
    def _documents(self) -> tuple[int, str]:
        """Their number and their digest; one pass also checks the ids."""
        hashes = array("q")
        missing = {qrel.doc_id: qrel.query_id for qrel in self.qrels}

        def checked() -> Iterator[Document]:
            for document in self.documents:
                # 8 bytes an id; a set of the ids would hold some 100
                hashes.append(hash(document.doc_id))
                missing.pop(document.doc_id, None)
                yield document

        found = digest(checked())
        self._refuse_repeated_documents(_repeated(hashes))
        if len(missing) > self.absent:
            doc_id, query_id = next(iter(missing.items()))
            raise InputError(
                f"{self.name}: {len(missing)} judged documents are not in the corpus, the first "
                f"{quoted(doc_id)} of query {quoted(query_id)}; "
                "are corpus and qrels of one edition?"
            )
        return len(hashes), found

    def _refuse_repeated_documents(self, suspects: Set[int]) -> None:
        """Look again at the ids whose hashes are equal: two ids can share one."""
        if not suspects:
            return
        seen: dict[str, int] = {}
        for number, document in enumerate(self.documents, 1):
            if hash(document.doc_id) in suspects:
                first = seen.setdefault(document.doc_id, number)
                if first != number:
                    raise InputError(
                        f"{self.name}: doc_id {quoted(document.doc_id)} stands twice, "
                        f"as documents {first} and {number}; keep one"
                    )

    def _check_documents(self) -> None:
        if self._documents[0] == 0:
            raise InputError(f"{self.name}: the corpus is empty")

    def _check_queries(self) -> None:
        if not self.qrels:
            raise InputError(f"{self.name}: no judgements; the split's qrels are empty")
        self._refuse_repeats("query_id", (query.key for query in self.queries))
        self._refuse_repeats("judgement", (qrel.key for qrel in self.qrels))
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
                    "are queries and qrels of one edition?"
                )

    def _refuse_repeats(self, what: str, keys: Iterable[tuple[object, ...]]) -> None:
        seen: set[tuple[object, ...]] = set()
        for key in keys:
            if key in seen:
                raise InputError(f"{self.name}: {what} {quoted(key)} stands twice; keep one")
            seen.add(key)


def digest(records: Iterable[Record]) -> str:
    """The sha256 of a set of records: of their sorted sha256s, so that order does not matter.

    Memory holds 32 bytes a record. Raises InputError for text that is not Unicode.
    """
    encoder = msgspec.json.Encoder(order="sorted")
    each = bytearray()
    for record in records:
        try:
            line = encoder.encode(record)
        except UnicodeError as error:
            raise InputError(f"{quoted(record)}: {error}; half of a surrogate pair is not text") from error
        each += hashlib.sha256(line).digest()
    # sorts the bytes where they are; all have one width, so numpy compares them as bytes do
    np.frombuffer(each, dtype="S32").sort()
    return hashlib.sha256(each).hexdigest()


def _repeated(hashes: array[int]) -> set[int]:
    """The values that stand more than once; sorts in place."""
    if not hashes:
        return set()
    values = np.frombuffer(hashes, dtype=np.int64)
    values.sort()
    return set(values[1:][values[1:] == values[:-1]].tolist())
