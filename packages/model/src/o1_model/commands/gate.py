"""`o1-model gate`: learn for which queries thinking pays, to a compute budget."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from o1_model.commands import options
from o1_model.gate import Point, calibrate, curve
from o1_records import Hit, InputError, Metric, open_queries, read_jsonl
from o1_records.trec import read_run

BUDGETS = [tenth / 10 for tenth in range(11)]


def declare(command: argparse.ArgumentParser) -> None:
    """Whose signals, and what thinking gained."""
    options.model(command)
    add = command.add_argument
    add("--queries", required=True, help="BEIR folder or JSONL of Query records")
    add("--split", help="of a BEIR folder, only the queries this split judges")
    add("--without", required=True, help="`o1-bench score --per-query` of v_q's run: JSONL of Metric records")
    add("--with", required=True, dest="thinking", help="the same of the thinking run")
    add("--measure", default="nDCG@10", help="what is to gain (default nDCG@10)")
    add("--hits", help="v_q's run, TREC or JSONL of Hit records: the gate may look at its margins")
    add("--budget", type=float, default=0.3, help="share of the queries that may think (default 0.3)")
    add("--out", required=True, help="the gate, for `o1-model embed --think --gate`")


def run(args: argparse.Namespace) -> int:
    """Write the gate; print quality against budget as a table."""
    without, thinking = (_values(path, args.measure) for path in (args.without, args.thinking))
    gains = {
        query_id: thinking[query_id] - value for query_id, value in without.items() if query_id in thinking
    }
    embedder = options.load(args)
    queries = [query for query in open_queries(args.queries, args.split) if query.query_id in gains]
    if not queries:
        raise InputError(f"{args.without}, {args.thinking}: no query of {args.queries} is scored in both")
    signals = embedder.signals(queries)
    if args.hits:
        known = margins_of(args.hits)
        signals = [replace(signal, margin=known.get(signal.query_id)) for signal in signals]
    gate = calibrate(signals, gains, args.budget)
    gate.save(args.out)
    base = sum(without[query.query_id] for query in queries) / len(queries)
    sys.stdout.write(table(curve(signals, gains, BUDGETS), base, args.measure))
    print(f"{args.out}: {gate}", file=sys.stderr)
    return 0


def table(points: Iterable[Point], base: float, measure: str) -> str:
    """Quality (not gain) at each budget, tab-separated."""
    rows = [f"budget\t{measure}, gate\theld out\trandom\toracle\n"]
    for point in points:
        values = (base + gain for gain in (point.gate, point.held_out, point.random, point.oracle))
        rows.append("\t".join([f"{point.budget:.1f}", *(f"{value:.4f}" for value in values)]) + "\n")
    return "".join(rows)


def margins_of(path: str) -> dict[str, float]:
    """How far each query's best hit is above its second one (above 0 where it is alone)."""
    hits = read_jsonl(path, Hit) if Path(path).suffix == ".jsonl" else read_run(path)
    best: dict[str, list[float]] = {}
    for hit in hits:
        best[hit.query_id] = sorted([*best.get(hit.query_id, []), hit.score], reverse=True)[:2]
    return {query_id: scores[0] - sum(scores[1:]) for query_id, scores in best.items()}


def _values(path: str, measure: str) -> dict[str, float]:
    values = {
        metric.query_id: metric.value
        for metric in read_jsonl(path, Metric)
        if metric.measure == measure and metric.query_id is not None
    }
    if not values:
        raise InputError(f"{path}: no {measure} of single queries; `o1-bench score --per-query` writes it")
    return values
