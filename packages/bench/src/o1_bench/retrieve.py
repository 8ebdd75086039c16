"""What retrieves, as the harness sees it: a callable from queries to hits. And BM25 as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from o1_bench.collection import Collection
from o1_bench.score import to_dict
from o1_records import Hit, InputError, MissingExtraError, Query, rank


class Retrieve(Protocol):
    """A retriever: an index, a service, a run read from a file."""

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Give up to k hits for each query; a query without hits scores 0."""
        ...


class LexicalSearch:
    """BM25 over a collection, without its excluded documents. Needs the `[bm25]` extra.

    `settings` are those of `o1_records.bm25.BM25`.
    """

    def __init__(self, collection: Collection, **settings: Any) -> None:
        try:
            from o1_records.bm25 import BM25
        except MissingExtraError as error:
            raise MissingExtraError("o1-bench", "bm25", "BM25") from error
        self._index = BM25(collection.documents, **settings)
        self._excluded = collection.excluded

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes, without its vocabulary."""
        return self._index.nbytes

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield the k best documents of each query that share a term with it."""
        return self._index.search(queries, k, excluded=self._excluded)


def bm25(
    collection: Collection,
    *,
    k1: float = 0.9,
    b: float = 0.4,
    language: str = "english",
    split_identifiers: bool = False,
) -> LexicalSearch:
    """BM25 over a collection, without its excluded documents. Needs the `[bm25]` extra.

    The defaults are Anserini's, with which figures are published. `split_identifiers` takes
    `snake_case` and `camelCase` apart, for code.
    """
    return LexicalSearch(collection, k1=k1, b=b, language=language, split_identifiers=split_identifiers)


def with_thoughts(
    queries: Iterable[Query], thoughts: Mapping[str, Iterable[str]], *, times: int = 1
) -> list[Query]:
    """The queries with their thoughts appended, a line each (Query2doc; HyDE with the query).

    `thoughts` are texts by query_id (`o1_bench.controls.thought_texts`). A query without a thought,
    or with empty ones, stays as it is.
    `times` repeats the query before its thoughts, so that long ones do not drown it; Query2doc takes
    5 for BM25.

    Raises:
        InputError: no query has an entry: the thoughts are those of other queries.
    """
    queries = list(queries)
    if queries and not any(query.query_id in thoughts for query in queries):
        raise InputError(
            f"none of the {len(queries)} queries has a thought among {len(thoughts)}; "
            "do the thoughts belong to these queries?"
        )
    return [_extended(query, [*filter(None, thoughts.get(query.query_id, ()))], times) for query in queries]


def _extended(query: Query, thoughts: Sequence[str], times: int) -> Query:
    if not thoughts:
        return query
    return msgspec.structs.replace(query, text="\n".join([*[query.text] * times, *thoughts]))


@dataclass(frozen=True)
class Appended:
    """A retriever that searches with thoughts appended: Query2doc for BM25 or anything else.

    `thoughts` are texts by query_id; a query without one is asked as it is. `times`: see
    `with_thoughts`.
    """

    retrieve: Retrieve
    thoughts: Mapping[str, Sequence[str]]
    times: int = 1

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Search with the queries and their thoughts, a line each."""
        own = {query.query_id: self.thoughts.get(query.query_id, ()) for query in queries}
        return self.retrieve(with_thoughts(queries, own, times=self.times), k)


class GivenRun:
    """The hits of a run that someone made, as a retriever; cut at k in the one total order.

    Looking hits up is no search: `evaluate` records no time for it.
    """

    def __init__(self, hits: Iterable[Hit]) -> None:
        self._run = to_dict(hits)

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield up to k hits for each query; none for one that the run does not have."""
        for query in queries:
            yield from rank(query.query_id, self._run.get(query.query_id, {}), k)


def from_run(hits: Iterable[Hit]) -> Retrieve:
    """A run that someone made, as a retriever without a time of its own."""
    return GivenRun(hits)


def fused(*retrievers: Retrieve, constant: int = 60) -> Retrieve:
    """Several retrievers as one, by reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009).

    A document scores the sum of 1 / (constant + rank) over the retrievers that found it among
    their k best.
    """

    def retrieve(queries: Sequence[Query], k: int) -> Iterable[Hit]:
        scores: dict[str, dict[str, float]] = {}
        for retriever in retrievers:
            for query_id, found in to_dict(retriever(queries, k)).items():
                of_query = scores.setdefault(query_id, {})
                for hit in rank(query_id, found):
                    of_query[hit.doc_id] = of_query.get(hit.doc_id, 0.0) + 1 / (constant + hit.rank)
        for query_id, fused_scores in scores.items():
            yield from rank(query_id, fused_scores, k)

    return retrieve
