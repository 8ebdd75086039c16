"""Telling what thoughts did to each query, from what a mixture reads: `results.trace` keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from o1_bench.collection import Collection
from o1_bench.controls import Texts
from o1_bench.results.trace import DEPTH, STEPS, Shares, Trace, TracedQuery, TracedThought
from o1_bench.running.encoder import Pieces, TextEncoder
from o1_bench.running.mixture import MixedLexical, MixedVectors
from o1_bench.running.pipeline import Pipeline
from o1_bench.running.retrieve import ExactSearch, Retrieve, first_rows
from o1_records import Document, Query, Thought
from o1_records.mixture import z_scores

_Texts = Mapping[str, Sequence[str]]
Scores = NDArray[np.float32]
Rows = NDArray[np.intp]

_CHARACTERS = 1000  # of a document that are kept
_PIECES = 8  # shares of a document that are kept, of a query or a thought
_PART = 64  # queries that are read at a time
_POOL = 1000  # documents at either end that are looked at first
_CLOSE = 1e-3  # how far the sum over tokens may be from the vector


def trace(
    collection: Collection,
    retrieve: Retrieve | Pipeline,
    *,
    run: str,
    texts: Texts,
    thoughts: Sequence[Thought] = (),
) -> Trace | None:
    """Return what the thoughts of a mixture did to each query; None for a retriever that mixes nothing.

    Args:
        collection: what was asked, and of what.
        retrieve: what made the run, after it ran: vectors that it has read are not read again.
        run: the sha256 of the run.
        texts: the thoughts of each query.
        thoughts: the records that the texts are from, which say how many tokens each took.
    """
    reader: _Lexical | _Vectors
    if isinstance(retrieve, MixedLexical):
        reader, weight, reading = _Lexical(retrieve), retrieve.weight, "by its terms"
    elif (
        isinstance(retrieve, Pipeline)
        and isinstance(retrieve.embed, MixedVectors)
        and isinstance(retrieve.search, ExactSearch)
    ):
        reader = _Vectors(retrieve.embed, retrieve.search)
        weight, reading = retrieve.embed.mixture.weight, f"as a {retrieve.embed.mixture.reading}"
        reading = "in one row with the query" if reading == "as a joint" else reading
    else:
        return None
    weights = tuple(sorted({*STEPS, weight}))
    kept = _Kept(collection, reader.doc_ids, weights)
    tokens = _tokens(thoughts)
    queries = []
    for query, read in reader.read(collection.queries, texts):
        rows = kept.rows(query.query_id, read)
        ids = [reader.doc_ids[row] for row in rows]
        told = [TracedThought(text=text, tokens=tokens.get((query.query_id, text), 0)) for text in read.texts]
        near = kept.near(query.query_id, rows, read, weight)
        pieces, shares, rest = _shares(read, near, len(rows), reader.pieces(query, read, rows[near]))
        queries.append(
            TracedQuery(
                query_id=query.query_id,
                text=query.text,
                thoughts=tuple(told),
                doc_ids=tuple(ids),
                own=_short(read.own[rows]),
                theirs=tuple(_short(each[rows]) for each in read.theirs),
                zero=_short(read.zero),
                inner=_short(read.inner),
                pieces=pieces,
                shares=shares,
                rest=rest,
            )
        )
    documents, cut = _beginnings(collection, {doc_id for query in queries for doc_id in query.doc_ids})
    return Trace(
        run=run, of=reader.of, weight=weight, reading=reading, weights=weights, documents=documents, cut=cut,
        queries=tuple(queries), why=reader.why,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Read:
    """The scores of all documents by a query and by its thoughts."""

    texts: Sequence[str]
    own: Scores
    theirs: Sequence[Scores]
    zero: Sequence[float] = ()
    inner: Sequence[float] = ()
    vectors: tuple[Any, ...] = field(default=())

    @property
    def mean(self) -> Scores:
        """The mean of the thoughts' scores; without thoughts the query's own."""
        if not self.theirs:
            return self.own
        mean: Scores = np.mean(self.theirs, axis=0, dtype=np.float32)
        return mean

    def found(self, weight: float) -> NDArray[np.bool_]:
        """Return which documents a search finds at a weight."""
        if not self.zero:
            return np.ones(len(self.own), dtype=bool)
        by = [self.own > np.float32(self.zero[0])] if weight < 1 or not self.theirs else []
        if weight > 0:
            by += [s > np.float32(z) for s, z in zip(self.theirs, self.zero[1:], strict=True)]
        found: NDArray[np.bool_] = np.any(by, axis=0)
        return found


class _Kept:
    """Which documents of a query are kept: those that are among the first at one of the weights.

    Also those that are among the first by one thought alone, and those that are judged relevant.
    """

    def __init__(self, collection: Collection, doc_ids: Sequence[str], weights: Sequence[float]) -> None:
        self._weights, self._excluded = weights, collection.excluded
        self._row_of = {doc_id: row for row, doc_id in enumerate(doc_ids)}
        # of equal scores the larger doc_id is first
        self._places = np.empty(len(doc_ids), dtype=np.int64)
        self._places[sorted(range(len(doc_ids)), key=doc_ids.__getitem__, reverse=True)] = range(len(doc_ids))
        self._relevant: dict[str, list[str]] = {}
        for qrel in collection.qrels:
            if qrel.relevance > 0:
                self._relevant.setdefault(qrel.query_id, []).append(qrel.doc_id)

    def rows(self, query_id: str, read: _Read) -> Rows:
        """Return the rows of the documents that are kept, the largest doc_id first."""
        allowed = np.ones(len(read.own), dtype=bool)
        allowed[self._known(self._excluded.get(query_id, ()))] = False
        mean, found = read.mean, {weight: read.found(weight) & allowed for weight in (0.0, 0.5, 1.0)}
        rows = self._pool(read.own, mean, np.flatnonzero(found[0.5]))
        kept = set(self._known(self._relevant.get(query_id, ()))) - set(np.flatnonzero(~allowed).tolist())
        for weight in self._weights:
            scores = ((1 - weight) * read.own[rows] + weight * mean[rows]).astype(np.float32)
            there = found[weight if weight in (0, 1) else 0.5][rows]
            kept |= self._first(np.where(there, scores, -np.inf), rows)
        for theirs in read.theirs if len(read.theirs) > 1 else ():
            kept |= self._first(np.where(found[1.0], theirs, -np.inf), np.arange(len(theirs)))
        order = sorted(kept, key=lambda row: self._places[row])
        return np.array(order, dtype=np.intp)

    def near(self, query_id: str, rows: Rows, read: _Read, weight: float) -> Rows:
        """Return the places in `rows` of the first documents without and with thoughts, and relevant ones."""
        relevant = set(self._known(self._relevant.get(query_id, ())))
        close = {place for place, row in enumerate(rows.tolist()) if row in relevant}
        for each in (0.0, weight):
            scores = ((1 - each) * read.own[rows] + each * read.mean[rows]).astype(np.float32)
            found = np.where(read.found(each)[rows], scores, -np.inf)
            best = np.argsort(-found, kind="stable")[:DEPTH]  # `rows` are in the order of ties
            close |= set(best[found[best] > -np.inf].tolist())
        return np.array(sorted(close), dtype=np.intp)

    def _known(self, doc_ids: Any) -> list[int]:
        return [self._row_of[doc_id] for doc_id in doc_ids if doc_id in self._row_of]

    def _first(self, scores: Scores, rows: Rows) -> set[int]:
        """Return the rows of the first documents in the one total order."""
        best = first_rows(scores, DEPTH)
        order = np.lexsort((self._places[rows[best]], -scores[best]))
        return set(rows[best[order[:DEPTH]]].tolist())

    def _pool(self, own: Scores, mean: Scores, rows: Rows) -> Rows:
        """Return the rows of which one may be among the first at some weight; all where that is not sure.

        A document that is neither among the best by the query nor by the thoughts scores at most the mixture
        of the last ones of both, and the first are sure where they score more than that at every weight.
        """
        if len(rows) <= 20 * _POOL:
            return rows
        ends = [np.partition(scores[rows], -_POOL)[-_POOL] for scores in (own, mean)]
        pool: Rows = rows[(own[rows] >= ends[0]) | (mean[rows] >= ends[1])]
        for weight in self._weights:
            scores = (1 - weight) * own[pool] + weight * mean[pool]
            tenth = np.partition(scores, -DEPTH)[-DEPTH]
            if not tenth > (1 - weight) * ends[0] + weight * ends[1] + 1e-5:
                return rows
        return pool


class _Lexical:
    """BM25: standard scores, and what each term adds to them."""

    of: Literal["standard scores"] = "standard scores"
    why = "terms, as BM25 counts them; scores are in standard deviations over the corpus"

    def __init__(self, retrieve: MixedLexical) -> None:
        self._search, self.doc_ids = retrieve.search, retrieve.search.doc_ids

    def read(self, queries: Sequence[Query], texts: _Texts) -> Iterator[tuple[Query, _Read]]:
        """Yield each query with the scores of all documents."""
        for query in queries:
            own = list(texts.get(query.query_id, ()))
            raw = [self._search.scores(text) for text in (query.text, *own)]
            first, *theirs = map(z_scores, raw)
            # what z_scores makes of a score of 0
            spread = [(float(np.mean(each, dtype=np.float64)), _deviation(each)) for each in raw]
            zero = [
                -mean / deviation if deviation else -float(mean > 0)  # all alike: found, or not found
                for mean, deviation in spread
            ]
            scales = tuple(1 / deviation if deviation else 0.0 for _, deviation in spread)
            yield query, _Read(texts=own, own=first, theirs=theirs, zero=zero, vectors=scales)

    def pieces(self, query: Query, read: _Read, rows: Rows) -> list[tuple[Sequence[str], Scores]]:
        """Return for the query and each thought its terms, and what each adds [terms, rows]."""
        found: list[tuple[Sequence[str], Scores]] = []
        for text, scale in zip((query.text, *read.texts), read.vectors, strict=True):
            shares = self._search.shares(text, rows)
            values = np.array([*shares.values()], dtype=np.float32).reshape(len(shares), len(rows))
            found.append((list(shares), values * np.float32(scale)))
        return found


class _Vectors:
    """Vectors: their products with documents, and what each token adds to them where that is exact."""

    of: Literal["vectors"] = "vectors"

    def __init__(self, embed: MixedVectors, search: ExactSearch) -> None:
        self._embed, self._vectors, self.doc_ids = embed, search.vectors, search.doc_ids
        self._exact = isinstance(embed.model, TextEncoder)

    @property
    def why(self) -> str:
        """What the pieces are, or why there are none."""
        if self._exact:
            return "tokens: the vector is the mean of their states, so that a score is a sum over them"
        return "no shares of tokens: a vector of this model is not a sum over its tokens, or does not say so"

    def read(self, queries: Sequence[Query], texts: _Texts) -> Iterator[tuple[Query, _Read]]:
        """Yield each query with the scores of all documents."""
        rest = iter(queries)
        while part := list(islice(rest, _PART)):
            own = [self._embed.readable(texts.get(query.query_id, ())) for query in part]
            missing = [at for at, query in enumerate(part) if query.query_id not in self._embed.read]
            if missing:  # an earlier process embedded them
                self._embed([part[at] for at in missing], thoughts=[own[at] for at in missing])
            pieces = self._pieces_of(part, own)
            for query, said, tokens in zip(part, own, pieces, strict=True):
                v_q, theirs = self._embed.read[query.query_id]
                products = np.stack([v_q, *theirs]).astype(np.float32) @ self._vectors.T
                inner: tuple[float, ...] = ()
                if len(theirs):
                    mean = theirs.mean(axis=0, dtype=np.float32)
                    inner = (float(v_q @ v_q), float(v_q @ mean), float(mean @ mean))
                yield (
                    query,
                    _Read(
                        texts=said,
                        own=products[0],
                        theirs=list(products[1:]),
                        inner=inner,
                        vectors=tuple(tokens),
                    ),
                )

    def pieces(self, query: Query, read: _Read, rows: Rows) -> list[tuple[Sequence[str], Scores]]:
        """Return for the query and each thought its tokens, and what each adds [tokens, rows]."""
        return [(piece.names, piece.vectors @ self._vectors[rows].T) for piece in read.vectors]

    def _pieces_of(self, queries: Sequence[Query], texts: Sequence[Sequence[str]]) -> list[list[Pieces]]:
        """Return the tokens of each query and of its thoughts; nothing where they do not add up."""
        none: list[list[Pieces]] = [[] for _ in queries]
        if not isinstance(model := self._embed.model, TextEncoder) or not self._exact:
            return none
        flat = [(query, text) for query, own in zip(queries, texts, strict=True) for text in own]
        reading = self._embed.mixture.reading
        asked = model.query_pieces(queries)
        read: Callable[[], list[Pieces] | None] = {
            "document": lambda: model.document_pieces(
                [Document(doc_id=str(n), text=text) for n, (_, text) in enumerate(flat)]
            ),
            "query": lambda: model.query_pieces(
                [Query(query_id=str(n), text=t, instruction=q.instruction) for n, (q, t) in enumerate(flat)]
            ),
            "joint": lambda: model.query_pieces([query for query, _ in flat], [[text] for _, text in flat]),
        }[reading]
        theirs = iter(read() or () if flat else ())
        if asked is None:
            self._exact = False
            return none
        found = [[of_query, *islice(theirs, len(own))] for of_query, own in zip(asked, texts, strict=True)]
        for query, each in zip(queries, found, strict=True):
            v_q, of_thoughts = self._embed.read[query.query_id]
            for piece, vector in zip(each, [v_q, *of_thoughts], strict=True):
                if np.abs(piece.vectors.sum(axis=0) - vector).max() > _CLOSE:
                    self._exact = False
                    return none
        return found


def _shares(
    read: _Read, near: Rows, count: int, pieces: Sequence[tuple[Sequence[str], Scores]]
) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[Shares, ...], ...], tuple[tuple[float, ...], ...]]:
    """Return the pieces, the largest shares of each document in each reading, and the sums of the others."""
    every, left = [], []
    for _, values in pieces:
        shares: list[Shares] = [()] * count
        rest = [0.0] * count
        for column, place in enumerate(near.tolist()):
            of_document = values[:, column]
            largest = np.argsort(-np.abs(of_document), kind="stable")[:_PIECES]
            largest = largest[of_document[largest] != 0]
            shares[place] = tuple((int(at), round(float(of_document[at]), 4)) for at in largest)
            rest[place] = round(float(of_document.sum() - of_document[largest].sum()), 4)
        every.append(tuple(shares))
        left.append(tuple(rest))
    return tuple(tuple(names) for names, _ in pieces), tuple(every), tuple(left)


def _tokens(thoughts: Sequence[Thought]) -> dict[tuple[str, str], int]:
    return {(each.query_id, each.text): each.source.completion_tokens for each in thoughts}


def _beginnings(collection: Collection, wanted: set[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Return the beginnings of documents, and how many characters of the longer ones are left out."""
    documents, cut = {}, {}
    for document in collection.documents:
        if document.doc_id in wanted:
            text = document.full_text
            documents[document.doc_id] = text[:_CHARACTERS]
            if len(text) > _CHARACTERS:
                cut[document.doc_id] = len(text) - _CHARACTERS
    return documents, cut


def _deviation(scores: Scores) -> float:
    """Return the standard deviation as z_scores computes it."""
    return float((scores.astype(np.float32) - scores.mean(dtype=np.float64)).std(dtype=np.float64))


def _short(values: Any) -> tuple[float, ...]:
    """Return float32 values as the shortest numbers that are rounded to them."""
    return tuple(float(str(value)) for value in np.asarray(values, dtype=np.float32))
