"""What a small change of a large index costs: one document replaced, saved, and found again.

python benchmarks/index_change.py [--rows 1000000] [--dim 32] [--changes 20]

One JSON line: milliseconds of processor time for `upsert` and for `save`, bytes that a save writes, bytes of
memory for each id, and the time of a search before, after the changes, and after `compact`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from o1_index import build, open_index
from o1_index.documents import Documents


def main() -> None:
    args = arguments()
    random = np.random.default_rng(0)
    vectors = random.normal(size=(args.rows, args.dim)).astype(np.float32)
    queries = random.normal(size=(16, args.dim)).astype(np.float32)
    names = [f"q{row}" for row in range(16)]
    tracemalloc.start()
    starts = range(0, args.rows, 1000)
    documents = Documents.of([f"doc-{row}" for row in range(start, start + 1000)] for start in starts)
    held = tracemalloc.get_traced_memory()[0] / len(documents)
    tracemalloc.stop()
    del documents
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "index"
        build(vectors, [f"doc-{row}" for row in range(args.rows)]).save(place)
        index = open_index(place)
        search = lambda: index.search(queries, names, k=10)  # noqa: E731
        search()
        before = median(timed(search) for _ in range(5))
        upserts, saves, written = [], [], 0
        for change in range(args.changes):
            vector = random.normal(size=(1, args.dim)).astype(np.float32)
            upserts.append(
                timed(lambda vector=vector, change=change: index.upsert(vector, [f"doc-{change}"]))
            )
            saves.append(timed(lambda: index.save(place)))
        newest = max(place.glob("v*"))
        written = sum(path.stat().st_size for path in newest.iterdir())
        whole = sum(path.stat().st_size for path in (place / "v000001").iterdir())
        after = median(timed(search) for _ in range(5))
        compacting = timed(index.compact)
        search()
        compacted = median(timed(search) for _ in range(5))
    figures = {
        "rows": args.rows,
        "upsert_cpu_ms": 1000 * median(upserts),
        "save_cpu_ms": 1000 * median(saves),
        "bytes_written": written,
        "bytes_of_the_index": whole,
        "bytes_of_memory_per_id": held,
        "search_cpu_ms": [1000 * each for each in (before, after, compacted)],
        "compact_cpu_ms": 1000 * compacting,
    }
    print(json.dumps({name: rounded(value) for name, value in figures.items()}))


def rounded(value: float | list[float]) -> float | list[float]:
    return [round(each, 2) for each in value] if isinstance(value, list) else round(value, 2)


def timed(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--changes", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()
