"""Scoring a run: `o1_bench.score` against pytrec_eval, ir_measures and ranx; nDCG@10, R@100 and RR@10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from harness import Arrays, Job, Side, Size, Work, main, refuse_difference

MEASURES = {
    "nDCG@10": ("ndcg_cut_10", "ndcg@10"),
    "R@100": ("recall_100", "recall@100"),
    "RR@10": ("recip_rank", "mrr@10"),
}


def prepare(folder: Path, size: Size) -> None:
    """Write a random run and judgements of every n-th hit; all scores of a query differ."""
    random = np.random.default_rng(0)
    run, qrels = {}, {}
    for number in range(size["queries"]):
        documents = random.choice(size["documents"], size["hits"], replace=False).tolist()
        scores = (random.permutation(size["hits"]) / size["hits"]).tolist()
        judged = documents[:: max(1, size["hits"] // size["judged"])][: size["judged"]]
        grades = random.integers(0, 3, len(judged)).tolist()
        run[f"q{number}"] = {f"d{name}": score for name, score in zip(documents, scores, strict=True)}
        qrels[f"q{number}"] = {f"d{name}": grade for name, grade in zip(judged, grades, strict=True)}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "qrels.json").write_text(json.dumps(qrels))


def inputs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return tuple(json.loads((folder / f"{name}.json").read_text()) for name in ("run", "qrels"))  # type: ignore[return-value]


def ours(folder: Path, _size: Size) -> Work:
    from o1_bench import score
    from o1_bench.score import by_query

    run, qrels = inputs(folder)

    def work() -> Arrays:
        values = by_query(score(qrels, run, measures=list(MEASURES)))
        return {name: np.array([values[name][query] for query in qrels]) for name in MEASURES}

    return work


def pytrec_eval(folder: Path, _size: Size) -> Work:
    import pytrec_eval as peer

    run, qrels = inputs(folder)

    def work() -> Arrays:
        asked = {trec for trec, _ in MEASURES.values()}
        values = peer.RelevanceEvaluator(qrels, asked).evaluate(run)
        return {name: np.array([values[q][trec] for q in qrels]) for name, (trec, _) in MEASURES.items()}

    return work


def ir_measures(folder: Path, _size: Size) -> Work:
    import ir_measures as peer

    run, qrels = inputs(folder)

    def work() -> Arrays:
        asked = [peer.parse_measure(name) for name in MEASURES]
        values: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
        for metric in peer.iter_calc(asked, qrels, run):
            values[str(metric.measure)][metric.query_id] = metric.value
        return {name: np.array([values[name][query] for query in qrels]) for name in MEASURES}

    return work


def ranx(folder: Path, _size: Size) -> Work:
    import ranx as peer

    run, qrels = inputs(folder)
    some = {name: run[name] for name in list(run)[:2]}

    def evaluated(run: dict[str, Any]) -> Arrays:
        asked = [own for _, own in MEASURES.values()]
        judged = {name: qrels[name] for name in run}
        found = peer.evaluate(
            peer.Qrels(judged), peer.Run(run), asked, return_mean=False, make_comparable=False
        )
        order = np.argsort(np.argsort(list(run)))  # ranx sorts the queries by their ids
        return {
            name: np.asarray(values)[order] for name, values in zip(MEASURES, found.values(), strict=True)
        }

    evaluated(some)  # compiles
    return lambda: evaluated(run)


def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    """RR of pytrec_eval is not cut at 10: where it is below 1/10 ours is 0."""
    own = found["ours"]
    shared = {}
    for side, theirs in found.items():
        if side == "ours":
            continue
        cut = np.where(theirs["RR@10"] >= 0.1, theirs["RR@10"], 0)
        names = [name for name in MEASURES if name != "RR@10"]
        largest = [refuse_difference(f"{side}: {name}", own[name], theirs[name], 1e-6) for name in names]
        largest.append(refuse_difference(f"{side}: RR@10", own["RR@10"], cut, 1e-6))
        shared[side] = "every query's values within 1e-6"
    return shared


JOB = Job(
    name="score",
    file=__file__,
    what="{queries:,} queries x {hits:,} hits, {judged} judgements each",
    unit="hits",
    items=lambda size: size["queries"] * size["hits"],
    sides={
        "ours": Side(ours, ["o1-bench"], "float64"),
        "pytrec_eval": Side(pytrec_eval, ["pytrec_eval-terrier"], "float64"),
        "ir_measures": Side(ir_measures, ["ir_measures"], "float64"),
        "ranx": Side(ranx, ["ranx", "numba"], "float64"),
    },
    prepare=prepare,
    agree=agree,
    full={"queries": 2000, "hits": 1000, "judged": 50, "documents": 200_000},
    smoke={"queries": 20, "hits": 100, "judged": 10, "documents": 1000},
)

JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
