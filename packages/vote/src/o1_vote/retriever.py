"""What a committee asks of a member, and the member that compares embeddings of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, quoted

Pair = tuple[str, str]
"""A text and the doc_id of the document that it is compared with."""

Encode = Callable[[list[str]], NDArray[np.float32]]
"""Embed distinct texts: float32 [texts, dim], of any length."""


class Retriever(Protocol):
    """A member of the committee: it knows a corpus and says how near a text is to a document."""

    @property
    def name(self) -> str:
        """What its ballots are signed with; unique within a committee."""

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Score every (text, doc_id): float32 [pairs], higher is nearer.

        A text is read once however many pairs mention it. Raises InputError for an unknown doc_id.
        """


class CosineMember:
    """A member that compares embeddings by their cosine.

    `encode` may be any embedding function. Vectors of documents are kept, those of texts are not.
    A zero vector (an empty text, for some models) has similarity 0 to everything.
    """

    def __init__(self, name: str, encode: Encode, documents: Iterable[Document]) -> None:
        self.name = name
        self._encode = encode
        self._texts = texts_by_id(documents)
        self._document_vectors: dict[str, NDArray[np.float32]] = {}

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Cosine of each (text, doc_id): float32 [pairs]. See `Retriever.similarities`."""
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        refuse_unknown(self.name, pairs, self._texts)
        kept = self._document_vectors
        new = {doc_id: self._texts[doc_id] for _, doc_id in pairs if doc_id not in kept}
        vectors = self._embed(dict.fromkeys([*(text for text, _ in pairs), *new.values()]))
        kept.update({doc_id: vectors[text] for doc_id, text in new.items()})
        left = np.stack([vectors[text] for text, _ in pairs])
        right = np.stack([kept[doc_id] for _, doc_id in pairs])
        cosines: NDArray[np.float32] = np.einsum("ij,ij->i", left, right)
        return cosines

    def _embed(self, texts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        distinct = list(texts)
        vectors = np.asarray(self._encode(distinct), dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms[:, 0]))
        if len(bad):
            text = quoted(distinct[bad[0]])
            raise InputError(f"member {quoted(self.name)}: the vector of {text} is not finite")
        # copies, so that a kept document does not keep the whole batch in memory
        unit = vectors / np.where(norms > 0, norms, 1)
        return {text: row.copy() for text, row in zip(distinct, unit, strict=True)}


def texts_by_id(documents: Iterable[Document]) -> dict[str, str]:
    """Map each doc_id to its title and text. Raises InputError where a doc_id stands twice."""
    texts: dict[str, str] = {}
    for document in documents:
        if document.doc_id in texts:
            raise InputError(f"document {quoted(document.doc_id)} stands twice; keep one of them")
        texts[document.doc_id] = document.full_text
    return texts


def refuse_unknown(name: str, pairs: Iterable[Pair], known: Iterable[str]) -> None:
    """Raise InputError for a pair whose document is not in the corpus."""
    unknown = sorted({doc_id for _, doc_id in pairs}.difference(known))
    if unknown:
        raise InputError(
            f"member {quoted(name)}: {len(unknown)} documents are not in its corpus: {quoted(unknown)}"
        )
