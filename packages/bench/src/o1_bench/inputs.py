"""What a path on the command line stands for: a collection, judgements, a result, the values of a measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path

from o1_bench.collection import Collection
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.manifest import NAME
from o1_bench.datasets.stdlib import load_stdlib
from o1_bench.result import load_result
from o1_bench.score import Measure, by_query, score
from o1_records import InputError, Metric, Qrel, read_jsonl
from o1_records.trec import read_qrels, read_run


def load_collection(folder: Path, split: str, excluded: Mapping[str, Set[str]] | None = None) -> Collection:
    """Load a split of a BEIR folder or of a built one. Raises InputError for anything else."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; a collection is a BEIR folder")
    load = load_stdlib if (folder / NAME).is_file() else load_beir
    loaded = load(folder, split)
    return dataclasses.replace(loaded, excluded=excluded) if excluded else loaded


def load_qrels(path: Path, split: str) -> list[Qrel]:
    """Load the judgements of a BEIR folder's split or of a TREC file."""
    if path.is_dir():
        return list(load_beir(path, split).qrels)
    return list(read_qrels(path))


def load_values(path: Path, measure: Measure, *, qrels: Path | None, split: str) -> dict[str, float]:
    """Load the value of the measure for each query, from a result, a file of metrics or a run.

    Raises InputError when a run comes without `qrels`, and when there is no such measure.
    """
    known: Mapping[str, dict[str, float]]
    if is_result(path):
        known = load_result(path).per_query
    elif path.suffix == ".jsonl":
        known = by_query(read_jsonl(path, Metric))
    elif qrels:
        known = by_query(score(load_qrels(qrels, split), read_run(path), measures=[measure]))
    else:
        raise InputError(f"{path}: a run needs --qrels; or give metrics (.jsonl) or a result")
    if str(measure) not in known:
        raise InputError(f"{path}: has no {measure}; it has {', '.join(known) or 'nothing'}")
    return known[str(measure)]


def is_result(path: Path) -> bool:
    """Whether a path can only be a result: a folder or its `result.json`."""
    return path.is_dir() or path.suffix == ".json"


def result_files(path: Path) -> list[Path]:
    """The results in a folder of them, by name; a result itself is the only one.

    Raises InputError for a folder without any.
    """
    if not path.is_dir() or (path / "result.json").is_file():
        return [path]
    found = sorted(path.glob("*/result.json"))
    if not found:
        raise InputError(f"{path}: neither it nor a folder in it has a result.json")
    return found
