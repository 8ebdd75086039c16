"""Fusing rankings: dense hits with BM25's, or any others, by rank or by calibrated score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from o1_records import Hit, InputError, MissingExtraError, Qrel, rank

Run = Mapping[str, Mapping[str, float]]
"""For each query_id, the scores of its documents."""

Fuse = Callable[[Sequence[Run], Sequence[float]], dict[str, dict[str, float]]]

CONSTANT = 60


def as_run(hits: Iterable[Hit]) -> dict[str, dict[str, float]]:
    """Hits by query; their ranks count, not the order that they come in."""
    run: dict[str, dict[str, float]] = {}
    for hit in hits:
        run.setdefault(hit.query_id, {})[hit.doc_id] = hit.score
    return run


def reciprocal_rank(
    runs: Sequence[Run], weights: Sequence[float], *, constant: int = CONSTANT
) -> dict[str, dict[str, float]]:
    """The sum of weight / (constant + rank) over the runs (Cormack, Clarke and Buettcher, 2009)."""
    fused: dict[str, dict[str, float]] = {}
    for run, weight in zip(runs, weights, strict=True):
        for query_id, scores in run.items():
            totals = fused.setdefault(query_id, {})
            for hit in rank(query_id, scores):
                totals[hit.doc_id] = totals.get(hit.doc_id, 0.0) + weight / (constant + hit.rank)
    return fused


def calibrated_score(
    runs: Sequence[Run], weights: Sequence[float], *, floors: Sequence[float] | None = None
) -> dict[str, dict[str, float]]:
    """The weighted sum of scores that are scaled, for each query and run, from its floor (0) to its best (1).

    `floors` are the least scores that each run could give (0 for BM25, -1 for a cosine); without
    them the least that it gave. A document that a run did not find counts 0 there. (The theoretical
    min-max of Bruch, Gai and Ingber, 2023, section 3.)
    """
    fused: dict[str, dict[str, float]] = {}
    for query_id in dict.fromkeys(name for run in runs for name in run):
        totals = fused.setdefault(query_id, {})
        for place, (run, weight) in enumerate(zip(runs, weights, strict=True)):
            scores = run.get(query_id, {})
            for doc_id, scaled in _scaled(scores, floors[place] if floors else None).items():
                totals[doc_id] = totals.get(doc_id, 0.0) + weight * scaled
    return fused


def fused_hits(run: Run, *, k: int) -> Iterator[Hit]:
    """The k best of each query, in the total order."""
    for query_id, scores in run.items():
        yield from rank(query_id, scores, k)


def tune_weight(
    first: Run, second: Run, qrels: Iterable[Qrel], fuse: Fuse, *, steps: int = 20
) -> tuple[float, dict[float, float]]:
    """The weight of the first run (the second has the rest of 1) with the best nDCG@10, and all tried.

    Of equal ones the one nearest to a half. Report the result on other queries than these. Needs
    the `[hybrid]` extra (ir-measures). Raises InputError when no query of the runs is judged.
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
        fused = fuse([first, second], [weight, 1 - weight])
        best = {
            query_id: {hit.doc_id: -float(hit.rank) for hit in rank(query_id, fused.get(query_id, {}), 10)}
            for query_id in judged
        }
        tried[weight] = float(ir_measures.calc_aggregate([measure], judged, best)[measure])
    return max(tried, key=lambda weight: (round(tried[weight], 9), -abs(weight - 0.5))), tried


def _scaled(scores: Mapping[str, float], floor: float | None) -> dict[str, float]:
    least, best = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    floor = least if floor is None else min(floor, least)
    if best == floor:
        return dict.fromkeys(scores, 1.0)
    return {doc_id: (score - floor) / (best - floor) for doc_id, score in scores.items()}
