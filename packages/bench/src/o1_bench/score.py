"""Scores as trec_eval gives them, through ir-measures, with one order of hits for every measure.

The hits of a query are ranked by float32 score, ties by doc_id descending, and the scorer gets scores
made from that rank, so that no provider of ir-measures breaks ties its own way. RR@k is
trec_eval's reciprocal rank where that is 1/k or more, else 0. Queries that retrieved nothing count 0;
unjudged documents count as not relevant; queries without judgements are left out.

R_cap@k is BEIR's and FlagEmbedding's capped recall, the only measure that is computed here: the relevant
documents among the first k, divided by their number or by k, whichever is smaller.
"""

from __future__ import annotations

import re
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, cast

import ir_measures
import numpy as np
from ir_measures.measures.base import Measure as _Base
from ir_measures.measures.base import ParamInfo

from o1_records import Hit, InputError, Metric, Qrel, quoted, rank

Measure = Any  # ir_measures.Measure; ir-measures carries no usable types
Qrels = Iterable[Qrel] | Mapping[str, Mapping[str, int]]
Run = Iterable[Hit] | Mapping[str, Mapping[str, float]]

_TRY = "try nDCG@10, RR@10, R@100, R_cap@100, AP, Success@5"
_LARGEST = 1_000_000  # trec_eval reserves memory for every grade up to the largest


# through Any, because ir-measures carries no usable types
_PARAMETERS: dict[str, Any] = {"cutoff": cast(Any, ParamInfo)(dtype=int, required=True)}


class _CappedRecall(_Base):
    """Capped recall, in the form of a measure of ir-measures."""

    NAME = __name__ = "R_cap"
    SUPPORTED_PARAMS = _PARAMETERS


CAPPED_RECALL: Measure = cast(Any, _CappedRecall)()
"""`CAPPED_RECALL @ 100` is the measure R_cap@100."""

DEFAULT: tuple[Measure, ...] = (
    ir_measures.nDCG @ 10,
    ir_measures.RR @ 10,
    ir_measures.R @ 100,
)


def score(
    qrels: Qrels,
    hits: Run,
    *,
    measures: Sequence[Measure | str] = DEFAULT,
    excluded: Mapping[str, Set[str]] | None = None,
) -> list[Metric]:
    """Return, for each measure, one Metric per judged query and then their mean (query_id None).

    Args:
        qrels: judgements, as records or as `{query_id: {doc_id: relevance}}`.
        hits: in any order, as records or as `{query_id: {doc_id: score}}`; `Hit.rank` is not read.
        measures: objects of ir_measures, or names such as "nDCG@10", see `parse_measure`.
        excluded: per query, documents that are removed before the hits are ranked.

    Raises:
        InputError: no judgements, a pair that is judged or retrieved twice, a score that is not finite, a
            measure that cannot be computed, a relevance of more than a million.
    """
    judged = to_dict(qrels)
    if not judged:
        raise InputError("there are no judgements to score against; is it the right qrels file?")
    measures = parse_measures(measures)
    metrics: list[Metric] = []
    ranked = _ranked(hits, judged, excluded or {}, _depth(measures))
    values = _values(judged, ranked, measures)
    for measure, by_query in values.items():
        name, total = str(measure), measure.aggregator()
        for query_id in judged:
            # gdeval has no line for a query that retrieved nothing
            by_query.setdefault(query_id, 0.0)
            total.add(by_query[query_id])
            metrics.append(Metric(measure=name, value=float(by_query[query_id]), query_id=query_id))
        metrics.append(Metric(measure=name, value=float(total.result())))
    return metrics


def parse_measure(text: str) -> Measure:
    """Return the measure with a name such as `nDCG@10`, `RR(rel=2)@10`, `R@1000`, `R_cap@100`, `AP`."""
    if capped := re.fullmatch(r"(?:R_cap|recall_cap)@(\d+)", text):
        measure = CAPPED_RECALL @ int(capped[1])
    else:
        try:
            measure = ir_measures.parse_measure(text)
        except (ValueError, NameError) as error:
            raise InputError(f"measure {quoted(text)}: {error}; {_TRY}") from error
    _check(measure)
    return measure


def parse_measures(measures: Iterable[Measure | str]) -> list[Measure]:
    """Return measures that are given as objects or by name, checked, each once, in their order."""
    found = []
    for measure in measures:
        if isinstance(measure, str):
            measure = parse_measure(measure)
        _check(measure)
        found.append(measure)
    return list(dict.fromkeys(found))


def means(metrics: Iterable[Metric]) -> dict[str, float]:
    """Return the mean of each measure: `{"nDCG@10": 0.5}`."""
    return {m.measure: m.value for m in metrics if m.query_id is None}


def by_query(metrics: Iterable[Metric]) -> dict[str, dict[str, float]]:
    """Return the value of each measure for each query: `{"nDCG@10": {"q1": 0.5}}`."""
    values: dict[str, dict[str, float]] = {}
    for metric in metrics:
        if metric.query_id is not None:
            values.setdefault(metric.measure, {})[metric.query_id] = metric.value
    return values


def to_dict(records: Qrels | Run) -> dict[str, dict[str, Any]]:
    """Return records as `{query_id: {doc_id: score or relevance}}`, the form that BEIR and ranx use.

    Raises InputError for a duplicate document of one query.
    """
    if isinstance(records, Mapping):
        return {query_id: dict(values) for query_id, values in records.items() if values}
    result: dict[str, dict[str, Any]] = {}
    for record in records:
        values = result.setdefault(record.query_id, {})
        if record.doc_id in values:
            raise InputError(
                f"duplicate document {quoted(record.doc_id)} for query {quoted(record.query_id)}; keep one"
            )
        values[record.doc_id] = record.score if isinstance(record, Hit) else record.relevance
    return result


def from_dict(scores: Mapping[str, Mapping[str, float]]) -> Iterator[Hit]:
    """Yield the hits of `{query_id: {doc_id: score}}`, best first within each query."""
    for query_id, values in scores.items():
        yield from rank(query_id, values)


def computed_by(measure: Measure) -> str:
    """Return who computes a measure, in words: `ir-measures, pytrec_eval`."""
    if isinstance(measure, _CappedRecall):
        return "o1-bench"
    return f"ir-measures, {provider(measure)}"


def provider(measure: Measure) -> str:
    """Return the name of the ir-measures provider that computes a measure, such as `pytrec_eval`."""
    pipeline: Any = ir_measures.DefaultPipeline
    asked = _asked(measure)
    found = (p for p in pipeline.providers if p.is_available() and p.supports(asked))
    return str(next(found).NAME)


def _check(measure: Measure) -> None:
    pipeline: Any = ir_measures.DefaultPipeline
    cutoff, level = measure.params.get("cutoff", 1), measure.params.get("rel", 1)
    try:
        measure.validate_params()
        known = isinstance(measure, _CappedRecall) or pipeline.supports(measure)
    except AssertionError as error:  # repr of a measure fails on such parameters
        raise InputError(f"measure {measure.NAME}, {measure.params}: {error}; {_TRY}") from error
    if not known or cutoff < 1:
        raise InputError(f"measure {measure}: no installed package computes it; {_TRY}")
    if level < 1:
        raise InputError(f"measure {measure}: rel must be 1 or more, as unjudged documents have 0; {_TRY}")
    if measure.NAME == "Accuracy":
        raise InputError(
            f"measure {measure}: ir-measures cannot compute it for every run; BEIR's Accuracy@k is Success@k"
        )
    if not isinstance(measure, _CappedRecall) and provider(measure) == "gdeval" and not shutil.which("perl"):
        raise InputError(f"measure {measure}: gdeval computes it, which needs Perl; install perl")


def _ranked(
    hits: Run, judged: Mapping[str, Any], excluded: Mapping[str, Set[str]], depth: int | None
) -> dict[str, dict[str, int]]:
    ranked = {}
    for query_id, scores in (hits if isinstance(hits, Mapping) else to_dict(hits)).items():
        if query_id not in judged:
            continue
        if left_out := excluded.get(query_id):
            scores = {doc_id: value for doc_id, value in scores.items() if doc_id not in left_out}
        if scores:
            ranked[query_id] = _places(query_id, scores, depth)
    return ranked


def _places(query_id: str, scores: Mapping[str, float], depth: int | None) -> dict[str, int]:
    """Return a score for each of the first `depth` documents: the last gets 1, the one before it 2, ...

    The order is that of `o1_records.rank`, whose records would cost more time than the scoring.
    """
    rounded = array("f", scores.values())
    values = np.frombuffer(rounded, dtype=np.float32)
    if not np.isfinite(values).all():
        rank(query_id, scores)  # raises, naming the document
    order = np.argsort(values)[::-1]
    if depth and depth < len(order):  # all that tie with the last one stay: doc_id decides
        order = order[: np.count_nonzero(values >= values[order[depth - 1]])]
    doc_ids, best = list(scores), values[order]
    found = [doc_ids[place] for place in order.tolist()]
    if (best[1:] == best[:-1]).any():
        found = [doc_id for _, doc_id in sorted(zip(best.tolist(), found, strict=True), reverse=True)]
    return dict(zip(found[:depth], range(len(found[:depth]), 0, -1), strict=True))


def _depth(measures: Sequence[Measure]) -> int | None:
    """Return how many documents of a ranking the measures look at; None: all of them."""
    cutoffs = [measure.params.get("cutoff") for measure in measures]
    if any(measure.params.get("judged_only") for measure in measures):
        return None  # such a measure removes unjudged documents before it cuts
    return None if None in cutoffs else max(cutoffs, default=None)


def _values(
    judged: dict[str, dict[str, int]], ranked: dict[str, dict[str, int]], measures: list[Measure]
) -> dict[Measure, dict[str, float]]:
    own = {m: _capped_recall(judged, ranked, m) for m in measures if isinstance(m, _CappedRecall)}
    asked = {measure: _asked(measure) for measure in measures if measure not in own}
    values: dict[Measure, dict[str, float]] = {measure: {} for measure in asked.values()}
    judged = _bounded(judged)
    # ir-measures 0.4.3 files nDCG@k with and without `gains` under one name, so that one of them
    # would score 0 everywhere: each measure with gains is computed on its own
    numbered = [measure for measure in values if provider(measure) == "gdeval"]
    together = [m for m in values if "gains" not in m.params and m not in numbered]
    alone = [[measure] for measure in values if "gains" in measure.params]
    for group in filter(None, (together, *alone)):
        for metric in ir_measures.evaluator(group, judged).iter_calc(ranked):
            values[metric.measure][metric.query_id] = metric.value
    if numbered:
        query_ids, qrels, run = _by_number(judged, ranked)
        for metric in ir_measures.evaluator(numbered, qrels).iter_calc(run):
            if metric.query_id in query_ids:  # gdeval adds a line for the mean
                values[metric.measure][query_ids[metric.query_id]] = metric.value
    return {m: own[m] if m in own else _cut(m, values[asked[m]]) for m in measures}


def _bounded(judged: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return judgements that trec_eval can hold: without changing a value, without breaking its memory.

    It writes beyond its memory for a query without a judgement of 0 or more, where every measure is as if all
    of them were 0; below -1 judgements count as -1; it reserves memory for every grade up to the largest.
    """
    bounded = {}
    for query_id, relevances in judged.items():
        low, high = min(relevances.values()), max(relevances.values())
        if high > _LARGEST:
            doc_id = max(relevances, key=lambda each: relevances[each])
            raise InputError(
                f"query {quoted(query_id)}, document {quoted(doc_id)}: relevance {high} is more than "
                f"{_LARGEST:,}; give grades, such as 0 to 3"
            )
        least = -1 if high >= 0 else 0
        bounded[query_id] = (
            relevances if low >= least else {d: max(least, value) for d, value in relevances.items()}
        )
    return bounded


def _by_number(
    judged: Mapping[str, Mapping[str, int]], ranked: Mapping[str, Mapping[str, int]]
) -> tuple[dict[str, str], dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Return query_ids by number, and judgements and ranking with numbers for ids: gdeval knows no others."""
    numbers = {query_id: str(number) for number, query_id in enumerate(judged, 1)}
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, int]] = {}
    for query_id, number in numbers.items():
        found = ranked.get(query_id, {})
        documents = {
            doc_id: f"d{place}" for place, doc_id in enumerate(dict.fromkeys([*judged[query_id], *found]))
        }
        qrels[number] = {documents[doc_id]: relevance for doc_id, relevance in judged[query_id].items()}
        if found:
            run[number] = {documents[doc_id]: value for doc_id, value in found.items()}
    return {number: query_id for query_id, number in numbers.items()}, qrels, run


def _capped_recall(
    judged: Mapping[str, Mapping[str, int]], ranked: Mapping[str, Mapping[str, int]], measure: Measure
) -> dict[str, float]:
    cutoff, values = measure.params["cutoff"], {}
    for query_id, relevances in judged.items():
        relevant = {doc_id for doc_id, relevance in relevances.items() if relevance > 0}
        scores = ranked.get(query_id, {})
        first = sorted(scores, key=lambda doc_id: -scores[doc_id])[:cutoff]
        most = min(len(relevant), cutoff)
        values[query_id] = len(relevant.intersection(first)) / most if most else 0.0
    return values


def _asked(measure: Measure) -> Measure:
    """Return what ir-measures is asked for: RR for RR@k, whose own provider takes as long as all others."""
    if measure.NAME != "RR":
        return measure
    return ir_measures.RR(**{name: value for name, value in measure.params.items() if name != "cutoff"})


def _cut(measure: Measure, values: dict[str, float]) -> dict[str, float]:
    """Return RR@k, given RR: a first relevant document beyond rank k counts 0."""
    if measure.NAME != "RR" or "cutoff" not in measure.params:
        return values
    least = 1 / measure.params["cutoff"]
    return {query_id: value if value >= least else 0.0 for query_id, value in values.items()}
