"""Upload vectors to databases, and search there: seconds, and the share of the exact hits that come back.

    python benchmarks/index_databases.py lance:lances#docs qdrant:qdrants#docs [--rows 20000] [--dim 128]

The vectors are a mixture of 200 Gaussians, with other vectors as queries; each collection is filled twice, as
NAME_exact and NAME_graph. One JSON line a collection; where an engine has no graph, the line says why.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from o1_index.databases.database import open_store
from o1_index.databases.upload import upload
from o1_index.vectors import open_vectors
from o1_records import InputError
from o1_records.vectors import VectorWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("databases", nargs="+")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    centres = random.standard_normal((200, args.dim))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, rows in (("documents", args.rows), ("queries", 200)):
            vectors = centres[random.integers(200, size=rows)] + random.standard_normal((rows, args.dim))
            with VectorWriter(folder / what) as writer:
                writer.write([f"{what[0]}{row}" for row in range(rows)], vectors.astype(np.float32))
                writer.close()
        queries = open_vectors(folder / "queries")
        for place in args.databases:
            for kind in ("exact", "graph"):
                target = f"{place}_{kind}"
                try:
                    done = upload(
                        open_vectors(folder / "documents"),
                        target,
                        folder / f"{abs(hash(target))}.json",
                        queries=queries,
                        exact=kind == "exact",
                    )
                except InputError as error:
                    print(json.dumps({"database": target, "error": str(error)}), flush=True)
                    continue
                with open_store(target) as store:
                    began = time.perf_counter()
                    list(store.search(queries.load(), queries.ids(), k=100))
                    took = (time.perf_counter() - began) / len(queries)
                line = msgspec.to_builtins(done) | {"ms_a_query": round(1000 * took, 2)}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
