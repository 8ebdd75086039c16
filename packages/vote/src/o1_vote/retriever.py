"""What a committee asks of a member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, quoted

Pair = tuple[str, str]
"""A text and the doc_id of the document that it is compared with."""

Documents: TypeAlias = Iterable[Document] | Mapping[str, Document]
"""A corpus: documents one after another, or a mapping that looks them up by doc_id."""


class Retriever(Protocol):
    """A member of the committee: it knows a corpus and says how near a text is to a document."""

    @property
    def name(self) -> str:
        """What its ballots are signed with; unique within a committee."""

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Score every (text, doc_id): float32 [pairs], higher is nearer.

        A text is read once however many pairs mention it. Raises InputError for an unknown doc_id.
        """


@runtime_checkable
class Searcher(Protocol):
    """A member that can also score its whole corpus, for ranks and for mining."""

    @property
    def name(self) -> str:
        """As a `Retriever`'s."""

    @property
    def doc_ids(self) -> Sequence[str]:
        """The documents in the order of the scores."""

    def row(self, doc_id: str) -> int:
        """The place of a document in `doc_ids`. Raises KeyError when it is not in the corpus."""

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """As a `Retriever`'s."""

    def corpus_scores(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Yield for each text the scores of all documents: float32 [documents], higher is nearer."""


def documents_by_id(documents: Iterable[Document]) -> dict[str, Document]:
    """Map each doc_id to its document. Raises InputError where a doc_id stands twice."""
    known: dict[str, Document] = {}
    for document in documents:
        if document.doc_id in known:
            raise InputError(f"document {quoted(document.doc_id)} stands twice; keep one of them")
        known[document.doc_id] = document
    return known


def refuse_unknown(name: str, pairs: Iterable[Pair], known: Mapping[str, object] | frozenset[str]) -> None:
    """Raise InputError for a pair whose document is not in the corpus."""
    unknown = sorted({doc_id for _, doc_id in pairs if doc_id not in known})
    if unknown:
        raise InputError(
            f"member {quoted(name)}: {len(unknown)} documents are not in its corpus: {quoted(unknown)}"
        )
