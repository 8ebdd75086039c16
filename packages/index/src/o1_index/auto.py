"""Choosing how to hold vectors, by their number, their dimensions and the memory there is."""

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
    for choice in [*_approximate(rows, dim, room), exact]:
        if choice.size <= room:
            return choice
    raise InputError(
        f"no factory holds {rows:,} x {dim} in {_size(room)}; split the collection, or give more memory"
    )


def _approximate(rows: int, dim: int, room: int) -> list[Choice]:
    """Return the approximate factories, from the most exact to the smallest."""
    lists = _lists(rows, dim, room)
    flat, coded = 4 * rows * dim, rows * (dim // 4 + 8)
    choices = [
        Choice("HNSW32,Flat", flat + rows * 32 * 2 * 4, "a graph"),
        Choice(f"{lists},Flat", flat + 8 * rows, "lists"),
        Choice(f"{lists},PQ{dim // 2}x4fs,Refine(SQ8)", coded + rows * dim, "codes with refinement"),
        Choice(f"{lists},PQ{dim // 2}x4fs", coded, "codes"),
    ]
    return choices if rows <= GRAPH_ROWS else choices[1:]


def _lists(rows: int, dim: int, room: int) -> str:
    return f"IVF{2 ** round(math.log2(4 * math.sqrt(max(rows, 1))))}"


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
