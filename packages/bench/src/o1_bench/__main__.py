"""The `o1-bench` command: get a collection, run models on it, score, compare, report, verify."""

from __future__ import annotations

import sys

import o1_bench
from o1_bench.commands import (
    bm25,
    compare,
    explore,
    export,
    fetch,
    leaderboard,
    report,
    run,
    score,
    table,
    verify,
)
from o1_records.kit.command import Program

main = Program(
    "o1-bench",
    {
        "fetch": (fetch, "build or download a collection"),
        "run": (run, "run a model on a suite of collections, with its controls"),
        "bm25": (bm25, "search a collection with BM25"),
        "score": (score, "score a run"),
        "compare": (compare, "test runs against a baseline, query by query"),
        "table": (table, "results as text, Markdown, LaTeX or CSV"),
        "report": (report, "write one HTML file about results"),
        "explore": (explore, "write one HTML file to look at single queries and their thoughts"),
        "leaderboard": (leaderboard, "published figures beside ours"),
        "export": (export, "write results as mteb, BEIR, FlagEmbedding or BRIGHT have them"),
        "verify": (verify, "recompute the metrics of results from their files"),
    },
    version=o1_bench.__version__,
    description=__doc__,
)

if __name__ == "__main__":
    sys.exit(main())
