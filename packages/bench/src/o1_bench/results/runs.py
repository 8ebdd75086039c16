"""Existing runs: scored and kept as results, or compared query by query with metrics and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from o1_bench.compare import Comparison, holm, paired_test
from o1_bench.datasets.suites import load_collection, load_judgements, protocol
from o1_bench.results.result import (
    STAGES,
    Kind,
    Milliseconds,
    System,
    excluded_ids,
    load_result,
    refuse_unlike,
    save_result,
)
from o1_bench.score import DEFAULT, Measure, by_query, means, score
from o1_records import Exclusion, InputError, Metric, read_jsonl, write_jsonl
from o1_records.trec import read_run


class Scored(NamedTuple):
    """The mean of each measure, and how many of the judged queries retrieved nothing."""

    means: dict[str, float]
    judged: int
    without_hits: int


def score_run(
    run: str | Path,
    qrels: str | Path,
    *,
    split: str = "test",
    measures: Sequence[Measure] | None = None,
    excluded: str | Path | None = None,
    per_query: str | Path | None = None,
    result: str | Path | None = None,
    name: str = "",
    kind: Kind = "system",
    note: str = "",
    milliseconds: Milliseconds | None = None,
) -> Scored:
    """Score a TREC run, and keep it as a result where a folder is given.

    Args:
        run: the TREC run.
        qrels: a TREC qrels file, a BEIR folder or `ROOT/NAME`; for a result not a TREC file.
        split: of a BEIR folder.
        measures: those of the collection's protocol by default.
        excluded: documents that are never counted (JSONL of Exclusion records); the collection's own
            by default.
        per_query: where the metrics of all queries are written (JSONL of Metric records).
        result: the folder of the result.
        name: of the system; the name of the run's file by default.
        kind: system, control or oracle.
        note: a line under the name.
        milliseconds: per query.

    Raises:
        InputError: none of the run's queries is judged; or as the loaders and `score` do.
    """
    milliseconds = milliseconds or Milliseconds()
    only_kept = {
        "--name": name, "--kind": kind != "system", "--note": note, "--*-ms": milliseconds != Milliseconds()
    }  # fmt: skip
    idle = [flag for flag, given in only_kept.items() if given]
    if idle and not result:
        raise InputError(f"{idle[0]} has an effect only with --result; give both, or leave it out")
    run = Path(run)
    hits = list(read_run(run))
    measures = measures or protocol(qrels)
    given = excluded_ids(read_jsonl(excluded, Exclusion)) if excluded else None
    collection = load_collection(qrels, split, given) if result else None
    if collection is None:
        judgements, own = load_judgements(qrels, split)
    else:
        judgements, own = list(collection.qrels), collection.excluded
    judged = {qrel.query_id for qrel in judgements}
    found = {hit.query_id for hit in hits}
    if hits and not judged & found:
        raise InputError(
            f"{run}: none of its {len(found)} queries is judged in {qrels}; do the two belong together?"
        )
    if result and (Path(result) / STAGES).exists():
        raise InputError(f"{result}: holds a result of `o1-bench run`; choose another folder")
    metrics = score(judgements, hits, measures=measures, excluded=own if given is None else given)
    if per_query:
        write_jsonl(per_query, metrics)
    if result and collection:
        system = System(name=name or run.stem, kind=kind, note=note, milliseconds=milliseconds)
        save_result(result, system, collection=collection, hits=hits, measures=measures)
    return Scored(means(metrics), len(judged), len(judged - found))


class Compared(NamedTuple):
    """One run: its mean and how it compares with the baseline; the p-value is corrected (Holm)."""

    path: Path
    mean: float
    against: Comparison | None = None
    p_value: float | None = None


def compare_runs(
    paths: Sequence[str | Path],
    *,
    measure: Measure = DEFAULT[0],
    qrels: str | Path | None = None,
    split: str = "test",
    seed: int = 0,
    allow_different: bool = False,
) -> list[Compared]:
    """Test runs against a baseline, query by query, and return one line for each.

    Args:
        paths: the baseline and the others; each is a result, metrics of queries (.jsonl) or a TREC run.
        measure: what is compared.
        qrels: what runs are scored against.
        split: of a BEIR folder of judgements.
        seed: of the tests.
        allow_different: compare the shared queries of other collections or protocols, instead of refusing.

    Raises:
        InputError: a run comes without `qrels`, a file has no such measure, no query is in all of them, or
            the collections or protocols differ.
    """
    files = [Path(path) for path in paths]
    if not allow_different:
        refuse_unlike([load_result(path) for path in files if _is_result(path)])
    values = [_values(path, measure, qrels, split) for path in files]
    if allow_different:
        shared = sorted(set(values[0]).intersection(*values))
        if not shared:
            raise InputError("no query is in all of them; there is nothing to compare")
        values = [{query_id: each[query_id] for query_id in shared} for each in values]
    base, *others = values
    tests = [paired_test(each, base, seed=seed) for each in others]
    corrected = holm([test.p_value for test in tests])
    return [
        Compared(files[0], fmean(base.values())),
        *(
            Compared(path, fmean(each.values()), test, p)
            for path, each, test, p in zip(files[1:], others, tests, corrected, strict=True)
        ),
    ]


def _values(path: Path, measure: Measure, qrels: str | Path | None, split: str) -> dict[str, float]:
    """Return the value of the measure for each query, from a result, a file of metrics or a run."""
    known: Mapping[str, dict[str, float]]
    if _is_result(path):
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


def _is_result(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".json"
