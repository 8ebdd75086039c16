"""A member that compares embeddings of any kind by their cosine; each text is embedded once."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, quoted
from o1_vote.members.protocol import Documents, Found, Pair, documents_by_id, refuse_unknown
from o1_vote.members.vector_cache import Vector, VectorCache

Encode = Callable[[list[str]], NDArray[np.float32]]
"""Embeds distinct texts: float32 [texts, dim]; the vectors need not be of unit length."""

_TEXTS_AT_A_TIME = 256
_DOCUMENTS_AT_A_TIME = 4096
_COMMIT = 1024
"""Texts that are embedded between two commits to the cache: a kill loses no more."""


class CosineMember:
    """Compare texts and documents by the cosine of their embeddings.

    A zero vector (an empty text, for some models) has similarity 0 to everything and finds nothing.

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
        self.documents: Mapping[str, Document]
        self.documents = documents if isinstance(documents, Mapping) else documents_by_id(documents)
        self._cache = cache or VectorCache()
        self._query_side = document_side = (encode, fingerprint)
        if encode_document is not None:
            document_side = (encode_document, f"{fingerprint} document")
        self._corpus = _Corpus(self.documents, functools.partial(self._vectors, document_side))

    def reading(self, encode: Encode, fingerprint: str) -> Self:
        """Return this member with another way to embed texts; documents are embedded once for both."""
        other = copy.copy(self)
        other._query_side = (encode, fingerprint)
        return other

    def document_vectors(self, doc_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of documents [doc_ids, dim], of unit length or zero."""
        return self._corpus.vectors(doc_ids)

    def read_documents(self, path: Path) -> None:
        """Take the vectors of all documents from a file of float32, in the order of the corpus."""
        self._corpus.read(path)

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Return the cosine of each (text, doc_id): float32 [pairs]. See `Retriever.similarities`."""
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        refuse_unknown(self.name, pairs, self._corpus.known)
        place = {text: number for number, text in enumerate(dict.fromkeys(text for text, _ in pairs))}
        texts = self._vectors(self._query_side, list(place))
        documents = self._corpus.vectors([doc_id for _, doc_id in pairs])
        cosines: NDArray[np.float32] = np.einsum(
            "ij,ij->i", texts[[place[text] for text, _ in pairs]], documents
        )
        return cosines

    def search(self, texts: Sequence[str], k: int) -> Iterator[Found]:
        """Yield for each text its k nearest documents; memory does not grow with the corpus."""
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            vectors = self._vectors(self._query_side, texts[start : start + _TEXTS_AT_A_TIME])
            found = self._corpus.nearest(vectors, k)
            for vector, own in zip(vectors, found, strict=True):
                yield own if vector.any() else Found([], np.zeros(0, dtype=np.float32))

    def _vectors(self, side: tuple[Encode, str], texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts [texts, dim], of unit length or zero."""
        encode, fingerprint = side
        distinct = list(dict.fromkeys(texts))
        vectors = self._cache.get(fingerprint, distinct)
        missing = sorted((text for text in distinct if text not in vectors), key=len)
        for start in range(0, len(missing), _COMMIT):
            new = self._unit_vectors(encode, missing[start : start + _COMMIT])
            self._cache.put(fingerprint, new)
            vectors.update(new)
        return np.stack([vectors[text] for text in texts])

    def _unit_vectors(self, encode: Encode, texts: list[str]) -> dict[str, Vector]:
        vectors = np.asarray(encode(texts), dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms[:, 0]))
        if len(bad):
            text = quoted(texts[bad[0]])
            raise InputError(f"member {quoted(self.name)}: the vector of {text} is not finite")
        unit = vectors / np.where(norms > 0, norms, 1)
        return dict(zip(texts, unit, strict=True))


class _Corpus:
    """The vectors of a corpus: of single documents, or once it is searched of all, in a temporary file."""

    def __init__(
        self, documents: Mapping[str, Document], embed: Callable[[list[str]], NDArray[np.float32]]
    ) -> None:
        self._documents, self._embed = documents, embed

    @property
    def known(self) -> Mapping[str, object]:
        """Something that has all doc_ids as keys, and can be asked fast once the corpus is searched."""
        return self._rows if "_matrix" in vars(self) else self._documents

    def vectors(self, doc_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of documents [doc_ids, dim]."""
        if "_matrix" in vars(self):
            return self._matrix[[self._rows[doc_id] for doc_id in doc_ids]]
        return self._embed([self._documents[doc_id].full_text for doc_id in doc_ids])

    def read(self, path: Path) -> None:
        """Take the vectors of all documents from a file, which is mapped and not loaded."""
        if count := len(self._names):
            shape = (count, path.stat().st_size // 4 // count)
            self._matrix = np.memmap(path, dtype=np.float32, mode="r", shape=shape)

    def nearest(self, vectors: NDArray[np.float32], k: int) -> Iterator[Found]:
        """Yield for each vector its k nearest documents, best first; equal scores go to the larger doc_id."""
        count = len(vectors)
        # what may still be among the k best: whose it is, its score, its row
        whose = np.zeros(0, dtype=np.int64)
        scores, rows = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
        least = np.full(count, -np.inf, dtype=np.float32)
        for start in range(0, len(self._names), _DOCUMENTS_AT_A_TIME):
            some = vectors @ self._matrix[start : start + _DOCUMENTS_AT_A_TIME].T
            if k < some.shape[1]:
                least = np.maximum(least, np.partition(some, -k, axis=1)[:, -k]) if start == 0 else least
            new, place = np.nonzero(some >= least[:, None])
            whose = np.concatenate([whose, new])
            scores = np.concatenate([scores, some[new, place]])
            rows = np.concatenate([rows, place + start])
            order = np.lexsort((self._ranks[rows], -scores, whose))
            whose, scores, rows = whose[order], scores[order], rows[order]
            firsts = np.searchsorted(whose, np.arange(count))
            kept = np.arange(len(whose)) - firsts[whose] < k
            whose, scores, rows = whose[kept], scores[kept], rows[kept]
            ends = np.searchsorted(whose, np.arange(count), side="right")
            full = ends - np.searchsorted(whose, np.arange(count)) == k
            least[full] = scores[ends[full] - 1]
        for number in range(count):
            low, high = np.searchsorted(whose, [number, number + 1])
            yield Found([self._names[row] for row in rows[low:high]], scores[low:high])

    @functools.cached_property
    def _names(self) -> list[str]:
        return list(self._documents)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {doc_id: row for row, doc_id in enumerate(self._names)}

    @functools.cached_property
    def _ranks(self) -> NDArray[np.int64]:
        """The place of each document among all by doc_id, descending."""
        order = sorted(range(len(self._names)), key=lambda row: self._names[row], reverse=True)
        ranks = np.zeros(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        return ranks

    @functools.cached_property
    def _matrix(self) -> NDArray[np.float32]:
        """Vectors of all documents [documents, dim] in a temporary file, so that they take no memory."""
        matrix: NDArray[np.float32] | None = None
        for start in range(0, len(self._names), _DOCUMENTS_AT_A_TIME):
            names = self._names[start : start + _DOCUMENTS_AT_A_TIME]
            vectors = self._embed([self._documents[doc_id].full_text for doc_id in names])
            if matrix is None:
                shape = (len(self._names), vectors.shape[1])
                matrix = np.memmap(tempfile.TemporaryFile(), dtype=np.float32, mode="w+", shape=shape)
            matrix[start : start + len(names)] = vectors
        return np.zeros((0, 1), dtype=np.float32) if matrix is None else matrix
