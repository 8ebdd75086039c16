"""A retriever in stages (think, embed, search), as the harness sees it: three callables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from o1_bench.controls import thought_texts
from o1_bench.running.about import About
from o1_records import Hit, InputError, Query, Thought

Vectors = NDArray[np.floating[Any]]
Think = Callable[[Sequence[Query]], Iterable[Thought]]


class Embed(Protocol):
    """Vectors of queries, such as `o1_model.Embedder.encode_query`."""

    def __call__(self, queries: Sequence[Query], *, thoughts: Sequence[Sequence[str]] | None) -> Vectors:
        """Return vectors [queries, dim]; `thoughts` has those of each query, None: there are none at all."""
        ...


class Search(Protocol):
    """Hits for vectors, such as `o1_index.Index.search`."""

    def __call__(self, vectors: Vectors, query_ids: Sequence[str], *, k: int) -> Iterable[Hit]:
        """Return up to k hits for each row of `vectors` [queries, dim]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A retriever whose stages are timed and kept separately; it can be called like any other.

    Attributes:
        embed: turns queries and their thoughts into vectors.
        search: turns vectors into hits.
        think: writes thoughts about queries; without it they come from `thoughts`.
        thoughts: existing texts by query_id, such as those of `o1_bench.controls`.
        about: what identifies the stages, what the index cost, and what the model reads; without a
            fingerprint the callables are looked at (`o1_bench.running.about`).
    """

    embed: Embed
    search: Search
    think: Think | None = None
    thoughts: Mapping[str, Sequence[str]] | None = None
    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        """Refuse two sources of thoughts."""
        if self.think is not None and self.thoughts is not None:
            raise InputError("a pipeline thinks or is given thoughts, not both; leave one of them out")

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Return up to k hits for each query, through all stages."""
        texts = thought_texts(self.think(queries)) if self.think else self.thoughts
        return self.search(self.vectors(queries, texts), [query.query_id for query in queries], k=k)

    def vectors(self, queries: Sequence[Query], texts: Mapping[str, Sequence[str]] | None) -> Vectors:
        """Embed the queries, each with its own thoughts of `texts`; return float32 [queries, dim].

        Raises InputError unless there is one vector per query.
        """
        own = None if texts is None else [texts.get(query.query_id, ()) for query in queries]
        vectors = np.asarray(self.embed(queries, thoughts=own), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(queries):
            raise InputError(f"embed returned vectors of shape {vectors.shape} for {len(queries)} queries")
        return vectors
