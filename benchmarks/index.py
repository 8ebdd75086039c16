"""Search through o1-index against raw faiss at the same parameters, in one run.

python benchmarks/index.py [--rows 100000] [--dim 256] [--factory Flat] [--k 10 1000] [--batch 1 64 1024]

One JSON line for each of ours and the baseline, then their ratio; then the cost of records over
arrays, and the time from opening the saved index to its first answer, mapped and not. Runs of the
two alternate, so that a busy machine disturbs both.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import faiss
import numpy as np

from o1_index import build, open_index


def main() -> None:
    args = arguments()
    random = np.random.default_rng(0)
    vectors = random.normal(size=(args.rows, args.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = random.normal(size=(max(args.batch), args.dim)).astype(np.float32)
    index = build(vectors, [f"doc-{row}" for row in range(args.rows)], factory=args.factory)
    index.set_parameters(args.parameters)
    names = [f"q{row}" for row in range(len(queries))]
    for k in args.k:
        for batch in args.batch:
            compare_search(index, queries[:batch], names[:batch], k, args)
    compare_records(index, queries[:64], names[:64])
    compare_opening(index, queries[:1], args)


def compare_search(index, queries, names, k: int, args: argparse.Namespace) -> None:
    repeats = args.repeats * max(1, 256 // len(queries))  # short calls are noisy
    ours, raw = alternating(
        lambda: index.search(queries, names, k=k), lambda: index.engine.search(queries, k), repeats
    )
    what = f"search {args.factory} {args.rows}x{args.dim} k={k} batch={len(queries)}"
    figures(what, len(queries), {"o1-index": ours, "faiss": raw})


def compare_records(index, queries, names) -> None:
    hits = index.search(queries, names, k=100)
    records, arrays = alternating(lambda: list(hits), hits.arrays, 7)
    figures("100 hits of 64 queries as records", len(hits), {"records": records, "arrays": arrays})


def compare_opening(index, query, args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        raw = Path(folder) / "raw.faiss"
        faiss.write_index(index.engine, str(raw))
        seconds = {"faiss.read_index": timed(lambda: faiss.read_index(str(raw)).search(query, 10))}
        for name, mmap in (("checked", False), ("mapped, checked at the first answer", True)):
            began = time.perf_counter()
            opened = open_index(Path(folder) / "index", mmap=mmap)
            seconds[f"o1-index {name}: open"] = time.perf_counter() - began
            opened.search(query, ["q"], k=10)
            seconds[f"o1-index {name}: first answer"] = time.perf_counter() - began
        figures(f"open {args.rows}x{args.dim}", 1, seconds, ratio=False)


def alternating(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> tuple[float, float]:
    """Median seconds of each; the two take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for call, seconds in zip((first, second), times, strict=True):
            seconds.append(timed(call))
    return median(times[0][1:]), median(times[1][1:])


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def figures(what: str, items: int, seconds: dict[str, float], *, ratio: bool = True) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for name, value in seconds.items():
        rate = round(items / value, 1)
        line = {"name": f"{what}: {name}", "items": items, "seconds": round(value, 6), "items_per_s": rate}
        print(json.dumps({**line, "peak_rss_mb": peak}), flush=True)
    if ratio:
        first, second = list(seconds.values())[:2]
        print(json.dumps({"name": f"{what}: ratio of times", "ratio": round(first / second, 3)}), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--factory", default="Flat")
    parser.add_argument("--parameters", default="")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
