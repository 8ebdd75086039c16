"""Choosing how to hold vectors, by their number, their dimensions and the memory there is.

The number of lists is 8 times the root of that of the vectors, the middle of what FAISS's wiki recommends
("Guidelines to choose an index"): 262,144 for a billion, as in its "Indexing 1G vectors".
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

from o1_index.tuning import RECALL, refuse_no_recall
from o1_records import InputError

FLAT_ROWS = 100_000
"""Up to here an exact search of one query takes a few milliseconds: there is nothing to win."""

GRAPH_ROWS = 2_000_000
"""Beyond this, building a graph takes hours where inverted lists take minutes."""

POINTS = 39
"""The fewest training vectors for each inverted list before FAISS itself warns (its ClusteringParameters)."""


LINKS = 32 * 2 * 4 + 16
"""The bytes of a vector's links in the graph HNSW32."""

COARSE_LISTS = 65_536
"""From so many lists on, the nearest ones are looked for in a graph, as FAISS's guidelines have it."""


@dataclass(frozen=True)
class Choice:
    """A factory, the bytes that it needs, and why it was chosen."""

    factory: str
    size: int
    reason: str


def choose(rows: int, dim: int, *, recall: float = RECALL, memory: int | None = None) -> Choice:
    """Choose how to hold `rows` vectors of `dim` dimensions.

    Args:
        rows: vectors.
        dim: dimensions of each.
        recall: the share of the exact hits that should be found; 1 means exact.
        memory: bytes that the index may take; by default half of what this process may use.

    Raises InputError when nothing fits.
    """
    refuse_no_recall(recall)
    room = available_memory() // 2 if memory is None else memory
    flat = 4 * rows * dim
    exact = Choice("Flat", flat, f"exact: {rows:,} vectors take {_size(flat)}")
    if (rows <= FLAT_ROWS or recall == 1) and flat <= room:
        return exact
    if recall == 1:
        raise InputError(f"exact search of {rows:,} x {dim} needs {_size(flat)}, there is {_size(room)}")
    for choice in [*approximate(rows, dim, room), exact]:
        if choice.size <= room:
            return choice
    raise InputError(
        f"no factory holds {rows:,} x {dim} in {_size(room)}; split the collection, or give more memory"
    )


def approximate(rows: int, dim: int, room: int) -> list[Choice]:
    """Return the approximate factories, from the most exact to the smallest.

    Sizes are those of FAISS's files. The shares of the exact 100 hits that codes found, with every list
    visited, are those of `benchmarks/index_recall.py` (28,085 documents of 256 dimensions).
    """
    lists = 2 ** round(math.log2(8 * math.sqrt(max(rows, 1))))
    while lists > 1 and 4 * POINTS * lists * dim > room:  # the sample that trains them is held in memory, too
        lists //= 2
    graph = lists >= COARSE_LISTS
    ivf = f"IVF{lists}_HNSW32" if graph else f"IVF{lists}"
    centres = lists * (4 * dim + (LINKS if graph else 0))

    def held(factory: str, each: int, what: str) -> Choice:
        size = rows * (each + 8) + centres
        return Choice(factory, size, f"{what} in {lists:,} lists take {_size(size)}")

    choices = [
        held(f"{ivf},Flat", 4 * dim, "whole vectors"),
        held(
            f"{ivf},PQ{dim // 2}x4fs,Refine(SQ8)",
            dim // 4 + dim,
            "codes of 10 bits a dimension (recall@100 0.993)",
        ),
        held(f"{ivf},RaBitQfs4", dim // 2 + 20, "codes of 4 bits a dimension (recall@100 0.932)"),
        held(f"{ivf},PQ{dim // 2}x4fs", dim // 4, "codes of 2 bits a dimension (recall@100 0.787)"),
        held(f"{ivf},RaBitQfs", dim // 8 + 8, "codes of 1 bit a dimension (recall@100 0.604)"),
    ]
    if dim % 2:  # PQ divides the dimensions into pairs
        choices = [choice for choice in choices if ",PQ" not in choice.factory]
    if rows <= GRAPH_ROWS:
        size = rows * (4 * dim + LINKS)
        choices.insert(0, Choice("HNSW32,Flat", size, f"a graph of whole vectors takes {_size(size)}"))
    return choices


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def available_memory(root: str | Path = "/") -> int:
    """Return the bytes that this process may use: the machine's, or less where a cgroup says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    root = Path(root)
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return limits[0]
    for line in lines:  # "0::/some/group" (version 2), "4:memory:/some/group" (version 1)
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):  # a limit of any group above holds, too
            with contextlib.suppress(OSError, ValueError):  # absent at the top; "max" where there is none
                limits.append(int((folder / name).read_text()))
            if folder == top:
                break
    return min(limits)
