"""The `o1-index` command: build an index of vectors, tune, change and search it."""

from __future__ import annotations

import sys

from o1_index import __version__
from o1_index.commands import add, build, hybrid, remove, search, tune
from o1_records.kit.command import Program

main = Program(
    "o1-index",
    {
        "build": (build, "build an index of a folder of vectors"),
        "tune": (tune, "measure search parameters and keep the best"),
        "add": (add, "add the documents of a folder of vectors, or replace them"),
        "remove": (remove, "remove documents"),
        "search": (search, "search an index and write a TREC run"),
        "hybrid": (hybrid, "search with vectors and BM25, fuse, and write a TREC run"),
    },
    version=__version__,
    description=__doc__,
)

if __name__ == "__main__":
    sys.exit(main())
