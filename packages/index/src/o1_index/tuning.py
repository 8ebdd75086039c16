"""Choosing search parameters by measuring recall and time, while building and later."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Literal

import msgspec
import numpy as np

from o1_index.documents import Documents
from o1_index.engine import nearest, parameter_values
from o1_index.hits import Hits, best, first_of
from o1_index.index import Index
from o1_index.store.manifest import Measured
from o1_index.vectors import Metric, Vectors, VectorSource, as_numpy, checked, fingerprint, spread
from o1_records import InputError, Record

RECALL = 0.95
"""The share of the exact hits that is aimed at, unless said otherwise."""
K = 100
"""Hits a query at which is measured and searched, unless said otherwise."""
QUERIES = 256
"""The most queries that are searched for while tuning, unless said otherwise."""


class Trial(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One setting: the share of the exact hits that it found, and its time per query."""

    parameters: str
    recall: float
    milliseconds: float


class Tuning(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All trials at k hits a query, and the one that was chosen for a recall of at least `target`."""

    k: int
    queries: int
    target: float
    sample: Literal["queries", "documents"]
    trials: tuple[Trial, ...]
    chosen: Trial


def refuse_no_recall(recall: float) -> None:
    """Raise InputError for a number that is no share of hits."""
    if not 0 < recall <= 1:
        raise InputError(f"recall must be above 0 and at most 1, got {recall}")


def tune_from(
    index: Index,
    documents: VectorSource,
    queries: VectorSource,
    *,
    k: int = K,
    target: float = RECALL,
    most: int = QUERIES,
) -> Tuning:
    """Tune an index with folders or files of vectors: those that it was built from, and queries.

    At most `most` queries are used, spread evenly over the folder. See `tune`.

    Raises InputError for queries of another encoder, and for other documents than those of the index: recall
    is measured against exact search in them.
    """
    index.settings.refuse_other_encoder(queries.manifest.encoder)
    if index.made_from != fingerprint(documents):
        raise InputError(
            f"{documents.folder}: the index was not built from these vectors, or was changed since; give the "
            "vectors that it was built from, or build it again"
        )
    if not len(queries):
        raise InputError(f"{queries.folder}: holds no vectors")
    ids, vectors = sample_of(queries, most)
    exact = exact_hits(documents.shards(), vectors, ids, k=k, metric=index.settings.metric)
    return tune(index, vectors, ids, exact, k=k, target=target)


def sample_of(vectors: VectorSource, most: int) -> tuple[list[str], Vectors]:
    """Return at most `most` ids and vectors, spread evenly."""
    parts = list(spread(vectors.shards(), len(vectors), most))
    return [name for ids, _ in parts for name in ids], np.concatenate([as_numpy(part) for _, part in parts])


def tune(
    index: Index,
    query_vectors: Vectors,
    query_ids: Sequence[str],
    exact: Hits,
    *,
    k: int = K,
    target: float = RECALL,
    repeats: int = 2,
    sample: Literal["queries", "documents"] = "queries",
    every: bool = True,
) -> Tuning:
    """Try the settings that FAISS offers for the factory, and set the fastest that finds enough.

    Where no setting reaches a recall of `target`, the one with the highest recall is set.

    Args:
        index: the index; it is searched with each setting in turn, so nobody else should search it now.
        query_vectors: [len(query_ids), dim].
        query_ids: one id for each row.
        exact: the exact k hits of the same queries (`exact_hits`), k + 1 where these are documents.
        k: hits a query.
        target: the recall that is aimed at.
        repeats: searches with each setting; the fastest counts.
        sample: what the queries are. A document is no hit of its own.
        every: try every setting; else, of each parameter's ascending values, none beyond the first that
            finds enough.

    Raises InputError for an index without search parameters.
    """
    refuse_no_recall(target)
    values = parameter_values(index.engine)
    if not values and every:
        raise InputError(f"factory {index.settings.factory!r} has no search parameters; nothing to tune")
    itself = sample == "documents"
    squares = None
    if index.settings.metric == "l2":
        squares = np.square(as_numpy(query_vectors), dtype=np.float64).sum(axis=1).tolist()

    def trial(parameters: str) -> Trial:
        index.set_parameters(parameters)
        fastest = float("inf")
        for _ in range(repeats):
            began = time.perf_counter()
            hits = index.search(query_vectors, query_ids, k=k + itself)
            fastest = min(fastest, time.perf_counter() - began)
        shares = found_shares(hits, exact, k, itself=itself, squares=squares)
        recall = float(np.mean(shares)) if shares else 1.0
        milliseconds = 1000 * fastest / max(len(query_ids), 1)
        return Trial(parameters=parameters, recall=recall, milliseconds=milliseconds)

    with index.untold():
        trials = [] if values else [trial("")]
        *outer, last = values or {"": []}
        for others in itertools.product(*(values[name] for name in outer)):
            before = "".join(f"{name}={value}," for name, value in zip(outer, others, strict=True))
            for value in values.get(last, []):
                trials.append(trial(f"{before}{last}={value}"))
                if not every and trials[-1].recall >= target:
                    break
    chosen = choose_trial(trials, target)
    measured = Measured(k=k, recall=chosen.recall, queries=len(query_ids), sample=sample, target=target)
    index.set_parameters(chosen.parameters, measured=measured)
    return Tuning(
        k=k, queries=len(query_ids), target=target, sample=sample, trials=tuple(trials), chosen=chosen
    )


def choose_trial(trials: Sequence[Trial], target: float) -> Trial:
    """Return the fastest trial that reaches the target; else the one with the highest recall."""
    enough = [trial for trial in trials if trial.recall >= target]
    if enough:
        return min(enough, key=lambda trial: trial.milliseconds)
    return max(trials, key=lambda trial: (trial.recall, -trial.milliseconds))


def exact_hits(
    shards: Iterable[tuple[Sequence[str], Vectors]],
    query_vectors: Vectors,
    query_ids: Sequence[str],
    *,
    k: int,
    metric: Metric,
) -> Hits:
    """Return the exact hits of queries in shards of vectors, with one shard in memory at a time.

    Of documents that tie across the k-th place any may come back.
    """
    matrix = as_numpy(query_vectors)
    queries = checked(query_ids, matrix, metric, "the queries", matrix.shape[1])
    distance = metric == "l2"
    rows = np.full((len(query_ids), 0), -1, dtype=np.int64)
    scores = np.zeros((len(query_ids), 0), dtype=np.float32)
    every: list[Sequence[str]] = []
    start = 0
    for ids, vectors in shards:
        part = checked(ids, vectors, metric, "the documents", queries.shape[1])
        raw, found = nearest(queries, part, min(k, len(part)), distance=distance)
        rows = np.concatenate([rows, np.where(found >= 0, found + start, -1)], axis=1)
        scores = np.concatenate([scores, -raw if distance else raw], axis=1)
        scores, rows = first_of(scores, rows, k)
        every.append(ids)
        start += len(ids)
    documents = Documents.of(every)
    return Hits(query_ids, documents, *best(documents, rows, scores, k))


_TIE = 1e-5  # scores that differ by this share of their size are equal: the order of summation differs


def found_shares(
    hits: Hits, exact: Hits, k: int, *, itself: bool = False, squares: Sequence[float] | None = None
) -> list[float]:
    """Return the share of the exact k hits that were found, for each query that has any.

    A document that ties with the last of them, but for rounding, is as good as it. Rounding goes with the
    size of the exact scores (their median: one long document must not make the others tie), and of distances
    also with the squared length of the query, since FAISS computes them from lengths and products.

    Args:
        hits: what was found.
        exact: the exact hits of the same queries.
        k: hits a query.
        itself: the query is a document, which is no hit of its own.
        squares: where scores are distances, the squared length of each query.
    """
    shares = []
    sizes = [0.0] * len(exact.query_ids) if squares is None else squares
    for mine, wanted, size in zip(_pairs(hits, k, itself), _pairs(exact, k, itself), sizes, strict=True):
        if wanted:
            last = min(wanted.values())
            tie = _TIE * (float(np.median(np.abs(list(wanted.values())))) + size)
            found = sum(name in wanted or abs(score - last) <= tie for name, score in mine.items())
            shares.append(min(found, len(wanted)) / len(wanted))
    return shares


def _pairs(hits: Hits, k: int, itself: bool) -> Iterator[dict[str, float]]:
    """Yield the scores of the first k documents of each query, without the query itself."""
    ids, scores = hits.arrays()
    for query_id, names, values in zip(hits.query_ids, ids.tolist(), scores.tolist(), strict=True):
        found = [
            (name, value)
            for name, value in zip(names, values, strict=True)
            if name is not None and not (itself and name == query_id)
        ]
        yield dict(found[:k])


# --- the curve ----------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 56


def files_of(tuning: Tuning, title: str) -> dict[str, bytes]:
    """Return the files that are saved with a tuned index: `tuning.json` and its curve, `tuning.svg`."""
    return {
        "tuning.json": msgspec.json.format(msgspec.json.encode(tuning), indent=1),
        "tuning.svg": svg(tuning, title).encode(),
    }


def svg(tuning: Tuning, title: str) -> str:
    """Draw recall against time: a point for each setting, a line through the best, the chosen one filled."""
    trials = sorted(tuning.trials, key=lambda trial: trial.milliseconds)
    low, high = (math.log10(max(trials[i].milliseconds, 1e-4)) for i in (0, -1))
    left, right, bottom = _MARGIN, _WIDTH - _MARGIN, _HEIGHT - _MARGIN

    def height(recall: float) -> float:
        return bottom - recall * (bottom - _MARGIN)

    def place(trial: Trial) -> tuple[float, float]:
        share = (math.log10(max(trial.milliseconds, 1e-4)) - low) / ((high - low) or 1)
        return left + share * (right - left), height(trial.recall)

    front, best, points = [], -1.0, []
    for trial in trials:
        x, y = place(trial)
        if trial.recall > best:
            front.append(f"{x:.1f},{y:.1f}")
            best = trial.recall
        fill = "#1b6ca8" if trial == tuning.chosen else "white"
        label = f"{trial.parameters}: recall {trial.recall:.3f}, {trial.milliseconds:.3g} ms"
        points.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="#1b6ca8">'
            f"<title>{escape(label)}</title></circle>"
        )
    ticks = [
        f'<text x="{left - 8}" y="{height(share) + 4:.1f}" font-size="11" text-anchor="end">{share}</text>'
        for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    chosen = tuning.chosen
    summary = (
        f"recall@{tuning.k} over {tuning.queries} queries; chosen: {chosen.parameters}, recall "
        f"{chosen.recall:.3f}, {chosen.milliseconds:.3g} ms a query"
    )
    first, last = trials[0].milliseconds, trials[-1].milliseconds
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif">
<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>
<text x="{left}" y="24" font-size="15">{escape(title)}</text>
<text x="{left}" y="42" font-size="12" fill="#555">{escape(summary)}</text>
<path d="M{left} {_MARGIN}V{bottom}H{right}" fill="none" stroke="#333"/>
{"".join(ticks)}
<text x="{left}" y="{bottom + 18}" font-size="11">{first:.3g} ms</text>
<text x="{right}" y="{bottom + 18}" font-size="11" text-anchor="end">{last:.3g} ms a query</text>
<path d="M{left} {height(tuning.target):.1f}H{right}" stroke="#999" stroke-dasharray="4 4"/>
<polyline points="{" ".join(front)}" fill="none" stroke="#1b6ca8" stroke-width="1.5"/>
{"".join(points)}
</svg>
"""
