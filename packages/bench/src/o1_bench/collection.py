"""A collection: what is searched, what is asked, what is right.

Datasets make collections (`o1_bench.datasets`), retrievers and scores take them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from o1_records import Document, Exclusion, InputError, Qrel, Query, Record, quoted


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Documents, the queries of one split, their judgements and the protocol around them.

    `documents` is iterated several times and never kept, so it may read a file: give a list, or
    an object whose `__iter__` starts again. Making a collection reads the documents once, holds
    their ids and digests (not their texts) while it does, and raises InputError for a repeated
    id, for no judgements, and for judgements and exclusions that name what is not there.

    Attributes:
        name: What the collection is called in results, with its split: `scifact/test`.
        documents: All documents, in a fixed order.
        queries: The queries that are asked. One without a judgement is refused.
        qrels: Human judgements; what is not judged counts as not relevant.
        excluded: query_id to documents that are never counted for it (BRIGHT's excluded ids).
        instruction: The task, for encoders that want one; a query's own instruction wins.
        revision: Which edition of the data this is, in the words of its source.
    """

    name: str
    documents: Iterable[Document]
    queries: tuple[Query, ...]
    qrels: tuple[Qrel, ...]
    excluded: Mapping[str, Set[str]] = field(default_factory=dict)
    instruction: str = ""
    revision: str = ""

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
        seen: set[str] = set()
        missing = {qrel.doc_id: qrel.query_id for qrel in self.qrels}

        def checked() -> Iterable[Document]:
            for document in self.documents:
                if document.doc_id in seen:
                    raise InputError(f"{self.name}: doc_id {quoted(document.doc_id)} stands twice; keep one")
                seen.add(document.doc_id)
                missing.pop(document.doc_id, None)
                yield document

        found = digest(checked())
        for doc_id, query_id in missing.items():
            raise InputError(
                f"{self.name}: {len(missing)} judged documents are not in the corpus, the first "
                f"{quoted(doc_id)} of query {quoted(query_id)}; "
                "are corpus and qrels of one edition?"
            )
        return len(seen), found

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

    Memory holds 32 bytes a record.
    """
    encoder = msgspec.json.Encoder(order="sorted")
    each = sorted(hashlib.sha256(encoder.encode(record)).digest() for record in records)
    return hashlib.sha256(b"".join(each)).hexdigest()
