"""A retriever in stages (think, embed, search), as the harness sees it: three callables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from o1_bench.controls import thought_texts
from o1_records import Hit, InputError, Query, Thought

Vectors = NDArray[np.floating[Any]]
Think = Callable[[Sequence[Query]], Iterable[Thought]]


class Embed(Protocol):
    """Vectors of queries, such as `o1_model.Embedder.encode_query`."""

    def __call__(self, queries: Sequence[Query], *, thoughts: Sequence[Sequence[str]] | None) -> Vectors:
        """Give vectors [queries, dim]; `thoughts` holds those of each query, None: nobody thought."""
        ...


class Search(Protocol):
    """Hits for vectors, such as `o1_index.Index.search`."""

    def __call__(self, vectors: Vectors, query_ids: Sequence[str], *, k: int) -> Iterable[Hit]:
        """Give up to k hits for each row of `vectors` [queries, dim]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A retriever whose stages are timed and kept each on its own; it can be called like any other.

    Attributes:
        embed: queries and their thoughts to vectors.
        search: vectors to hits.
        think: queries to thoughts; without it they come from `thoughts`.
        thoughts: texts by query_id that are there already, as those of `o1_bench.controls`.
    """

    embed: Embed
    search: Search
    think: Think | None = None
    thoughts: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        """Refuse two sources of thoughts."""
        if self.think is not None and self.thoughts is not None:
            raise InputError("a pipeline thinks or is given thoughts, not both; leave one of them out")

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Go through all stages."""
        texts = thought_texts(self.think(queries)) if self.think else self.thoughts
        return self.search(self.vectors(queries, texts), [query.query_id for query in queries], k=k)

    def vectors(self, queries: Sequence[Query], texts: Mapping[str, Sequence[str]] | None) -> Vectors:
        """Embed the queries, each with its own thoughts of `texts`; float32 [queries, dim].

        Raises InputError when there is not one vector a query.
        """
        own = None if texts is None else [texts.get(query.query_id, ()) for query in queries]
        vectors = np.asarray(self.embed(queries, thoughts=own), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(queries):
            raise InputError(f"embed gave vectors of shape {vectors.shape} for {len(queries)} queries")
        return vectors
