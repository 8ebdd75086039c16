"""Memory of building an index from vector shards: peak against the size of the index.

python benchmarks/index_build.py [--rows 1000000] [--dim 1024] [--factory Flat]

Writes the shards into a temporary folder, then builds, saves and opens the index in processes of
their own; one JSON line each.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARD = 16_384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--factory", default="Flat")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    parser.add_argument("--step", choices=["write", "build", "open", "open-mapped"])
    args = parser.parse_args()
    if args.step:
        step(args)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name in ("write", "build", "open-mapped", "open"):
            options = ["--rows", str(args.rows), "--dim", str(args.dim), "--factory", args.factory]
            subprocess.run(
                [sys.executable, __file__, *options, "--folder", folder, "--step", name], check=True
            )


def step(args: argparse.Namespace) -> None:
    began = time.perf_counter()
    size = {"write": write, "build": build, "open": opened, "open-mapped": opened}[args.step](args)
    seconds = time.perf_counter() - began
    line = {
        "name": f"{args.step} {args.factory} {args.rows}x{args.dim}",
        "items": args.rows,
        "seconds": round(seconds, 3),
        "items_per_s": round(args.rows / seconds),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **size,
    }
    print(json.dumps(line), flush=True)


def write(args: argparse.Namespace) -> dict[str, float]:
    import numpy as np

    from o1_records.vectors import VectorWriter

    random = np.random.default_rng(0)
    writer = VectorWriter(args.folder / "vectors")
    for start in range(0, args.rows, SHARD):
        count = min(SHARD, args.rows - start)
        vectors = random.standard_normal((count, args.dim), dtype=np.float32)
        writer.write([f"doc-{start + row}" for row in range(count)], vectors)
    writer.close()
    return {}


def build(args: argparse.Namespace) -> dict[str, float]:
    from o1_index import build_from
    from o1_records.vectors import VectorSet

    build_from(VectorSet(args.folder / "vectors"), factory=args.factory).save(args.folder / "index")
    size = (args.folder / "index" / "v000001" / "index.faiss").stat().st_size
    return {"index_mb": size // 2**20}


def opened(args: argparse.Namespace) -> dict[str, float]:
    import numpy as np

    from o1_index import open_index

    began = time.perf_counter()
    index = open_index(args.folder / "index", mmap=args.step == "open-mapped")
    ready = time.perf_counter() - began
    index.search(np.ones((1, args.dim)), ["q"], k=10)
    first = time.perf_counter() - began
    began = time.perf_counter()
    index.search(np.ones((1, args.dim)), ["q"], k=10)
    return {
        "open_s": round(ready, 3),
        "first_answer_s": round(first, 3),
        "next_answer_s": round(time.perf_counter() - began, 3),
    }


if __name__ == "__main__":
    main()
