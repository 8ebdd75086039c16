"""What retrieves: callables from queries to hits, such as BM25, and exact search from vectors to hits."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_bench.collection import Collection, digest
from o1_bench.controls import thought_texts
from o1_bench.running.about import About, about, identity
from o1_bench.running.pipeline import Vectors
from o1_bench.score import to_dict
from o1_records import Document, Hit, InputError, MissingExtraError, Query, Thought, rank
from o1_records.kit import fusion
from o1_records.progress import shown
from o1_records.trec import write_run

_BLOCK = 2**24  # scores in memory at a time: 64 MB


class Retrieve(Protocol):
    """A retriever: an index, a service, a run read from a file."""

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Return up to k hits for each query; a query without hits scores 0."""
        ...


class LexicalSearch:
    """BM25 over a collection, without its excluded documents. Needs the `[bm25]` extra.

    `settings` are those of `o1_records.bm25.BM25`. `query_weights`: see `bm25`.
    """

    def __init__(self, collection: Collection, *, query_weights: bool = False, **settings: Any) -> None:
        try:
            from o1_records.bm25 import BM25
        except MissingExtraError as error:
            raise MissingExtraError("o1-bench", "bm25", "BM25") from error
        began = time.perf_counter()
        self._index: Any = BM25(collection.documents, **settings)
        self.doc_ids: Sequence[str] = self._index.doc_ids
        self._excluded = collection.excluded
        self._rows = {doc_id: row for row, doc_id in enumerate(self.doc_ids)}
        self._weights = _QueryWeights(self._index, collection, settings) if query_weights else None
        self.about = About(
            fingerprint={"model": "bm25s", **settings, "query_weights": query_weights},
            device="cpu",
            index_bytes=self.nbytes,
            index_seconds=time.perf_counter() - began,
            sample=self._sample,
        )

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes, without its vocabulary."""
        return int(self._index.nbytes)

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield the k best documents of each query among those that share a term with it."""
        if self._weights is None:
            yield from self._index.search(queries, k, excluded=self._excluded)
            return
        for query in queries:
            scores = self.scores(query.text)
            yield from self.best(query.query_id, np.where(scores > 0, scores, -np.inf), k)

    def scores(self, text: str) -> NDArray[np.float32]:
        """Return the score of every document [documents]: 0 for those that share no term with the text."""
        scores: NDArray[np.float32] = (
            self._index.scores(text) if self._weights is None else self._weights.scores(text)
        )
        return scores

    def shares(self, text: str, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        """Return what each term of a text adds to the scores of some documents [rows]."""
        terms = self._index.tokenize([text])[0]
        weights = Counter(terms) if self._weights is None else self._weights.of(terms)
        held, vocabulary = self._index._index.scores, self._index._index.vocab_dict
        shares = {}
        for term, weight in weights.items():
            if term not in vocabulary:
                continue
            column = vocabulary[term]
            start, end = held["indptr"][column : column + 2]
            found, added = held["indices"][start:end], held["data"][start:end]
            at = np.minimum(np.searchsorted(found, rows), max(len(found) - 1, 0))
            if len(found) and (there := found[at] == rows).any():
                shares[term] = np.where(there, weight * added[at], 0).astype(np.float32)
        return shares

    def best(self, query_id: str, scores: NDArray[np.floating[Any]], k: int) -> list[Hit]:
        """Return the k best documents by scores [documents], without a query's excluded ones and -inf."""
        for doc_id in self._excluded.get(query_id, ()):
            if doc_id in self._rows:
                scores[self._rows[doc_id]] = -np.inf
        rows = first_rows(scores, k)
        return rank(query_id, {self.doc_ids[row]: float(scores[row]) for row in rows}, k)

    def _sample(self, queries: Sequence[Query], documents: Sequence[Document]) -> tuple[list[str], list[str]]:
        """Return the terms that count; BM25 reads no instruction."""
        texts = [query.text for query in queries], [document.full_text for document in documents]
        asked, read = ([" ".join(terms) for terms in self._index.tokenize(each)] for each in texts)
        return asked, read


class _QueryWeights:
    """BM25 that weighs the terms of a query as it weighs those of a document, as BRIGHT's baseline does.

    The weight of a term that a query of length n has f times is idf * f / (f + k1 * (1 - b + b * n / mean
    length of the documents)): what gensim's LuceneBM25Model makes of the query, whose product with the
    documents' weights is BRIGHT's score.
    """

    def __init__(self, index: Any, collection: Collection, settings: Mapping[str, Any]) -> None:
        self._index = index
        self._k1, self._b = settings.get("k1", 0.9), settings.get("b", 0.4)
        # columns of terms: the scores of a term's documents lie side by side
        held = index._index
        self._columns, self._vocabulary = held.scores, held.vocab_dict
        lengths, count = 0, 0
        for document in collection.documents:
            lengths += len(index.tokenize([document.full_text])[0])
            count += 1
        self._mean, self._count = lengths / count, count

    def of(self, terms: Sequence[str]) -> dict[str, float]:
        """Return the weight of each term of a query; those that no document has are left out."""
        terms = [term for term in terms if term in self._vocabulary]
        length = self._k1 * (1 - self._b + self._b * len(terms) / self._mean)
        weights = {}
        for term, times in Counter(terms).items():
            column = self._vocabulary[term]
            start, end = self._columns["indptr"][column : column + 2]
            idf = math.log(1 + (self._count - (end - start) + 0.5) / ((end - start) + 0.5))
            weights[term] = idf * times / (times + length)
        return weights

    def scores(self, text: str) -> NDArray[np.float32]:
        """Return the score of every document [documents]: 0 for those that share no term with the text."""
        total = np.zeros(self._count, dtype=np.float64)
        for term, weight in self.of(self._index.tokenize([text])[0]).items():
            column = self._vocabulary[term]
            start, end = self._columns["indptr"][column : column + 2]
            total[self._columns["indices"][start:end]] += weight * self._columns["data"][start:end]
        return total.astype(np.float32)


def bm25(
    collection: Collection,
    *,
    k1: float = 0.9,
    b: float = 0.4,
    language: str = "english",
    split_identifiers: bool = False,
    query_weights: bool = False,
) -> LexicalSearch:
    """Index a collection for BM25, without its excluded documents. Needs the `[bm25]` extra.

    The defaults are Anserini's, which published figures use. `split_identifiers` splits
    `snake_case` and `camelCase`, for code. `query_weights` weighs the terms of a query by their BM25 too, as
    BRIGHT's published baseline does and nobody else's.
    """
    return LexicalSearch(
        collection,
        k1=k1,
        b=b,
        language=language,
        split_identifiers=split_identifiers,
        query_weights=query_weights,
    )


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
        progress: show on stderr how far it is.
        **settings: those of `bm25`.

    Raises InputError when no thought is about a query of the collection.
    """
    queries: Sequence[Query] = collection.queries
    if thoughts is not None:
        queries = with_thoughts(queries, thought_texts(thoughts))
    retrieve = bm25(collection, **settings)
    asked = shown(queries, "queries", total=len(queries)) if progress else queries
    began = time.perf_counter()
    count = write_run(path, (hit for query in asked for hit in retrieve([query], k)), tag="bm25")
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

    @property
    def about(self) -> About:
        """What the retriever says of itself, with the queries as they are asked here."""
        told = about(self.retrieve)
        fingerprint = dict(told.fingerprint) or {"retrieve": identity(self.retrieve)}
        sample = told.sample

        def appended(queries: Sequence[Query], documents: Sequence[Document]) -> tuple[list[str], list[str]]:
            assert sample is not None  # passed on only where there is one
            return sample(with_thoughts(queries, self._own(queries), times=self.times), documents)

        return replace(
            told,
            fingerprint=fingerprint | {"query_times": self.times},
            sample=None if sample is None else appended,
        )

    def _own(self, queries: Sequence[Query]) -> dict[str, Sequence[str]]:
        return {query.query_id: self.thoughts.get(query.query_id, ()) for query in queries}

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Search with the queries and their thoughts, a line each."""
        return self.retrieve(with_thoughts(queries, self._own(queries), times=self.times), k)


class GivenRun:
    """The hits of an existing run, as a retriever; cut at k in the one total order.

    Looking hits up is not searching: `evaluate` records no time for it.
    """

    def __init__(self, hits: Iterable[Hit]) -> None:
        self._run = to_dict(hits)
        found = (
            Hit(query_id=q, doc_id=d, score=s, rank=1) for q, of in self._run.items() for d, s in of.items()
        )
        self.about = About(fingerprint={"hits (sha256)": digest(found)})

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield up to k hits for each query; none for one that is not in the run."""
        for query in queries:
            yield from rank(query.query_id, self._run.get(query.query_id, {}), k)


def from_run(hits: Iterable[Hit]) -> Retrieve:
    """Return an existing run as a retriever without a time of its own."""
    return GivenRun(hits)


class Fused:
    """Several retrievers as one; see `fused`."""

    def __init__(self, retrievers: Sequence[Retrieve], weights: Sequence[float] | None, method: str) -> None:
        self.retrievers, self._method = retrievers, method
        self._weights = [1.0] * len(retrievers) if weights is None else list(weights)
        fusion.fused([{}] * len(retrievers), self._weights, method=method)  # refuses what is wrong
        each = [dict(about(one).fingerprint) or {"retrieve": identity(one)} for one in retrievers]
        self.about = About(
            fingerprint={"fusion": method, "weights": self._weights, "retrievers": each},
        )

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield up to k hits of each query by their fused scores."""
        runs = [to_dict(retriever(queries, k)) for retriever in self.retrievers]
        for query_id, scores in fusion.fused(runs, self._weights, method=self._method).items():
            yield from rank(query_id, scores, k)


def reads_queries(retrieve: Any) -> bool:
    """Return whether a retriever reads what it is asked, and does not just look hits up by query_id."""
    if isinstance(retrieve, Fused):
        return any(map(reads_queries, retrieve.retrievers))
    return not isinstance(retrieve, GivenRun)


def fused(*retrievers: Retrieve, weights: Sequence[float] | None = None, method: str = "rrf") -> Retrieve:
    """Fuse retrievers by the hits that each has among its k best (`o1_records.kit.fusion`).

    Args:
        *retrievers: two or more.
        weights: one for each; all 1 by default.
        method: "rrf" (reciprocal rank, constant 60), "minmax" (scores of a query from 0 to 1), "z" (standard
            scores) or "sum" (the scores as they are).

    Raises:
        InputError: there is no such method, or the weights are not one for each.
    """
    return Fused(retrievers, weights, method)


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
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.doc_ids = list(doc_ids)
        self._excluded = excluded or {}
        self._rows = {doc_id: row for row, doc_id in enumerate(self.doc_ids)}
        if len(self._rows) != len(self.vectors) or len(self.doc_ids) != len(self.vectors):
            raise InputError(f"{len(self._rows)} different doc_ids for {len(self.vectors)} vectors")

    @property
    def nbytes(self) -> int:
        """The size of the vectors in bytes."""
        return int(self.vectors.nbytes)

    def __call__(self, vectors: Vectors, query_ids: Sequence[str], *, k: int) -> Iterator[Hit]:
        """Yield the k best documents of each query, best first."""
        step = max(1, _BLOCK // max(1, len(self.doc_ids)))
        for start in range(0, len(query_ids), step):
            block = np.asarray(vectors[start : start + step], dtype=np.float32)
            products = block @ self.vectors.T
            for query_id, scores in zip(query_ids[start : start + step], products, strict=True):
                for doc_id in self._excluded.get(query_id, frozenset()) & self._rows.keys():
                    scores[self._rows[doc_id]] = -np.inf
                rows = first_rows(scores, k)
                yield from rank(query_id, {self.doc_ids[row]: float(scores[row]) for row in rows}, k)


def first_rows(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """Return the rows of the k best scores, and of all that tie with the k-th, so that doc_id decides."""
    least = np.partition(scores, -k)[-k] if 0 < k < len(scores) else -np.inf
    return np.flatnonzero((scores >= least) & (scores > -np.inf))
