"""Thoughts mixed into queries by a weight, for vectors and for BM25 (`o1_records.mixture`).

A query and each of its thoughts are embedded, and the weighted sum is searched with. BM25 scores each,
and the sum is one of standard scores over the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from o1_bench.running.about import About
from o1_bench.running.pipeline import Embed, Vectors
from o1_bench.running.retrieve import LexicalSearch
from o1_records import Document, Hit, Query
from o1_records.mixture import Mixture, mix_scores, mix_vectors, read_thoughts, unit_rows

Texts = Sequence[Sequence[str]]


class Reads(Protocol):
    """A model that embeds queries, alone or with thoughts in one row, and documents."""

    def queries(self, queries: Sequence[Query], thoughts: Texts | None = None) -> Vectors:
        """Return vectors of queries [queries, dim]."""
        ...

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents [documents, dim]."""
        ...


class _Unit:
    """The same model, all its vectors of unit length."""

    def __init__(self, model: Reads) -> None:
        self._model = model

    def queries(self, queries: Sequence[Query]) -> Vectors:
        return unit_rows(self._model.queries(queries))

    def documents(self, documents: Sequence[Document]) -> Vectors:
        return unit_rows(self._model.documents(documents))

    def joint(self, queries: Sequence[Query], thoughts: Sequence[str]) -> Vectors:
        return unit_rows(self._model.queries(queries, [[text] for text in thoughts]))


def mixed(model: Reads, mixture: Mixture, *, reads_nothing: bool = True) -> Embed:
    """Return what embeds queries with their thoughts mixed in; all vectors are scaled to unit length first.

    A query without thoughts keeps its own vector.

    Args:
        model: what embeds.
        mixture: how thoughts enter.
        reads_nothing: whether an empty text has a vector. Where it has none (a tokenizer that adds no
            tokens), empty thoughts are left out, unless they are read in one row with their query.
    """

    def embed(queries: Sequence[Query], *, thoughts: Texts | None) -> Vectors:
        own = [list(each) for each in thoughts] if thoughts is not None else [[] for _ in queries]
        if not reads_nothing and mixture.reading != "joint":
            own = [[text for text in each if text.strip()] for each in own]
        v_q = unit.queries(queries)
        return mix_vectors(v_q, read_thoughts(unit, queries, own, mixture.reading), mixture.weight)

    unit = _Unit(model)
    return embed


class MixedLexical:
    """BM25 by the standard scores of a query and of its thoughts.

    Documents that share a term with the query or with a thought are found. A query without thoughts is asked
    as it is.

    Args:
        search: BM25 over the collection.
        thoughts: texts by query_id.
        weight: the share of the thoughts.
    """

    def __init__(self, search: LexicalSearch, thoughts: Mapping[str, Sequence[str]], weight: float) -> None:
        self.thoughts = thoughts
        self._search, self._weight = search, weight
        told = search.about
        fingerprint = {**told.fingerprint, "mixture": {"weight": weight, "of": "standard scores"}}
        self.about: About = replace(told, fingerprint=fingerprint)

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield the k best documents of each query."""
        search = self._search
        for query in queries:
            asked = search.scores(query.text)
            read = [search.scores(text) for text in self.thoughts.get(query.query_id, ())]
            # with thoughts alone, what only the query finds is not found
            counted = read if read and self._weight == 1 else [asked, *read]
            found = np.any([scores > 0 for scores in counted], axis=0)
            scores = np.where(found, mix_scores(asked, read, self._weight), -np.inf)
            yield from search.best(query.query_id, scores, k)
