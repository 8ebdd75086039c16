"""Choosing search parameters by measuring them: recall against exact search, and time.

Every setting that FAISS offers for the factory is tried on a sample of real queries; the fastest
that finds enough becomes the index's own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from o1_index.build import build
from o1_index.engine import parameter_values
from o1_index.hits import Hits
from o1_index.index import Index
from o1_index.vectors import Vectors
from o1_records import InputError, Record
from o1_records.vectors import VectorSet


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
    trials: tuple[Trial, ...]
    chosen: Trial


def tune(
    index: Index,
    query_vectors: Vectors,
    query_ids: Sequence[str],
    exact: Hits,
    *,
    k: int = 10,
    target: float = 0.95,
    repeats: int = 2,
) -> Tuning:
    """Try every setting, set the fastest with a recall of `target` or more, and say what was seen.

    `exact` are the exact k hits of the same queries (`exact_hits`). Where no setting finds enough,
    the one that finds most is chosen. Raises InputError for an index without settings (Flat).
    """
    settings = list(_settings(index))
    if not settings:
        raise InputError(f"factory {index.settings.factory!r} has no search parameters; nothing to tune")
    wanted = _found(exact)
    trials = []
    for parameters in settings:
        index.set_parameters(parameters)
        best = float("inf")
        for _ in range(repeats):
            began = time.perf_counter()
            hits = index.search(query_vectors, query_ids, k=k)
            best = min(best, time.perf_counter() - began)
        recall = _recall(_found(hits), wanted)
        milliseconds = 1000 * best / max(len(query_ids), 1)
        trials.append(Trial(parameters=parameters, recall=recall, milliseconds=milliseconds))
    chosen = choose(trials, target)
    index.set_parameters(chosen.parameters)
    return Tuning(k=k, queries=len(query_ids), target=target, trials=tuple(trials), chosen=chosen)


def choose(trials: Sequence[Trial], target: float) -> Trial:
    """The fastest trial that reaches the target; else the one with the highest recall."""
    enough = [trial for trial in trials if trial.recall >= target]
    if enough:
        return min(enough, key=lambda trial: trial.milliseconds)
    return max(trials, key=lambda trial: (trial.recall, -trial.milliseconds))


def exact_hits(
    documents: VectorSet, query_vectors: Vectors, query_ids: Sequence[str], *, k: int, like: Index
) -> Hits:
    """The exact hits of queries over a folder of vectors, one shard in memory at a time."""
    ids: list[str] = documents.ids()
    metric = like.settings.metric
    rows = np.full((len(query_ids), 0), -1, dtype=np.int64)
    scores = np.zeros((len(query_ids), 0), dtype=np.float32)
    start = 0
    for names, vectors in documents.shards():
        hits = build(vectors, names, metric=metric).search(query_vectors, query_ids, k=k)
        rows = np.concatenate([rows, np.where(hits.rows >= 0, hits.rows + start, -1)], axis=1)
        scores = np.concatenate([scores, hits.scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        start += len(names)
    every: NDArray[np.object_] = np.empty(len(ids), dtype=object)
    every[:] = ids
    return Hits(query_ids, every, rows, scores)


def _settings(index: Index) -> Iterator[str]:
    values = parameter_values(index.engine)
    if values:
        for combination in itertools.product(*values.values()):
            yield ",".join(f"{name}={value}" for name, value in zip(values, combination, strict=True))


def _found(hits: Hits) -> list[set[str]]:
    ids, _ = hits.arrays()
    return [{str(name) for name in row if name is not None} for row in ids]


def _recall(found: Sequence[set[str]], wanted: Sequence[set[str]]) -> float:
    shares = [len(a & b) / len(b) for a, b in zip(found, wanted, strict=True) if b]
    return float(np.mean(shares)) if shares else 1.0
