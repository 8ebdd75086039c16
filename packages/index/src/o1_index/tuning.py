"""Choosing how to hold vectors by their number, and search parameters by measuring recall and time."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index.engine import new_engine, parameter_values
from o1_index.hits import Hits, Names
from o1_index.index import Index
from o1_index.store.manifest import Settings, fingerprint
from o1_index.vectors import Vectors
from o1_records import InputError, Record
from o1_records.vectors import VectorSet

RECALL = 0.95
"""The share of the exact hits that is aimed at, unless said otherwise."""

# --- the factory --------------------------------------------------------------------------------------

FLAT_ROWS = 100_000
"""Up to here an exact search of one query takes a few milliseconds: there is nothing to win."""

GRAPH_ROWS = 2_000_000
"""Beyond this, building a graph takes hours where inverted lists take minutes."""


@dataclass(frozen=True)
class Choice:
    """A factory, its search parameters to start from, the bytes that it needs, and why it was chosen."""

    factory: str
    parameters: str
    size: int
    reason: str


def choose_factory(rows: int, dim: int, *, recall: float = RECALL, memory: int | None = None) -> Choice:
    """Choose how to hold `rows` vectors of `dim` dimensions.

    Args:
        rows: vectors.
        dim: dimensions of each.
        recall: the share of the exact hits that should be found; 1 means exact.
        memory: bytes that the index may take; by default half of this machine's memory.

    The search parameters of the choice are where `o1-index tune` starts, not a promise.

    Raises InputError when nothing fits.
    """
    refuse_no_recall(recall)
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    room = half if memory is None else memory
    flat = 4 * rows * dim
    exact = Choice("Flat", "", flat, f"exact: {rows:,} vectors take {_size(flat)}")
    if (rows <= FLAT_ROWS or recall == 1) and flat <= room:
        return exact
    if recall == 1:
        raise InputError(f"exact search of {rows:,} x {dim} needs {_size(flat)}, there is {_size(room)}")
    for choice in [*_approximate(rows, dim, recall), exact]:
        if choice.size <= room:
            return choice
    raise InputError(
        f"no factory holds {rows:,} x {dim} in {_size(room)}; split the collection, or give more memory"
    )


def _approximate(rows: int, dim: int, recall: float) -> list[Choice]:
    """Return the approximate factories, from the most exact to the smallest."""
    lists = 2 ** round(math.log2(4 * math.sqrt(max(rows, 1))))
    probes = max(1, round(lists * (0.04 if recall >= RECALL else 0.02)))
    links = rows * 32 * 2 * 4
    codes = dim // 4 if dim % 4 == 0 else dim
    coded = rows * (codes + 8)
    flat = 4 * rows * dim
    choices = [
        Choice(
            "HNSW32,Flat",
            f"efSearch={128 if recall >= RECALL else 64}",
            flat + links,
            f"a graph: fastest at high recall, up to {GRAPH_ROWS:,} vectors; {_size(flat + links)}",
        ),
        Choice(
            f"IVF{lists},Flat",
            f"nprobe={probes}",
            flat + 8 * rows,
            f"{lists} inverted lists of whole vectors: {_size(flat + 8 * rows)}",
        ),
        Choice(
            f"IVF{lists},PQ{codes},Refine(SQ8)",
            f"nprobe={probes},k_factor_rf=4",
            coded + rows * dim,
            f"whole vectors need {_size(flat)}; codes with refinement {_size(coded + rows * dim)}",
        ),
        Choice(
            f"IVF{lists},PQ{codes}",
            f"nprobe={probes}",
            coded,
            f"only codes fit: {_size(coded)}; expect a recall well below {recall}",
        ),
    ]
    return choices if rows <= GRAPH_ROWS else choices[1:]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def refuse_no_recall(recall: float) -> None:
    """Raise InputError for a number that is no share of hits."""
    if not 0 < recall <= 1:
        raise InputError(f"recall must be above 0 and at most 1, got {recall}")


# --- the search parameters ----------------------------------------------------------------------------


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


def tune_from(
    index: Index,
    documents: VectorSet,
    queries: VectorSet,
    *,
    k: int = 10,
    target: float = RECALL,
    most: int = 200,
) -> Tuning:
    """Tune an index with folders of vectors: those that it was built from, and queries.

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
    step = -(-len(queries) // most)
    ids, vectors = queries.ids()[::step], queries.load()[::step]
    exact = exact_hits(documents, vectors, ids, k=k, like=index)
    return tune(index, vectors, ids, exact, k=k, target=target)


def tune(
    index: Index,
    query_vectors: Vectors,
    query_ids: Sequence[str],
    exact: Hits,
    *,
    k: int = 10,
    target: float = RECALL,
    repeats: int = 2,
) -> Tuning:
    """Try every setting that FAISS offers for the factory, and set the fastest that finds enough.

    `exact` are the exact k hits of the same queries (`exact_hits`). Where no setting reaches a recall of
    `target`, the one with the highest recall is set.

    Raises InputError for an index without search parameters (Flat).
    """
    refuse_no_recall(target)
    values = parameter_values(index.engine)
    if not values:
        raise InputError(f"factory {index.settings.factory!r} has no search parameters; nothing to tune")
    wanted = _found(exact)
    trials = []
    for combination in itertools.product(*values.values()):
        parameters = ",".join(f"{name}={value}" for name, value in zip(values, combination, strict=True))
        index.set_parameters(parameters)
        best = float("inf")
        for _ in range(repeats):
            began = time.perf_counter()
            hits = index.search(query_vectors, query_ids, k=k)
            best = min(best, time.perf_counter() - began)
        shares = [
            len(mine & all_) / len(all_) for mine, all_ in zip(_found(hits), wanted, strict=True) if all_
        ]
        recall = float(np.mean(shares)) if shares else 1.0
        milliseconds = 1000 * best / max(len(query_ids), 1)
        trials.append(Trial(parameters=parameters, recall=recall, milliseconds=milliseconds))
    chosen = choose_trial(trials, target)
    index.set_parameters(chosen.parameters)
    return Tuning(k=k, queries=len(query_ids), target=target, trials=tuple(trials), chosen=chosen)


def choose_trial(trials: Sequence[Trial], target: float) -> Trial:
    """Return the fastest trial that reaches the target; else the one with the highest recall."""
    enough = [trial for trial in trials if trial.recall >= target]
    if enough:
        return min(enough, key=lambda trial: trial.milliseconds)
    return max(trials, key=lambda trial: (trial.recall, -trial.milliseconds))


def exact_hits(
    documents: VectorSet, query_vectors: Vectors, query_ids: Sequence[str], *, k: int, like: Index
) -> Hits:
    """Return the exact hits of queries in a folder of vectors, with one shard in memory at a time."""
    ids: list[str] = documents.ids()
    rows = np.full((len(query_ids), 0), -1, dtype=np.int64)
    scores = np.zeros((len(query_ids), 0), dtype=np.float32)
    start = 0
    for names, vectors in documents.shards():
        flat = Settings(metric=like.settings.metric)
        shard = Index(new_engine(documents.manifest.dim, flat.factory), Names(()), flat)
        shard.add(vectors, names)
        hits = shard.search(query_vectors, query_ids, k=k)
        rows = np.concatenate([rows, np.where(hits.rows >= 0, hits.rows + start, -1)], axis=1)
        scores = np.concatenate([scores, hits.scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        start += len(names)
    every: NDArray[np.object_] = np.empty(len(ids), dtype=object)
    every[:] = ids
    return Hits(query_ids, every, rows, scores)


def _found(hits: Hits) -> list[set[str]]:
    ids, _ = hits.arrays()
    return [{str(name) for name in row if name is not None} for row in ids]


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
