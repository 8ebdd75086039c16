"""Names for the queries and documents of files that name none: digests of their content."""

from __future__ import annotations

import hashlib

import msgspec

from o1_records.keys import KeySet
from o1_records.types import Document


def content_doc_id(text: str) -> str:
    """The name of a document by its text: the same passage has the same name in every file."""
    return "d-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def content_query_id(*parts: str) -> str:
    """The name of a query by its text and its instruction."""
    return "q-" + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


class QueryNames:
    """Gives each query of one file a name; the second equal query is `q-...#2`."""

    def __init__(self) -> None:
        self._seen = KeySet()
        self._repeats: dict[str, int] = {}

    def name(self, *parts: str) -> str:
        """The name of the next query."""
        query_id = content_query_id(*parts)
        if self._seen.add((query_id,)):
            return query_id
        self._repeats[query_id] = self._repeats.get(query_id, 1) + 1
        return f"{query_id}#{self._repeats[query_id]}"


def documents_of(texts: list[str], ids: list[str] | None = None) -> tuple[Document, ...]:
    """Documents of passages, under the names given or those of their content."""
    names = [content_doc_id(text) for text in texts] if ids is None else ids
    return tuple(Document(doc_id=name, text=text) for name, text in zip(names, texts, strict=True))
