"""Retrieval benchmarks that anyone can check: trec_eval scores, significance, one report.

```python
>>> from o1_bench import paired_test, score
>>> metrics = score({"q1": {"d2": 1}}, {"q1": {"d1": 0.9, "d2": 0.8}})
>>> [(metric.measure, round(metric.value, 3)) for metric in metrics if metric.query_id is None]
[('nDCG@10', 0.631), ('RR@10', 0.5), ('R@100', 1.0)]
>>> paired_test({"q1": 0.6, "q2": 0.5}, {"q1": 0.5, "q2": 0.5}).wins
1

```
"""

from o1_bench._partly import PartlyDoneError
from o1_bench.collection import Collection
from o1_bench.compare import paired_test
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.stdlib import build_stdlib
from o1_bench.datasets.suites import fetch, load_collection
from o1_bench.reporting.explore import explore
from o1_bench.reporting.leaderboard import leaderboard
from o1_bench.reporting.page import report, write_report
from o1_bench.results.result import Result, load_result, load_results, save_result
from o1_bench.results.runs import compare_runs, score_run
from o1_bench.results.verify import verify_results
from o1_bench.running.evaluate import evaluate
from o1_bench.running.pipeline import Pipeline
from o1_bench.running.retrieve import write_bm25_run
from o1_bench.running.run import run
from o1_bench.running.systems import Options, ThinkingModel
from o1_bench.score import score

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Options",
    "PartlyDoneError",
    "Pipeline",
    "Result",
    "ThinkingModel",
    "build_stdlib",
    "compare_runs",
    "evaluate",
    "explore",
    "fetch",
    "leaderboard",
    "load_beir",
    "load_collection",
    "load_result",
    "load_results",
    "paired_test",
    "report",
    "run",
    "save_result",
    "score",
    "score_run",
    "verify_results",
    "write_bm25_run",
    "write_report",
]
