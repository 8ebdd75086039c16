"""Thoughts mixed into queries by a weight, for vectors and for BM25 (`o1_records.mixture`).

A query and each of its thoughts are embedded, and the weighted sum is searched with. BM25 scores each,
and the sum is one of standard scores over the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from o1_bench.running.about import About
from o1_bench.running.pipeline import Vectors
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


class MixedVectors:
    """What embeds queries with their thoughts mixed in; all vectors are scaled to unit length first.

    A query without thoughts keeps its own vector. `read` holds v_q [dim] and the vectors of the thoughts
    [k, dim] of every query that was embedded, so that what each did can be told afterwards.

    Args:
        model: what embeds.
        mixture: how thoughts enter.
        reads_nothing: whether an empty text has a vector. Where it has none (a tokenizer that adds no
            tokens), empty thoughts are left out, unless they are read in one row with their query.
    """

    def __init__(self, model: Reads, mixture: Mixture, *, reads_nothing: bool = True) -> None:
        self.model, self.mixture, self._reads_nothing = model, mixture, reads_nothing
        self.read: dict[str, tuple[Vectors, Vectors]] = {}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the vectors, as far as the model says."""
        mixture = {"weight": self.mixture.weight, "reading": self.mixture.reading}
        return {"mixture": mixture, **getattr(self.model, "fingerprint", {})}

    def __call__(self, queries: Sequence[Query], *, thoughts: Texts | None) -> Vectors:
        """Return the mixed vectors [queries, dim]."""
        own = [self.readable(each) for each in thoughts] if thoughts is not None else [[] for _ in queries]
        v_q = self.queries(queries)
        theirs = read_thoughts(self, queries, own, self.mixture.reading)
        each = zip(queries, v_q, theirs, strict=True)
        self.read |= {query.query_id: (of_query, of_thoughts) for query, of_query, of_thoughts in each}
        return mix_vectors(v_q, theirs, self.mixture.weight)

    def readable(self, thoughts: Sequence[str]) -> list[str]:
        """Return those of a query's thoughts that have a vector."""
        if self._reads_nothing or self.mixture.reading == "joint":
            return list(thoughts)
        return [text for text in thoughts if text.strip()]

    def queries(self, queries: Sequence[Query]) -> Vectors:
        """Return unit vectors of queries [queries, dim]."""
        return unit_rows(self.model.queries(queries))

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return unit vectors of documents [documents, dim]."""
        return unit_rows(self.model.documents(documents))

    def joint(self, queries: Sequence[Query], thoughts: Sequence[str]) -> Vectors:
        """Return unit vectors of queries, each with its thought in one row [queries, dim]."""
        return unit_rows(self.model.queries(queries, [[text] for text in thoughts]))


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
        self.search, self.weight = search, weight
        told = search.about
        fingerprint = {**told.fingerprint, "mixture": {"weight": weight, "of": "standard scores"}}
        self.about: About = replace(told, fingerprint=fingerprint)

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield the k best documents of each query."""
        search = self.search
        for query in queries:
            asked = search.scores(query.text)
            read = [search.scores(text) for text in self.thoughts.get(query.query_id, ())]
            # with thoughts alone, what only the query finds is not found
            counted = read if read and self.weight == 1 else [asked, *read]
            found = np.any([scores > 0 for scores in counted], axis=0)
            scores = np.where(found, mix_scores(asked, read, self.weight), -np.inf)
            yield from search.best(query.query_id, scores, k)
