"""Scoring speed: `o1_bench.score` against pytrec_eval, on one random run, in one process.

    python benchmarks/score.py                                # 7,000 queries x 1,000 hits
    python benchmarks/score.py --queries 10000 --judged 1000  # 10 million judgements and as many hits

Prints one JSON line each for ours, for pytrec_eval and for ours with AP, which looks at whole
rankings, then the ratio; the values of both are compared first, and a difference is an error. Goals:
10 million judgements within 60 s, and no slower than pytrec_eval.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time

import pytrec_eval

from o1_bench import score
from o1_bench.score import by_query, parse_measure

MEASURES = {"nDCG@10": "ndcg_cut_10", "R@100": "recall_100", "RR@10": "recip_rank"}


def random_run(args):
    rng = random.Random(args.seed)
    doc_ids = [f"doc{number}" for number in range(args.documents)]
    run, qrels = {}, {}
    for number in range(args.queries):
        found = rng.sample(doc_ids, args.hits)
        run[f"query{number}"] = {doc_id: rng.randrange(10**6) / 1e6 for doc_id in found}
        judged = found[:: max(1, args.hits // args.judged)][: args.judged]
        qrels[f"query{number}"] = {doc_id: rng.randrange(3) for doc_id in judged}
    return run, qrels


def timed(name, items, work):
    """Time one piece of work; the peak is the process's so far, so the smaller one goes first."""
    began = time.perf_counter()
    value = work()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {
        "name": name,
        "items": items,
        "seconds": round(seconds, 3),
        "items_per_s": round(items / seconds),
        "peak_rss_mb": round(peak),
    }
    print(json.dumps(line), flush=True)
    return value, seconds


def refuse_differences(ours, trec):
    for measure in ("nDCG@10", "R@100"):
        for query_id, value in ours[measure].items():
            if abs(value - trec[query_id][MEASURES[measure]]) > 1e-6:
                sys.exit(f"{measure} of {query_id}: {value} here, {trec[query_id][MEASURES[measure]]} there")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=7000)
    parser.add_argument("--hits", type=int, default=1000, help="of a query")
    parser.add_argument("--judged", type=int, default=50, help="documents of a query")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run, qrels = random_run(args)
    items = args.queries * args.hits
    shape = f"{args.queries} x {args.hits} hits, {args.queries * args.judged} judgements"
    measures = [parse_measure(name) for name in MEASURES]
    metrics, ours = timed(f"o1_bench.score, {shape}", items, lambda: score(qrels, run, measures=measures))
    evaluator = pytrec_eval.RelevanceEvaluator
    names = set(MEASURES.values())
    trec, theirs = timed(f"pytrec_eval, {shape}", items, lambda: evaluator(qrels, names).evaluate(run))
    refuse_differences(by_query(metrics), trec)
    whole = [*measures, parse_measure("AP")]
    timed(f"o1_bench.score with AP, {shape}", items, lambda: score(qrels, run, measures=whole))
    print(json.dumps({"name": "pytrec_eval's seconds / ours", "ratio": round(theirs / ours, 2)}))


if __name__ == "__main__":
    main()
