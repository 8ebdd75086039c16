"""Recomputing results from the files beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from o1_bench.collection import digest, excluded_ids
from o1_bench.results.result import (
    CURVE,
    EXCLUDED,
    FILES,
    QRELS,
    RUN,
    THOUGHTS,
    find_results,
    load_result,
)
from o1_bench.score import by_query, means, score
from o1_records import Exclusion, InputError, read_jsonl, sha256_file
from o1_records.trec import read_qrels, read_run

_TOLERANCE = 1e-9


def verify_results(paths: Iterable[str | Path]) -> dict[Path, list[str]]:
    """Verify results, or folders of them, damaged ones too, and return the differences of each.

    A result without differences has an empty list; see `verify_result`.
    """
    differing: dict[Path, list[str]] = {}
    for path in find_results(paths).results:
        try:
            differing[path] = verify_result(path)
        except (InputError, OSError) as error:
            differing[path] = [str(error)]
    return differing


def verify_result(path: str | Path) -> list[str]:
    """Recompute the metrics from the files beside a result and return the differences, in words.

    An empty list means that every file has its digest and that every metric is the same to 1e-9.
    """
    result = load_result(path)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    changed = []
    for name in (*FILES, *({THOUGHTS} & result.files.keys())):
        if not (folder / name).is_file():
            changed.append(f"{name}: is missing")
        elif sha256_file(folder / name) != result.files.get(name):
            changed.append(f"{name}: is not the file that was scored (its sha256 differs)")
    if changed:
        return changed
    qrels = list(read_qrels(folder / QRELS))
    excluded = list(read_jsonl(folder / EXCLUDED, Exclusion))
    found = {"qrels": digest(qrels), "excluded": digest(excluded)}
    said = {name: result.collection.digests.get(name) for name in found}
    differing = _differences("digest", said, found)
    curve = CURVE if result.curve else {}
    together = score(
        qrels,
        read_run(folder / RUN),
        measures=[*result.metrics, *curve.values()],
        excluded=excluded_ids(excluded),
    )
    found_means = means(together)
    points = {k: found_means[str(measure)] for k, measure in curve.items()}
    differing += _differences("nDCG of the curve", result.curve, points)
    metrics = [metric for metric in together if metric.measure in result.metrics]
    differing += _differences("mean", result.metrics, means(metrics))
    computed = by_query(metrics)
    for measure in {**computed, **result.per_query}:
        said_of, found_of = result.per_query.get(measure, {}), computed.get(measure, {})
        differing += _differences(measure, said_of, found_of)
    return differing


def _differences(what: str, said: Mapping[Any, Any], found: Mapping[Any, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, float) and isinstance(b, float):
            return abs(a - b) <= _TOLERANCE
        return bool(a == b)

    return [
        f"{what} of {name}: the result says {said.get(name)}, its files give {found.get(name)}"
        for name in {**said, **found}
        if not same(said.get(name), found.get(name))
    ]
