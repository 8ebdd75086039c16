"""One ranking where there are several: of a query's vectors, of dense hits and BM25's, of any runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import msgspec
import numpy as np
from tqdm import tqdm

from o1_index.documents import Excluded, Rows, Where
from o1_index.hits import Hits, Scores, best
from o1_index.index import Index
from o1_index.tuning import K
from o1_index.vector_store import Searchable
from o1_index.vectors import Vectors, VectorSource, checked, largest_norm
from o1_records import Document, Hit, InputError, MissingExtraError, Qrel, Query, Thought, quoted, rank
from o1_records.kit.fusion import SCALES, Run, fused

# --- several vectors of a query -----------------------------------------------------------------------


def search_max(
    index: Searchable,
    vectors: Vectors,
    owners: Sequence[str],
    *,
    k: int,
    excluded: Excluded | None = None,
    only: Set[str] | None = None,
    where: Where | None = None,
) -> Hits:
    """Return the k best documents of each owner, by the best score that any of its vectors gives.

    `owners` names the owner of each row of `vectors`; owners come back in order of appearance. Fused from the
    hits of each vector, which is exact.
    """
    names = [f"{owner}[{row}]" for row, owner in enumerate(owners)]
    pairs = zip(names, owners, strict=True)
    banned = {name: (excluded or {}).get(owner, set()) for name, owner in pairs}
    hits = index.search(vectors, names, k=k, excluded=banned, only=only, where=where)
    rows_of_owner = _rows_of(owners)
    merged = [_merged(hits, rows) for rows in rows_of_owner.values()]
    rows = np.stack([each for each, _ in merged]) if merged else hits.rows
    scores = np.stack([each for _, each in merged]) if merged else hits.scores
    return Hits(list(rows_of_owner), hits.names, rows, scores)


def search_mean(
    index: Searchable,
    vectors: Vectors,
    owners: Sequence[str],
    *,
    k: int,
    excluded: Excluded | None = None,
    only: Set[str] | None = None,
    where: Where | None = None,
) -> Hits:
    """Return the k best documents of each owner, by the mean score that its vectors give.

    The mean of inner products is the inner product with the mean vector, so one search of the means does
    it. For the cosine the scores are those of the mean of the unit vectors, scaled to unit length again;
    the order is the same. (The order of the mean vector's distances is that of the mean squared distances,
    too.)
    """
    names = [f"{owner}[{row}]" for row, owner in enumerate(owners)]
    matrix = checked(names, vectors, index.settings.metric, "the queries", index.dim)
    rows_of_owner = _rows_of(owners)
    means = np.zeros((len(rows_of_owner), index.dim), dtype=np.float32)
    for place, rows in enumerate(rows_of_owner.values()):
        means[place] = matrix[rows].mean(axis=0)
    return index.search(means, list(rows_of_owner), k=k, excluded=excluded, only=only, where=where)


BATCH_QUERIES = 256
FUSES: dict[str, Callable[..., Hits]] = {"max": search_max, "mean": search_mean}
"""How several vectors of a query make one ranking."""


def search_from(
    index: Searchable,
    queries: VectorSource,
    *,
    k: int = K,
    fuse: str = "max",
    excluded: Excluded | None = None,
    only: Set[str] | None = None,
    where: Where | None = None,
) -> Iterator[Hit]:
    """Return the hits of a folder or file of query vectors, query by query.

    A query with several vectors gets one ranking, fused by `fuse` ("max" or "mean"). `only` and `where` leave
    documents out, as in `Index.search`.

    Raises InputError for vectors of another encoder or dimension, and for vectors of documents.
    """
    index.settings.refuse_other_encoder(queries.manifest.encoder)
    if fuse not in FUSES:
        raise InputError(f"unknown fuse {quoted(fuse)}; choose one of {', '.join(FUSES)}")
    vectors, ids, owners = queries.load(), queries.ids(), queries.owners()
    groups = list(_rows_of(owners).values())

    def hits() -> Iterator[Hit]:
        starts = range(0, len(groups), BATCH_QUERIES)
        for start in tqdm(starts, desc="search", unit=" batches", disable=None):
            # the vectors of one owner stay together
            rows = [row for group in groups[start : start + BATCH_QUERIES] for row in group]
            search = index.search if ids == owners else partial(FUSES[fuse], index)
            names = [owners[row] for row in rows]
            yield from search(vectors[rows], names, k=k, excluded=excluded, only=only, where=where)

    return hits()


def _rows_of(owners: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        rows.setdefault(owner, []).append(row)
    return rows


def _merged(hits: Hits, queries: list[int]) -> tuple[Rows, Scores]:
    rows, scores = hits.rows[queries].ravel(), hits.scores[queries].ravel()
    order = np.lexsort((-scores, rows))
    rows, scores = rows[order], scores[order]
    rows[1:][rows[1:] == rows[:-1]] = -1  # the first of equal rows has their best score
    merged_rows, merged_scores = best(hits.names, rows[None], scores[None], hits.rows.shape[1])
    return merged_rows[0], merged_scores[0]


# --- runs ---------------------------------------------------------------------------------------------

Fuse = Callable[[Sequence[Run], Sequence[float]], dict[str, dict[str, float]]]


def as_run(hits: Iterable[Hit]) -> dict[str, dict[str, float]]:
    """Return hits by query and document; their ranks are dropped, their scores decide."""
    run: dict[str, dict[str, float]] = {}
    for hit in hits:
        run.setdefault(hit.query_id, {})[hit.doc_id] = hit.score
    return run


def calibrated_score(
    runs: Sequence[Run], weights: Sequence[float], *, floors: Sequence[float | Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the weighted sum of scores, scaled for each query and run from the floor (0) to the best (1).

    `floors` are the lowest scores that each run could give (0 for BM25, -1 for a cosine), for all queries or
    by query_id (see `lowest_scores`). A document that a run did not find counts 0 there. (The theoretical
    min-max of Bruch, Gai and Ingber, 2023, section 3.)
    """
    result: dict[str, dict[str, float]] = {}
    for query_id in dict.fromkeys(name for run in runs for name in run):
        totals = result.setdefault(query_id, {})
        for run, weight, lowest in zip(runs, weights, floors, strict=True):
            scores = run.get(query_id, {})
            least = lowest.get(query_id, 0.0) if isinstance(lowest, Mapping) else lowest
            floor, highest = min([least, *scores.values()]), max(scores.values(), default=0.0)
            for doc_id, score in scores.items():
                scaled = (score - floor) / (highest - floor) if highest > floor else 1.0
                totals[doc_id] = totals.get(doc_id, 0.0) + weight * scaled
    return result


def merged_shards(runs: Sequence[Run], weights: Sequence[float] | None = None) -> dict[str, dict[str, float]]:
    """Return runs of the shards of one collection as one run: every score as it is.

    The k best of it are those of the whole collection, where each run has its shard's k best.

    Raises InputError for a document that two runs found for a query, and for weights other than 1.
    """
    if weights and set(weights) != {1.0}:
        raise InputError("weights have no effect on runs of shards; leave them out")
    result: dict[str, dict[str, float]] = {}
    for run in runs:
        for query_id, scores in run.items():
            totals = result.setdefault(query_id, {})
            both = sorted(totals.keys() & scores.keys())
            if both:
                raise InputError(
                    f"query {quoted(query_id)}: document {quoted(both[0])} is in two runs; runs of shards "
                    "have no document in common"
                )
            totals.update(scores)
    return result


METHODS: dict[str, Fuse] = {
    **{name: partial(fused, method=name) for name in SCALES},
    "shards": merged_shards,
}
"""How any runs become one: by reciprocal rank, by scores that are scaled first, or as shards of one whole."""


def fuse_runs(
    runs: Sequence[Iterable[Hit]], *, method: str = "rrf", weights: Sequence[float] | None = None, k: int = K
) -> Iterator[Hit]:
    """Return the k best documents of each query in several runs (see `METHODS`), in the total order.

    BGE-Reasoner's fusion is `method="minmax", weights=[0.75, 0.25]`. A run of weight 0 adds nothing, no
    documents either.

    Raises InputError for an unknown method, and for weights that are not one for each run or all 0.
    """
    if method not in METHODS:
        raise InputError(f"unknown fusion {quoted(method)}; choose one of {', '.join(METHODS)}")
    if weights is not None and len(weights) != len(runs):
        raise InputError(f"{len(weights)} weights for {len(runs)} runs; give one for each")
    if weights and not any(weights):
        raise InputError("all weights are 0; at least one run must count")
    weights = [1.0] * len(runs) if weights is None else list(weights)
    return fused_hits(_weighed(METHODS[method], [as_run(run) for run in runs], weights), k=k)


def _weighed(fuse: Fuse, runs: Sequence[Run], weights: Sequence[float]) -> dict[str, dict[str, float]]:
    """Fuse runs; of one of weight 0 no document is left, not even with the score 0, where it would tie."""
    return fuse([run if weight else {} for run, weight in zip(runs, weights, strict=True)], weights)


def fused_hits(run: Run, *, k: int) -> Iterator[Hit]:
    """Yield the k best documents of each query, in the total order."""
    for query_id, scores in run.items():
        yield from rank(query_id, scores, k)


def tune_weight(
    first: Run, second: Run, qrels: Iterable[Qrel], fuse: Fuse, *, steps: int = 20
) -> tuple[float, dict[float, float]]:
    """Return the weight of the first run (the second has the rest of 1) with the best nDCG@10, and all.

    With the weights 1 and 0 one run alone is judged. Of equal ones, the one nearest to a half is returned.
    Report the result on other queries than these. Needs the `[hybrid]` extra (ir-measures).

    Raises InputError when no query of the runs is judged.
    """
    try:
        import ir_measures
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-index", "hybrid", "Tuning a fusion") from error
    judged: dict[str, dict[str, int]] = {}
    for qrel in qrels:
        judged.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    known = judged.keys() & (first.keys() | second.keys())
    if not known:
        raise InputError("none of the queries is judged; do qrels and queries belong together?")
    judged = {query_id: judged[query_id] for query_id in sorted(known)}
    measure = ir_measures.nDCG @ 10
    tried = {}
    for step in range(steps + 1):
        weight = step / steps
        both = _weighed(fuse, [first, second], [weight, 1 - weight])
        top = {
            query_id: {hit.doc_id: -float(hit.rank) for hit in rank(query_id, both.get(query_id, {}), 10)}
            for query_id in judged
        }
        tried[weight] = float(ir_measures.calc_aggregate([measure], judged, top)[measure])
    return max(tried, key=lambda weight: (round(tried[weight], 9), -abs(weight - 0.5))), tried


# --- hybrid search ------------------------------------------------------------------------------------

FUSIONS = (*SCALES, "scores")
"""How dense hits and BM25's are fused: as any runs are, or by calibrated score ("scores")."""

Lexical = Literal["query", "thought", "both"]
LEXICAL: tuple[Lexical, ...] = get_args(Lexical)
"""What BM25 reads."""

WEIGHT = 0.5


@dataclass(frozen=True)
class Hybrid:
    """The fused run, the weight of the dense hits in it, and nDCG@10 at each weight that was tried."""

    run: dict[str, dict[str, float]]
    weight: float
    tried: Mapping[float, float]


def hybrid(
    index: Index,
    vectors: VectorSource,
    queries: Iterable[Query],
    documents: Iterable[Document],
    *,
    k: int = 100,
    thoughts: Iterable[Thought] | None = None,
    lexical: Lexical | None = None,
    fusion: str = "rrf",
    weight: float | None = None,
    qrels: Iterable[Qrel] | None = None,
    excluded: Excluded | None = None,
    k1: float = 0.9,
    b: float = 0.4,
) -> Hybrid:
    """Search with vectors and with BM25, and fuse the two rankings.

    BM25 searches the documents of the index and the queries that have vectors, and no others. Needs the
    `[hybrid]` extra.

    Args:
        index: the index.
        vectors: query vectors.
        queries: the texts of the queries.
        documents: the texts of the documents.
        k: hits a query, in each ranking.
        thoughts: thoughts about the queries, for BM25.
        lexical: what BM25 reads of a query: "query", "thought", or "both" (where there are thoughts). A query
            without thoughts is searched by its own text.
        fusion: one of `FUSIONS`.
        weight: of the dense hits, 0 to 1; by default a half. With 1 and 0 one ranking comes back as it is.
        qrels: choose the weight on these judgements instead.
        excluded: for a query_id, documents that are not returned for it.
        k1: BM25's.
        b: BM25's.

    Raises:
        InputError: texts of queries or documents are missing, no query is judged, vectors and index do not
            belong together, an option has no effect.
    """
    if weight is not None and not 0 <= weight <= 1:
        raise InputError(f"weight must be between 0 and 1, got {weight}")
    if weight is not None and qrels is not None:
        raise InputError("weight has no effect where qrels choose it; give one of the two")
    if thoughts is None and lexical in ("thought", "both"):
        raise InputError(f"lexical {lexical!r} needs thoughts; give thoughts, or leave it out")
    if thoughts is not None and lexical == "query":
        raise InputError(
            "thoughts have no effect with lexical 'query'; leave them out, or choose 'thought' or 'both'"
        )
    if fusion not in FUSIONS:
        raise InputError(f"unknown fusion {quoted(fusion)}; choose one of {', '.join(FUSIONS)}")
    try:
        from o1_records.bm25 import BM25
    except MissingExtraError as error:
        raise MissingExtraError("o1-index", "hybrid", "BM25") from error
    wanted = set(vectors.owners())
    texts = [query for query in queries if query.query_id in wanted]
    _refuse_missing(wanted - {query.query_id for query in texts}, "queries", "queries that have vectors")
    if thoughts is not None:
        texts = _with_thoughts(texts, thoughts, alone=lexical == "thought")
    dense = as_run(search_from(index, vectors, k=k, excluded=excluded))
    indexed = set(index.documents)
    held = [document for document in documents if document.doc_id in indexed]
    missing = indexed - {document.doc_id for document in held}
    _refuse_missing(missing, "corpus", "documents of the index")
    found = as_run(BM25(held, k1=k1, b=b).search(texts, k, excluded=excluded))
    fuse: Fuse = (
        partial(calibrated_score, floors=(lowest_scores(index, vectors), 0.0))
        if fusion == "scores"
        else METHODS[fusion]
    )
    tried: dict[float, float] = {}
    if qrels is not None:
        weight, tried = tune_weight(dense, found, qrels, fuse)
    weight = WEIGHT if weight is None else weight
    return Hybrid(_weighed(fuse, [dense, found], [weight, 1 - weight]), weight, tried)


def lowest_scores(index: Index, vectors: VectorSource) -> dict[str, float]:
    """Return the lowest score that a document as long as the longest of the index could have for each query.

    By the metric: -1 for cosines, -|q||d| for inner products, -(|q| + |d|)^2 for L2. Raises InputError for a
    factory whose codes cannot be turned into vectors, unless the metric is cosine.
    """
    owners, metric = vectors.owners(), index.settings.metric
    if metric == "cosine":
        return dict.fromkeys(owners, -1.0)
    names = list(index.documents)
    parts = (index.fetch(names[start : start + 10_000]) for start in range(0, len(names), 10_000))
    longest = max((largest_norm(part.vectors) for part in parts), default=0.0)
    lowest: dict[str, float] = {}
    for owner, vector in zip(owners, vectors.load(), strict=True):
        length = float(np.linalg.norm(vector))
        least = -((length + longest) ** 2) if metric == "l2" else -length * longest
        lowest[owner] = min(least, lowest.get(owner, least))
    return lowest


def _with_thoughts(queries: Iterable[Query], thoughts: Iterable[Thought], *, alone: bool) -> list[Query]:
    """Return the queries with their thoughts behind their text, or `alone` in its place."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for thought in thoughts:
        texts[thought.query_id].append(thought.text)
    queries = list(queries)
    if texts.keys().isdisjoint(query.query_id for query in queries):
        raise InputError("thoughts: none is about a query that has vectors; do they belong together?")
    changed = []
    for query in queries:
        own = texts.get(query.query_id, [])
        lines = own if own and alone else [query.text, *own]
        changed.append(msgspec.structs.replace(query, text="\n".join(lines)))
    return changed


def _refuse_missing(names: Set[str], place: str, what: str) -> None:
    if names:
        raise InputError(
            f"{place}: no text for {len(names)} {what}, such as {quoted(sorted(names)[:10])}; give them all"
        )
