"""What retrieves, as the harness sees it: a callable from queries to hits. And BM25 as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from o1_bench.collection import Collection
from o1_records import Hit, InputError, MissingExtraError, Query


class Retrieve(Protocol):
    """A retriever: an index, a service, a run read from a file."""

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Give up to k hits for each query; a query without hits scores 0."""
        ...


def bm25(
    collection: Collection,
    *,
    k1: float = 0.9,
    b: float = 0.4,
    language: str = "english",
    split_identifiers: bool = False,
) -> Retrieve:
    """BM25 over a collection, without its excluded documents. Needs the `[bm25]` extra.

    The defaults are Anserini's, with which figures are published. `split_identifiers` takes
    `snake_case` and `camelCase` apart, for code.
    """
    try:
        from o1_records.bm25 import BM25
    except MissingExtraError as error:
        raise MissingExtraError("o1-bench", "bm25", "BM25") from error
    index = BM25(collection.documents, k1=k1, b=b, language=language, split_identifiers=split_identifiers)

    def retrieve(queries: Sequence[Query], k: int) -> Iterable[Hit]:
        return index.search(queries, k, excluded=collection.excluded)

    return retrieve


def with_thoughts(queries: Iterable[Query], thoughts: Mapping[str, Iterable[str]]) -> list[Query]:
    """The queries with their thoughts appended, a line each (Query2doc; HyDE with the query).

    `thoughts` are texts by query_id (`o1_bench.controls.thought_texts`). A query without a thought,
    or with empty ones, stays as it is.

    Raises:
        InputError: no query has an entry: the thoughts are those of other queries.
    """
    queries = list(queries)
    if queries and not any(query.query_id in thoughts for query in queries):
        raise InputError(
            f"none of the {len(queries)} queries has a thought among {len(thoughts)}; "
            "do the thoughts belong to these queries?"
        )
    return [
        msgspec.structs.replace(
            query, text="\n".join([query.text, *filter(None, thoughts.get(query.query_id, ()))])
        )
        for query in queries
    ]
