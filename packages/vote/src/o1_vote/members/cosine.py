"""A member that compares embeddings of any kind by their cosine; each text is embedded once."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, quoted
from o1_vote.members.protocol import Documents, Pair, documents_by_id, refuse_unknown
from o1_vote.members.vector_cache import Vector, VectorCache

Encode = Callable[[list[str]], NDArray[np.float32]]
"""Embeds distinct texts: float32 [texts, dim]; the vectors need not be of unit length."""

_TEXTS_AT_A_TIME = 64
_DOCUMENTS_AT_A_TIME = 4096
_COMMIT = 1024
"""Texts that are embedded between two commits to the cache: a kill loses no more."""


class CosineMember:
    """Compare texts and documents by the cosine of their embeddings.

    A zero vector (an empty text, for some models) has similarity 0 to everything.

    Args:
        name: the name on its ballots.
        encode: any embedding function.
        documents: the corpus.
        encode_document: the function for documents, if they are embedded in another way.
        cache: where vectors are kept, under `fingerprint`; a temporary file by default.
        fingerprint: names everything that changes a vector; needed with a cache.
    """

    def __init__(
        self,
        name: str,
        encode: Encode,
        documents: Documents,
        *,
        encode_document: Encode | None = None,
        cache: VectorCache | None = None,
        fingerprint: str = "",
    ) -> None:
        if cache is not None and not fingerprint:
            raise InputError(f"member {quoted(name)}: a cache needs the fingerprint of the encoder")
        self.name = name
        self.fingerprint = fingerprint
        self._documents = documents if isinstance(documents, Mapping) else documents_by_id(documents)
        self._cache = cache or VectorCache()
        self._query_side = self._document_side = (encode, fingerprint)
        if encode_document is not None:
            self._document_side = (encode_document, f"{fingerprint} document")

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Return the cosine of each (text, doc_id): float32 [pairs]. See `Retriever.similarities`."""
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        refuse_unknown(self.name, pairs, self._documents)
        texts = {doc_id: self._text(doc_id) for _, doc_id in pairs}
        if self._query_side is self._document_side:
            left = right = self._embed([*(text for text, _ in pairs), *texts.values()], self._query_side)
        else:
            left = self._embed((text for text, _ in pairs), self._query_side)
            right = self._embed(texts.values(), self._document_side)
        cosines: NDArray[np.float32] = np.einsum(
            "ij,ij->i",
            np.stack([left[text] for text, _ in pairs]),
            np.stack([right[texts[doc_id]] for _, doc_id in pairs]),
        )
        return cosines

    @functools.cached_property
    def doc_ids(self) -> list[str]:
        """The documents in the order of `corpus_scores`."""
        return list(self._documents)

    def row(self, doc_id: str) -> int:
        """Return the position of a document in `doc_ids`. Raises KeyError when it is not in the corpus."""
        return self._rows[doc_id]

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {doc_id: row for row, doc_id in enumerate(self.doc_ids)}

    def corpus_scores(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Yield for each text its cosine with all documents: float32 [documents]."""
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            some = texts[start : start + _TEXTS_AT_A_TIME]
            vectors = self._embed(some, self._query_side)
            yield from np.stack([vectors[text] for text in some]) @ self._matrix.T

    @functools.cached_property
    def _matrix(self) -> NDArray[np.float32]:
        """Vectors of all documents [documents, dim] in a temporary file, so that they take no memory."""
        matrix: NDArray[np.float32] | None = None
        for start in range(0, len(self.doc_ids), _DOCUMENTS_AT_A_TIME):
            texts = [self._text(doc_id) for doc_id in self.doc_ids[start : start + _DOCUMENTS_AT_A_TIME]]
            vectors = self._embed(texts, self._document_side)
            if matrix is None:
                shape = (len(self.doc_ids), len(vectors[texts[0]]))
                matrix = np.memmap(tempfile.TemporaryFile(), dtype=np.float32, mode="w+", shape=shape)
            matrix[start : start + len(texts)] = np.stack([vectors[text] for text in texts])
        return np.zeros((0, 1), dtype=np.float32) if matrix is None else matrix

    def _text(self, doc_id: str) -> str:
        return self._documents[doc_id].full_text

    def _embed(self, texts: Iterable[str], side: tuple[Encode, str]) -> dict[str, Vector]:
        encode, fingerprint = side
        distinct = list(dict.fromkeys(texts))
        vectors = self._cache.get(fingerprint, distinct)
        missing = sorted((text for text in distinct if text not in vectors), key=len)
        for start in range(0, len(missing), _COMMIT):
            new = self._unit_vectors(encode, missing[start : start + _COMMIT])
            self._cache.put(fingerprint, new)
            vectors.update(new)
        return vectors

    def _unit_vectors(self, encode: Encode, texts: list[str]) -> dict[str, Vector]:
        vectors = np.asarray(encode(texts), dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms[:, 0]))
        if len(bad):
            text = quoted(texts[bad[0]])
            raise InputError(f"member {quoted(self.name)}: the vector of {text} is not finite")
        unit = vectors / np.where(norms > 0, norms, 1)
        return dict(zip(texts, unit, strict=True))
