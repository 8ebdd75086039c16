"""Choosing a FAISS factory by size, dimension, memory and the recall that is asked for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from o1_records import InputError

FLAT_ROWS = 100_000
"""Up to here an exact search of one query takes some milliseconds: nothing to win."""

GRAPH_ROWS = 2_000_000
"""Beyond, building a graph takes hours where inverted lists take minutes."""


@dataclass(frozen=True)
class Choice:
    """A factory, its search parameters to start from, the bytes it needs, and why it was chosen."""

    factory: str
    parameters: str
    size: int
    reason: str


def choose(rows: int, dim: int, *, recall: float = 0.95, memory: int | None = None) -> Choice:
    """Choose how to hold `rows` vectors of `dim` dimensions in `memory` bytes.

    `recall` is the share of the exact hits that should be found; 1 means exact. `memory` is half of
    this machine's by default. The parameters are where `o1-index tune` starts, not a promise.

    Raises InputError when nothing fits.
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall}; give more than 0 and at most 1")
    room = memory if memory is not None else _half_of_memory()
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
    """From the most exact to the smallest."""
    lists = 2 ** round(math.log2(4 * math.sqrt(max(rows, 1))))
    probes = max(1, round(lists * (0.04 if recall >= 0.95 else 0.02)))
    links = rows * 32 * 2 * 4
    codes = dim // 4 if dim % 4 == 0 else dim
    coded = rows * (codes + 8)
    flat = 4 * rows * dim
    choices = [
        Choice(
            "HNSW32,Flat",
            f"efSearch={128 if recall >= 0.95 else 64}",
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


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
