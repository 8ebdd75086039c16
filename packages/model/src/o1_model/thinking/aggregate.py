"""From v_q and the v_t of several thoughts to one vector a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from o1_model.encoding.encode import Vectors
from o1_model.encoding.pooling import normalise
from o1_model.thinking.decode import Trace
from o1_records import InputError

Weigh = Callable[[Sequence[Trace]], Sequence[float]]


def aggregate(
    v_q: Vectors,
    v_t: Sequence[Vectors],
    *,
    with_query: bool = False,
    weights: Sequence[Sequence[float]] | None = None,
) -> Vectors:
    """Return one unit vector a query: the mean of its v_t [samples, dim] (and of v_q), normalised again.

    The `weights` of a query's thoughts need not sum to one; v_q weighs as much as their mean. A query
    without thoughts keeps v_q.
    """
    shares = weights or [[1.0] * len(stack) for stack in v_t]
    means = [_mean(own, stack, share, with_query) for own, stack, share in zip(v_q, v_t, shares, strict=True)]
    if not means:
        return v_q
    return unit(np.stack(means))


def evenly(traces: Sequence[Trace]) -> list[float]:
    """Weigh all thoughts equally."""
    return [1.0] * len(traces)


def by_likelihood(traces: Sequence[Trace]) -> list[float]:
    """Weigh each thought by the geometric mean of its tokens' probabilities.

    By the probability of the whole thought, only the shortest would count. Raises InputError for thoughts
    whose likelihood is unknown: those that the caller brings or another engine wrote.
    """
    weights = []
    for trace in traces:
        if trace.log_likelihood is None:
            raise InputError("these thoughts have no likelihood; let the model write them, or weigh evenly")
        weights.append(float(np.exp(trace.log_likelihood / (len(trace.token_ids) + trace.finished))))
    return weights


def stacked(traces: Sequence[Sequence[Trace]]) -> list[Vectors]:
    """Return the v_t of each query: [samples, dim]; an empty array for a query without thoughts."""
    return [
        torch.stack([trace.vector for trace in row]).float().numpy() if row else np.empty((0, 0), np.float32)
        for row in traces
    ]


def apart(
    v_q: Vectors, v_t: Sequence[Vectors], names: Sequence[str], *, with_query: bool
) -> tuple[Vectors, list[str]]:
    """Return every v_t as a row of its own [rows, dim] and its query; v_q too if asked for or alone."""
    rows: list[Vectors] = []
    owners: list[str] = []
    for name, own, stack in zip(names, v_q, v_t, strict=True):
        vectors = [*stack, own] if with_query or not len(stack) else [*stack]
        rows += vectors
        owners += [name] * len(vectors)
    return np.stack(rows) if rows else v_q, owners


def truncated(vectors: Vectors, dim: int | None) -> Vectors:
    """Return the first `dim` numbers of each vector at unit length again (None: the vectors unchanged)."""
    if dim is None:
        return vectors
    if not 1 <= dim <= vectors.shape[-1]:
        raise InputError(f"truncate_dim must be between 1 and {vectors.shape[-1]}, got {dim}")
    return unit(vectors[..., :dim])


def unit(vectors: Vectors) -> Vectors:
    """Return the rows at unit length (zero rows stay zero)."""
    scaled: Tensor = normalise(torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)))
    return scaled.numpy()


def _mean(v_q: Vectors, v_t: Vectors, weights: Sequence[float], with_query: bool) -> Vectors:
    if not len(v_t):
        return v_q
    share = np.array(weights, dtype=np.float32) / np.mean(weights)
    total = share @ v_t + (v_q if with_query else 0)
    mean: Vectors = (total / (len(v_t) + with_query)).astype(np.float32)
    return mean
