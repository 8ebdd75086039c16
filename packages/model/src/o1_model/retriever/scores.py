"""Scores of a whole corpus for queries and for thoughts: by vectors, by BM25, by both.

A mixture is then a sum: `(1 - weight) * queries + weight * thoughts` ranks documents as the mixed vectors of
`o1_records.mixture` do. Queries without a thought have a row of zeros, which changes no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from o1_model.retriever.embedders import Vectors, readings_of
from o1_model.retriever.retriever import Texts, ThinkingRetriever
from o1_records import Document, InputError, Query
from o1_records.mixture import Reading, mix_vectors, z_scores

Scores = NDArray[np.float32]


class Corpus(Protocol):
    """A corpus that is searched; columns of all scores are in the order of its documents."""

    @property
    def readings(self) -> Sequence[Reading]:
        """The ways in which a thought can be read."""

    def of_queries(self, queries: Sequence[Query], document_weight: float) -> Scores:
        """Return the scores of queries [queries, documents]."""

    def of_thoughts(
        self, queries: Sequence[Query], thoughts: Texts, reading: Reading, document_weight: float
    ) -> Scores:
        """Return the mean scores of each query's thoughts [queries, documents]."""


class DenseCorpus:
    """A corpus as vectors; `thoughts` are those of each document, in its order."""

    def __init__(
        self,
        retriever: ThinkingRetriever,
        documents: Sequence[Document],
        thoughts: Texts | None = None,
    ) -> None:
        self.readings = readings_of(retriever.embedder)
        self._retriever, self._plain = retriever, retriever.embedder.documents(documents)
        self._thoughts = None if thoughts is None else retriever.read_as_documents(thoughts)
        self._mixed: tuple[float, Vectors] = (0.0, self._plain)

    def of_queries(self, queries: Sequence[Query], document_weight: float) -> Scores:
        """Return cosines of v_q and the documents."""
        return self._scores(self._retriever.embedder.queries(queries), document_weight)

    def of_thoughts(
        self, queries: Sequence[Query], thoughts: Texts, reading: Reading, document_weight: float
    ) -> Scores:
        """Return products of the mean of each query's thoughts and the documents."""
        read = self._retriever.read(queries, thoughts, reading)
        width = self._plain.shape[1]
        means = [own.mean(axis=0) if len(own) else np.zeros(width, dtype=np.float32) for own in read]
        return self._scores(np.stack(means), document_weight)

    def _scores(self, vectors: Vectors, weight: float) -> Scores:
        if weight and self._thoughts is None:
            raise InputError("a weight for documents needs thoughts of documents")
        if weight != self._mixed[0]:
            mixed = mix_vectors(self._plain, self._thoughts, weight) if self._thoughts else self._plain
            self._mixed = weight, mixed
        scores: Scores = (vectors @ self._mixed[1].T).astype(np.float32)
        return scores


class BM25Corpus:
    """A corpus in BM25, scores in standard deviations; thoughts of documents are a field of their own."""

    readings: tuple[Reading, ...] = ("document",)

    def __init__(
        self,
        documents: Sequence[Document],
        thoughts: Texts | None = None,
        *,
        split_identifiers: bool = False,
    ) -> None:
        from o1_records.bm25 import BM25  # needs an extra of o1-records

        self._text = BM25(documents, split_identifiers=split_identifiers)
        self._field = None
        if thoughts is not None:
            field = [
                Document(doc_id=document.doc_id, text=" ".join(own))
                for document, own in zip(documents, thoughts, strict=True)
            ]
            self._field = BM25(field, split_identifiers=split_identifiers)

    def of_queries(self, queries: Sequence[Query], document_weight: float) -> Scores:
        """Return z-scores of queries."""
        return np.stack([self._scores(query.text, document_weight) for query in queries])

    def of_thoughts(
        self, queries: Sequence[Query], thoughts: Texts, reading: Reading, document_weight: float
    ) -> Scores:
        """Return mean z-scores of thoughts, each searched for by itself."""
        found = np.zeros((len(queries), len(self._text.doc_ids)), dtype=np.float32)
        for row, own in enumerate(thoughts):
            for text in own:
                found[row] += self._scores(text, document_weight) / len(own)
        return found

    def _scores(self, text: str, weight: float) -> Scores:
        scores = z_scores(self._text.scores(text))
        if weight:
            if self._field is None:
                raise InputError("a weight for documents needs thoughts of documents")
            scores = (1 - weight) * scores + weight * z_scores(self._field.scores(text))
        return scores


class HybridCorpus:
    """Half the z-scores of vectors, half those of BM25."""

    def __init__(self, dense: DenseCorpus, lexical: BM25Corpus) -> None:
        self.readings, self._dense, self._lexical = dense.readings, dense, lexical

    def of_queries(self, queries: Sequence[Query], document_weight: float) -> Scores:
        """Return the mean of both z-scores of queries."""
        dense = self._dense.of_queries(queries, document_weight)
        return _half(dense, self._lexical.of_queries(queries, document_weight))

    def of_thoughts(
        self, queries: Sequence[Query], thoughts: Texts, reading: Reading, document_weight: float
    ) -> Scores:
        """Return the mean of both z-scores of thoughts; BM25 has one reading only."""
        dense = self._dense.of_thoughts(queries, thoughts, reading, document_weight)
        return _half(dense, self._lexical.of_thoughts(queries, thoughts, "document", document_weight))


def _half(dense: Scores, lexical: Scores) -> Scores:
    half: Scores = (np.stack([z_scores(row) for row in dense]) + lexical) / np.float32(2)
    return half
