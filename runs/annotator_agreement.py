"""How well annotators agree: counts of (query, large score, small score) and what follows from them.

Everything is a function of these counts, so an interval comes of drawing queries again: the documents
of one query are not independent, and a query brings all of its pairs or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pair: TypeAlias = tuple[str, str]  # query_id, doc_id
Counts: TypeAlias = NDArray[np.int64]  # [..., 5, 6]: the large score, then the small score or none
Interval: TypeAlias = tuple[float, float, float]
Measure: TypeAlias = Callable[[Counts], NDArray[np.float64]]

SCORES, POSITIVE = 5, 3  # 1 to 5; from 3 on a document is a positive (ReasonEmbed, section 3.3)
DRAWS = 2000


def counted(large: Mapping[Pair, int], small: Mapping[Pair, int]) -> Counts:
    """The pairs that the large one scored, counted: [queries, 5, 6], queries in order of their ids."""
    places = {query_id: place for place, query_id in enumerate(sorted({pair[0] for pair in large}))}
    counts = np.zeros((len(places), SCORES, SCORES + 1), dtype=np.int64)
    for pair, score in large.items():
        counts[places[pair[0]], score - 1, small.get(pair, SCORES + 1) - 1] += 1
    return counts


def exact(counts: Counts) -> NDArray[np.float64]:
    """The share of the large one's pairs with the same score; no score is another score."""
    same = np.trace(counts[..., :SCORES], axis1=-2, axis2=-1)
    return np.asarray(same / counts.sum((-2, -1)), dtype=np.float64)


def label(counts: Counts) -> NDArray[np.float64]:
    """The share of them with the same label, positive or negative; no score is neither."""
    cut = POSITIVE - 1
    negative = counts[..., :cut, :cut].sum((-2, -1))
    positive = counts[..., cut:, cut:SCORES].sum((-2, -1))
    return np.asarray((negative + positive) / counts.sum((-2, -1)), dtype=np.float64)


def kappa(counts: Counts) -> NDArray[np.float64]:
    """Cohen's kappa with quadratic weights (1968), of the pairs that both scored.

    0 is what chance gives, 1 full agreement; NaN where both always gave the same one score, or none.
    """
    both = counts[..., :SCORES].astype(np.float64)
    scores = np.arange(SCORES)
    weights = (scores[:, None] - scores) ** 2
    chance = both.sum(-1)[..., :, None] * both.sum(-2)[..., None, :]
    observed, expected = (weights * both).sum((-2, -1)), (weights * chance).sum((-2, -1))
    out = np.full(observed.shape, np.nan)
    np.divide(observed * both.sum((-2, -1)), expected, out=out, where=expected > 0)
    return 1 - out


def with_interval(measure: Measure, counts: Counts, other: Counts | None = None) -> Interval | None:
    """Value, low, high of a measure, or of its difference to `other`'s; None where it is not defined.

    The 95 % percentile bootstrap over queries; draws in which it is not defined are left out. Every
    call draws the same queries, so a difference is paired.
    """
    rng = np.random.default_rng(0)
    queries = len(counts)
    draws = rng.multinomial(queries, np.full(queries, 1 / queries), size=DRAWS)

    def on(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        value = measure(np.tensordot(weights, counts, 1))
        return value if other is None else value - measure(np.tensordot(weights, other, 1))

    value, drawn = float(on(np.ones(queries, dtype=np.int64))), on(draws)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not drawn.size:
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value, float(low), float(high)
