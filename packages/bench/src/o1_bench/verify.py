"""Recomputing a result from the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from o1_bench.collection import digest
from o1_bench.result import EXCLUDED, FILES, QRELS, RUN, THOUGHTS, excluded_ids, load_result
from o1_bench.score import by_query, means, parse_measure, score
from o1_records import Exclusion, read_jsonl, sha256_file
from o1_records.trec import read_qrels, read_run

_TOLERANCE = 1e-9


def verify_result(path: str | Path) -> list[str]:
    """Recompute the metrics from the files beside a result; what differs, in words.

    An empty list means that every file has its digest and every metric came out the same to 1e-9.
    """
    result = load_result(path)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if changed := _changed_files(folder, result.files):
        return changed
    qrels = list(read_qrels(folder / QRELS))
    excluded = list(read_jsonl(folder / EXCLUDED, Exclusion))
    found = {"qrels": digest(qrels), "excluded": digest(excluded)}
    said = {name: result.collection.digests.get(name) for name in found}
    differing = _differences("digest", said, found)
    metrics = score(
        qrels,
        read_run(folder / RUN),
        measures=[parse_measure(name) for name in result.metrics],
        excluded=excluded_ids(excluded),
    )
    differing += _differences("mean", result.metrics, means(metrics))
    computed = by_query(metrics)
    for measure in {**computed, **result.per_query}:
        said_of, found_of = result.per_query.get(measure, {}), computed.get(measure, {})
        differing += _differences(measure, said_of, found_of)
    return differing


def _changed_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    changed = []
    for name in (*FILES, *({THOUGHTS} & digests.keys())):
        if not (folder / name).is_file():
            changed.append(f"{name}: is missing")
        elif sha256_file(folder / name) != digests.get(name):
            changed.append(f"{name}: is not the file that was scored (its sha256 differs)")
    return changed


def _differences(what: str, said: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        f"{what} of {name}: the result says {said.get(name)}, its files give {found.get(name)}"
        for name in {**said, **found}
        if not _same(said.get(name), found.get(name))
    ]


def _same(said: Any, found: Any) -> bool:
    if isinstance(said, float) and isinstance(found, float):
        return abs(said - found) <= _TOLERANCE
    return bool(said == found)
