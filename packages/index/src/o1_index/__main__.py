"""The `o1-index` command: build an index of vectors, tune, change and search it."""

from __future__ import annotations

import sys

from o1_index import __version__
from o1_index.commands import (
    add,
    build,
    compact,
    export,
    fuse,
    hybrid,
    info,
    merge,
    remove,
    search,
    serve,
    serve_from,
    shards,
    tune,
)
from o1_records.kit.command import Program

main = Program(
    "o1-index",
    {
        "build": (build, "build an index of vectors, or take over a FAISS file"),
        "tune": (tune, "measure search parameters and keep the best"),
        "shards": (shards, "build an index of each part, in several processes or on several machines"),
        "merge": (merge, "merge indexes that were built alike into one"),
        "add": (add, "add documents, or replace them"),
        "remove": (remove, "remove documents"),
        "compact": (compact, "free the room of removed documents"),
        "info": (info, "show what an index holds"),
        "export": (export, "put vectors into a vector database, or those of an index into a folder"),
        "search": (search, "search an index and write a TREC run"),
        "hybrid": (hybrid, "search with vectors and BM25, fuse, and write a TREC run"),
        "fuse": (fuse, "fuse TREC runs, or merge those of shards"),
        "serve": (serve, "answer searches over HTTP"),
        "serve-from": (serve_from, "answer searches over HTTP from a vector database"),
    },
    version=__version__,
    description=__doc__,
)

if __name__ == "__main__":
    sys.exit(main())
