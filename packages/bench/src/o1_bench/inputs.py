"""What a path on the command line stands for: a collection, judgements, a result, the values of a measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path

from o1_bench.collection import Collection
from o1_bench.datasets.beir import load_beir, read_judgements
from o1_bench.datasets.manifest import NAME
from o1_bench.datasets.stdlib import load_stdlib
from o1_bench.result import load_result
from o1_bench.score import DEFAULT, Measure, by_query, score
from o1_bench.suites import load, measures, named
from o1_bench.task import slug
from o1_records import InputError, Metric, Qrel, Thought, quoted, read_jsonl
from o1_records.trec import read_qrels, read_run

Excluded = Mapping[str, Set[str]]  # query_id to doc_ids


def load_collection(folder: Path, split: str, excluded: Excluded | None = None) -> Collection:
    """Load a split of a BEIR folder or of a built one, or `ROOT/NAME`: a collection that has a name.

    Such a name (`data/bright/biology`, see `o1_bench.suites`) brings its split, exclusions and
    instruction; `excluded` takes the place of its exclusions. Raises InputError for anything else.
    """
    if (folder / NAME).is_file():
        loaded = load_stdlib(folder, split)
    elif known := _named(folder, split):
        loaded = load(*known)
    elif folder.is_dir():
        return load_beir(folder, split, excluded=excluded)
    else:
        raise InputError(f"{folder}: not a folder; a collection is a BEIR folder, or ROOT/bright/biology")
    return loaded if excluded is None else dataclasses.replace(loaded, excluded=excluded)


def load_judgements(path: Path, split: str) -> tuple[list[Qrel], Excluded]:
    """Load the judgements and the documents that are never counted.

    Of a TREC file or a split of a BEIR folder only the judgements are read. `ROOT/NAME` is loaded
    whole, as its protocol says what is excluded.
    """
    if path.is_file():
        return list(read_qrels(path)), {}
    if _named(path, split):
        collection = load_collection(path, split)
        return list(collection.qrels), collection.excluded
    if not path.is_dir():
        raise InputError(f"{path}: neither a TREC qrels file nor a BEIR folder nor ROOT/bright/biology")
    return list(read_judgements(path, split)), {}


def protocol(path: Path) -> tuple[Measure, ...]:
    """The measures of a collection that has a name (the path ends in it), else the usual ones."""
    known = named(path)
    return measures(known[0]) if known else DEFAULT


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
        judged, excluded = load_judgements(qrels, split)
        known = by_query(score(judged, read_run(path), measures=[measure], excluded=excluded))
    else:
        raise InputError(f"{path}: a run needs --qrels; or give metrics (.jsonl) or a result")
    if str(measure) not in known:
        raise InputError(f"{path}: has no {measure}; it has {', '.join(known) or 'nothing'}")
    return known[str(measure)]


def is_result(path: Path) -> bool:
    """Whether a path can only be a result: a folder or its `result.json`."""
    return path.is_dir() or path.suffix == ".json"


def result_files(path: Path) -> list[Path]:
    """The results in a folder, and in the folders in it, by name; a result itself is the only one.

    Raises InputError for a folder without any.
    """
    if not path.is_dir() or (path / "result.json").is_file():
        return [path]
    found = sorted([*path.glob("*/result.json"), *path.glob("*/*/result.json")])
    if not found:
        raise InputError(f"{path}: neither it nor a folder in it has a result.json")
    return found


def load_thoughts(path: Path, collection: str) -> list[Thought]:
    """The thoughts of a file, or of a folder's file for a collection."""
    return list(read_jsonl(path / f"{slug(collection)}.jsonl" if path.is_dir() else path, Thought))


def _named(path: Path, split: str) -> tuple[str, Path] | None:
    """The name and the root of `ROOT/NAME`; None for a folder that has judgements of its own."""
    known = named(path)
    if known is None or (path / "qrels").is_dir():
        return None
    if split != "test":
        raise InputError(f"{path}: {known[0]} has a split of its own; leave out {quoted(split)}")
    return known
