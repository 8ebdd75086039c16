"""From v_q and the v_t of several thoughts to one vector a query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from o1_model.pooling import normalise
from o1_model.think import Trace

Vectors = NDArray[np.float32]


def aggregate(v_q: Vectors, v_t: Sequence[Vectors], *, with_query: bool = False) -> Vectors:
    """One unit vector a query: the mean of its v_t [samples, dim] (and of v_q), normalised again.

    A query without thoughts keeps v_q.
    """
    means = [
        np.vstack([stack, own[None]] if with_query or not len(stack) else [stack]).mean(axis=0)
        for own, stack in zip(v_q, v_t, strict=True)
    ]
    if not means:
        return v_q
    unit: Tensor = normalise(torch.from_numpy(np.stack(means).astype(np.float32)))
    return unit.numpy()


def stacked(traces: Sequence[Sequence[Trace]]) -> list[Vectors]:
    """The v_t of each query: [samples, dim]."""
    return [torch.stack([trace.vector for trace in row]).float().numpy() for row in traces]
