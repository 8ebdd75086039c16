"""What retrieves: callables from queries to hits, such as BM25, and exact search from vectors to hits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from o1_bench.collection import Collection
from o1_bench.controls import thought_texts
from o1_bench.running.pipeline import Vectors
from o1_bench.score import to_dict
from o1_records import Hit, InputError, MissingExtraError, Query, Thought, rank
from o1_records.trec import write_run

_BLOCK = 2**24  # scores in memory at a time: 64 MB


class Retrieve(Protocol):
    """A retriever: an index, a service, a run read from a file."""

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Return up to k hits for each query; a query without hits scores 0."""
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
        """Yield the k best documents of each query among those that share a term with it."""
        return self._index.search(queries, k, excluded=self._excluded)


def bm25(
    collection: Collection,
    *,
    k1: float = 0.9,
    b: float = 0.4,
    language: str = "english",
    split_identifiers: bool = False,
) -> LexicalSearch:
    """Index a collection for BM25, without its excluded documents. Needs the `[bm25]` extra.

    The defaults are Anserini's, which published figures use. `split_identifiers` splits
    `snake_case` and `camelCase`, for code.
    """
    return LexicalSearch(collection, k1=k1, b=b, language=language, split_identifiers=split_identifiers)


class Written(NamedTuple):
    """How many hits and queries a run has, and the milliseconds that searching took per query."""

    hits: int
    queries: int
    milliseconds: float


def write_bm25_run(
    collection: Collection,
    path: str | Path,
    *,
    thoughts: Iterable[Thought] | None = None,
    k: int = 1000,
    progress: bool = False,
    **settings: Any,
) -> Written:
    """Search a collection with BM25 and write a TREC run, which appears whole or not at all.

    Args:
        collection: what is searched and asked.
        path: the run.
        thoughts: appended to their queries.
        k: the largest number of hits per query.
        progress: show a bar on stderr.
        **settings: those of `bm25`.

    Raises InputError when no thought is about a query of the collection.
    """
    from tqdm import tqdm  # 15 ms that `import o1_bench` does not need

    queries: Sequence[Query] = collection.queries
    if thoughts is not None:
        queries = with_thoughts(queries, thought_texts(thoughts))
    retrieve = bm25(collection, **settings)
    shown = tqdm(queries, "bm25", unit=" queries", disable=None if progress else True)
    began = time.perf_counter()
    count = write_run(path, (hit for query in shown for hit in retrieve([query], k)), tag="bm25")
    return Written(count, len(queries), 1000 * (time.perf_counter() - began) / len(queries))


def with_thoughts(
    queries: Iterable[Query], thoughts: Mapping[str, Iterable[str]], *, times: int = 1
) -> list[Query]:
    """Return the queries with their thoughts appended, a line each (Query2doc; HyDE with the query).

    `thoughts` are texts by query_id (`o1_bench.controls.thought_texts`). A query without a thought,
    or with empty ones, stays as it is. `times` repeats the query before its thoughts, so that long ones
    do not outweigh it; Query2doc takes 5 for BM25.

    Raises:
        InputError: no query has an entry: the thoughts are about other queries.
    """
    queries = list(queries)
    if queries and not any(query.query_id in thoughts for query in queries):
        raise InputError(
            f"none of the {len(queries)} queries has a thought among {len(thoughts)}; "
            "do the thoughts belong to these queries?"
        )
    extended = []
    for query in queries:
        own = [*filter(None, thoughts.get(query.query_id, ()))]
        text = "\n".join([*[query.text] * times, *own]) if own else query.text
        extended.append(msgspec.structs.replace(query, text=text))
    return extended


@dataclass(frozen=True)
class Appended:
    """A retriever that searches with thoughts appended to the queries: Query2doc for BM25 or anything else.

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
    """The hits of an existing run, as a retriever; cut at k in the one total order.

    Looking hits up is not searching: `evaluate` records no time for it.
    """

    def __init__(self, hits: Iterable[Hit]) -> None:
        self._run = to_dict(hits)

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield up to k hits for each query; none for one that is not in the run."""
        for query in queries:
            yield from rank(query.query_id, self._run.get(query.query_id, {}), k)


def from_run(hits: Iterable[Hit]) -> Retrieve:
    """Return an existing run as a retriever without a time of its own."""
    return GivenRun(hits)


def fused(*retrievers: Retrieve, constant: int = 60) -> Retrieve:
    """Fuse retrievers by reciprocal rank (Cormack, Clarke and Buettcher, SIGIR 2009).

    A document scores the sum of 1 / (constant + rank) over the retrievers that have it among their
    k best.
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


class ExactSearch:
    """Exact inner-product search over document vectors [documents, dim] in memory, in numpy.

    Ties go to the larger doc_id, as everywhere. `excluded` maps a query_id to documents that are never
    returned for it. o1-index searches larger collections.
    """

    def __init__(
        self,
        vectors: Vectors,
        doc_ids: Sequence[str],
        *,
        excluded: Mapping[str, Set[str]] | None = None,
    ) -> None:
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._doc_ids = list(doc_ids)
        self._excluded = excluded or {}
        self._rows = {doc_id: row for row, doc_id in enumerate(self._doc_ids)}
        if len(self._rows) != len(self._vectors) or len(self._doc_ids) != len(self._vectors):
            raise InputError(f"{len(self._rows)} different doc_ids for {len(self._vectors)} vectors")

    @property
    def nbytes(self) -> int:
        """The size of the vectors in bytes."""
        return int(self._vectors.nbytes)

    def __call__(self, vectors: Vectors, query_ids: Sequence[str], *, k: int) -> Iterator[Hit]:
        """Yield the k best documents of each query, best first."""
        step = max(1, _BLOCK // max(1, len(self._doc_ids)))
        for start in range(0, len(query_ids), step):
            block = np.asarray(vectors[start : start + step], dtype=np.float32)
            products = block @ self._vectors.T
            for query_id, scores in zip(query_ids[start : start + step], products, strict=True):
                for doc_id in self._excluded.get(query_id, frozenset()) & self._rows.keys():
                    scores[self._rows[doc_id]] = -np.inf
                # every document that ties with the k-th takes part, so that doc_id decides
                least = np.partition(scores, -k)[-k] if 0 < k < len(scores) else -np.inf
                rows = np.flatnonzero((scores >= least) & (scores > -np.inf))
                yield from rank(query_id, {self._doc_ids[row]: float(scores[row]) for row in rows}, k)
