"""Retrieval benchmarks that anyone can check: trec_eval scores, significance, one report.

>>> from o1_bench import paired_test, score
>>> metrics = score({"q1": {"d2": 1}}, {"q1": {"d1": 0.9, "d2": 0.8}})
>>> [(metric.measure, round(metric.value, 3)) for metric in metrics if metric.query_id is None]
[('nDCG@10', 0.631), ('RR@10', 0.5), ('R@100', 1.0)]
>>> paired_test({"q1": 0.6, "q2": 0.5}, {"q1": 0.5, "q2": 0.5}).wins
1
"""

from o1_bench.collection import Collection
from o1_bench.compare import paired_test
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.stdlib import build_stdlib
from o1_bench.evaluate import evaluate
from o1_bench.pipeline import Pipeline
from o1_bench.report import write_report
from o1_bench.result import Result, load_result, save_result
from o1_bench.score import score

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Pipeline",
    "Result",
    "build_stdlib",
    "evaluate",
    "load_beir",
    "load_result",
    "paired_test",
    "save_result",
    "score",
    "write_report",
]
