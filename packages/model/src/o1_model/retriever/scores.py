"""Scores of a whole corpus for queries and for thoughts: by vectors, by BM25, by both.

A mixture is then a sum: `(1 - weight) * queries + weight * thoughts` ranks documents as the mixed vectors of
`o1_records.mixture` do. Queries without a thought have a row of zeros, which changes no order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from o1_model.retriever.calibration import Search
from o1_model.retriever.embedders import EmbeddingModel, JointModel, Vectors, readings_of
from o1_model.retriever.retriever import Texts, ThinkingRetriever
from o1_records import Document, InputError, Query
from o1_records.mixture import Reading, mix_vectors, read_thoughts, z_scores

Scores = NDArray[np.float32]


class Corpus(Protocol):
    """A corpus that is searched; columns of all scores are in the order of its documents."""

    @property
    def readings(self) -> Sequence[Reading]:
        """The ways in which a thought can be read."""

    def with_others_thoughts(self) -> Corpus:
        """Return the same corpus, each document with the thoughts of another: a control."""

    def of_queries(self, queries: Sequence[Query], document_weight: float) -> Scores:
        """Return the scores of queries [queries, documents]."""

    def of_thoughts(
        self, queries: Sequence[Query], thoughts: Texts, reading: Reading, document_weight: float
    ) -> Scores:
        """Return the mean scores of each query's thoughts [queries, documents]."""


class DenseCorpus:
    """A corpus as vectors [documents, dim]; `thoughts` are those of each document, in its order."""

    def __init__(
        self,
        retriever: ThinkingRetriever,
        documents: Sequence[Document],
        thoughts: Texts | None = None,
        vectors: Vectors | None = None,
    ) -> None:
        self.readings = readings_of(retriever.embedder)
        self._plain = retriever.embedder.documents(documents) if vectors is None else vectors
        self._thoughts = None if thoughts is None else retriever.read_as_documents(thoughts)
        self._mixed: tuple[float, Vectors] = (0.0, self._plain)
        # every weight and every control asks for the same vectors again
        self._model = _Remembering(retriever.embedder)

    def with_others_thoughts(self) -> DenseCorpus:
        """Return the same corpus, each document with the thoughts of another."""
        other = copy.copy(self)
        other._thoughts = None if self._thoughts is None else [*self._thoughts[1:], *self._thoughts[:1]]
        other._mixed = (0.0, self._plain)
        return other

    def of_queries(self, queries: Sequence[Query], document_weight: float) -> Scores:
        """Return cosines of v_q and the documents."""
        return self._scores(self._model.queries(queries), document_weight)

    def of_thoughts(
        self, queries: Sequence[Query], thoughts: Texts, reading: Reading, document_weight: float
    ) -> Scores:
        """Return products of the mean of each query's thoughts and the documents."""
        read = read_thoughts(self._model, queries, thoughts, reading)
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
        self._thoughts = None if thoughts is None else [" ".join(own) for own in thoughts]
        self._split, self._field = split_identifiers, None
        if self._thoughts is not None:
            field = [
                Document(doc_id=document.doc_id, text=own)
                for document, own in zip(documents, self._thoughts, strict=True)
            ]
            self._field = BM25(field, split_identifiers=split_identifiers)

    def with_others_thoughts(self) -> BM25Corpus:
        """Return the same corpus, each document with the thoughts of another."""
        from o1_records.bm25 import BM25

        other = copy.copy(self)
        if self._thoughts is not None:
            other._thoughts = [*self._thoughts[1:], *self._thoughts[:1]]
            field = [
                Document(doc_id=doc_id, text=own)
                for doc_id, own in zip(self._text.doc_ids, other._thoughts, strict=True)
            ]
            other._field = BM25(field, split_identifiers=self._split)
        return other

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

    def with_others_thoughts(self) -> HybridCorpus:
        """Return the same corpus, each document with the thoughts of another."""
        return HybridCorpus(self._dense.with_others_thoughts(), self._lexical.with_others_thoughts())

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


def open_corpus(
    search: Search,
    retriever: ThinkingRetriever | None,
    documents: Sequence[Document],
    about: Texts | None,
    *,
    split_identifiers: bool,
    vectors: Vectors | None = None,
) -> Corpus:
    """Return a corpus for a way to search; `about` are the thoughts of each document, in its order.

    `vectors` are those of the documents [documents, dim], if they are known.
    """
    if retriever is None:
        return BM25Corpus(documents, about, split_identifiers=split_identifiers)
    dense = DenseCorpus(retriever, documents, about, vectors)
    if search == "dense":
        return dense
    return HybridCorpus(dense, BM25Corpus(documents, about, split_identifiers=split_identifiers))


def mixed(plain: Scores, theirs: Scores | None, weight: float) -> Scores:
    """Return scores of queries with those of thoughts mixed in; without a thought, the query's alone."""
    if theirs is None or not weight:
        return plain
    with_thought = theirs.any(axis=1, keepdims=True)
    scores: Scores = np.where(with_thought, (1 - weight) * plain + weight * theirs, plain)
    return scores


class _Remembering:
    """The same embedder, which embeds each text once."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self._known: dict[tuple[str, ...], Vectors] = {}

    def queries(self, queries: Sequence[Query]) -> Vectors:
        keys = [("query", query.instruction, query.text) for query in queries]
        return self._vectors(keys, lambda new: self._model.queries([queries[place] for place in new]))

    def documents(self, documents: Sequence[Document]) -> Vectors:
        keys = [("document", document.full_text) for document in documents]
        return self._vectors(keys, lambda new: self._model.documents([documents[place] for place in new]))

    def joint(self, queries: Sequence[Query], thoughts: Sequence[str]) -> Vectors:
        keys = [
            ("joint", query.instruction, query.text, thought)
            for query, thought in zip(queries, thoughts, strict=True)
        ]
        model = cast(JointModel, self._model)
        return self._vectors(
            keys, lambda new: model.joint([queries[n] for n in new], [thoughts[n] for n in new])
        )

    def _vectors(self, keys: Sequence[tuple[str, ...]], embed: Callable[[list[int]], Vectors]) -> Vectors:
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        new = [place for key, place in first.items() if key not in self._known]
        if new:
            self._known.update(zip((keys[place] for place in new), embed(new), strict=True))
        return np.stack([self._known[key] for key in keys])


def _half(dense: Scores, lexical: Scores) -> Scores:
    half: Scores = (np.stack([z_scores(row) for row in dense]) + lexical) / np.float32(2)
    return half
