"""Documents in the place of queries: what the scheduler and its journal are keyed by."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Container, Iterable, Iterator
from typing import Protocol

from o1_records import Document, Query
from o1_synth.asking import Prompting
from o1_synth.expert import Expert


class ExpertOf(Protocol):
    """Makes an expert of a prompt: `functools.partial(ChatExpert, url, model)`."""

    def __call__(self, *, prompt: Prompting) -> Expert:
        """An expert that asks with this prompt."""


def as_query(document: Document) -> Query:
    """A document as a query, nothing of it lost."""
    return Query(query_id=document.doc_id, text=document.text, instruction=document.title)


def as_document(query: Query) -> Document:
    """The document that `as_query` put there."""
    return Document(doc_id=query.query_id, text=query.text, title=query.instruction)


def text_of(query: Query) -> str:
    """Its title and text."""
    return as_document(query).full_text


def sources(
    documents: Iterable[Document],
    *,
    banned: Container[str] = frozenset(),
    shortest: int = 200,
    longest: int = 5000,
    count: int | None = None,
    seed: int = 0,
) -> Iterator[Document]:
    """Yield the documents that queries may be written of: of the right length and not banned.

    Lengths are characters of title and text. With a `count`, that many by lot: a document's lot
    depends on its id and the seed alone, and the chosen ones are held in memory.
    """
    fit = (
        document
        for document in documents
        if document.doc_id not in banned and shortest <= len(document.full_text) <= longest
    )
    if count is None:
        return fit
    return iter(heapq.nsmallest(count, fit, key=lambda document: _lot(document.doc_id, seed)))


def _lot(doc_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{doc_id}".encode()).digest()
