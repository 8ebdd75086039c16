"""Existing runs: scored and kept as results, or compared query by query with metrics and results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from o1_bench.collection import digest, excluded_ids
from o1_bench.compare import Comparison, holm, paired_test
from o1_bench.datasets.suites import Judgements, load_collection, load_judgements
from o1_bench.protocol import Protocol
from o1_bench.results.exchange import read_any_run, run_name
from o1_bench.results.result import (
    RESULT,
    STAGES,
    Kind,
    Milliseconds,
    System,
    load_result,
    refuse_unlike,
    save_result,
    shallow,
)
from o1_bench.score import DEFAULT, Measure, by_query, means, parse_measures, score
from o1_records import (
    Exclusion,
    Hit,
    InputError,
    Metric,
    Qrel,
    quoted,
    read_jsonl,
    write_jsonl,
)
from o1_records.files import is_file, is_folder, plain_name


class Scored(NamedTuple):
    """The mean of each measure, how many of the judged queries retrieved nothing, and how it was scored.

    `said` is what a reader should know, such as hits that are in no corpus.
    """

    means: dict[str, float]
    judged: int
    without_hits: int
    protocol: Protocol
    said: tuple[str, ...] = ()


def score_run(
    run: str | Path,
    qrels: str | Path,
    *,
    split: str | None = None,
    protocol: str | Protocol | None = None,
    measures: Sequence[Measure | str] | None = None,
    excluded: str | Path | None = None,
    per_query: str | Path | None = None,
    result: str | Path | None = None,
    name: str = "",
    kind: Kind = "system",
    note: str = "",
    seed: int | None = None,
    milliseconds: Milliseconds | None = None,
) -> Scored:
    """Score a run, and keep it as a result where a folder is given.

    Args:
        run: a TREC run, or JSON of BEIR or FlagEmbedding (`o1_bench.results.exchange`).
        qrels: a TREC qrels file, a BEIR folder or `ROOT/NAME`; for a result not a TREC file.
        split: of a BEIR folder; "test" by default.
        protocol: how the collection is evaluated, by its name; its own by default.
        measures: those of the protocol by default.
        excluded: documents that are never counted (JSONL of Exclusion records); the collection's own
            by default.
        per_query: where the metrics of all queries are written (JSONL of Metric records).
        result: the folder of the result.
        name: of the system; the name of the run's file by default.
        kind: system, control or oracle.
        note: a line under the name.
        seed: of the system's training or sampling.
        milliseconds: per query.

    Raises:
        InputError: none of the run's queries is judged, none of its documents is in the corpus (which is read
            for a result), an option has no effect; or as the loaders and `score` do.
    """
    milliseconds = milliseconds or Milliseconds()
    only_kept = {
        "--name": name, "--kind": kind != "system", "--note": note, "--seed": seed is not None,
        "--*-ms": milliseconds != Milliseconds(),
    }  # fmt: skip
    idle = [flag for flag, given in only_kept.items() if given]
    if idle and not result:
        raise InputError(f"{idle[0]} has an effect only with --result; give both, or leave it out")
    refuse_idle_split(qrels, split)
    run = Path(run)
    hits = list(read_any_run(run))
    given = excluded_ids(read_jsonl(excluded, Exclusion)) if excluded else None
    collection = load_collection(qrels, split, given, protocol=protocol) if result else None
    if collection is None:
        judgements, own, followed = load_judgements(qrels, split, protocol=protocol)
    else:
        judgements, own, followed = list(collection.qrels), collection.excluded, collection.protocol
    measures = parse_measures(measures or followed.measures)
    judged = {qrel.query_id for qrel in judgements}
    found = {hit.query_id for hit in hits}
    if hits and not judged & found:
        raise InputError(
            f"{run}: none of its {len(found)} queries is judged in {qrels}; do the two belong together?"
        )
    if result and (Path(result) / STAGES).exists():
        raise InputError(f"{result}: holds a result of `o1-bench run`; choose another folder")
    counted = _not_counted(own if given is None else given, followed, judged)
    metrics = score(judgements, hits, measures=measures, excluded=counted)
    said = []
    without = len(judged - found)
    if without:
        said.append(f"{without} of {len(judged)} judged queries retrieved nothing and count 0")
    if per_query:
        write_jsonl(per_query, metrics)
    if result and collection:
        system = System(
            name=name or run_name(run), kind=kind, note=note, seed=seed, milliseconds=milliseconds,
            encoder={"hits (sha256)": digest(hits)},
        )  # fmt: skip
        said += save_result(result, system, collection=collection, hits=hits, measures=measures).said
    else:
        said += _without_corpus(hits, judgements, measures)
    return Scored(means(metrics), len(judged), without, followed, tuple(said))


def refuse_idle_split(qrels: str | Path, split: str | None) -> None:
    """Raise InputError for a split of a TREC file, which has none."""
    if split and is_file(qrels):
        raise InputError(f"--split has no effect on {qrels}, which is a file of judgements; leave it out")


def _not_counted(
    excluded: Mapping[str, Set[str]], protocol: Protocol, judged: Iterable[str]
) -> Mapping[str, Set[str]]:
    """Return the documents that never count: those given, and where the protocol says so a query's own."""
    if not protocol.ignore_identical_ids:
        return excluded
    return {query_id: {*excluded.get(query_id, ()), query_id} for query_id in judged}


def _without_corpus(hits: Sequence[Hit], qrels: Iterable[Qrel], measures: Sequence[Measure]) -> list[str]:
    """Return what can be said of a run where the corpus is not read."""
    judged = {qrel.doc_id for qrel in qrels}
    counts: dict[str, int] = {}
    for hit in hits:
        counts[hit.query_id] = counts.get(hit.query_id, 0) + 1
    said = shallow(measures, max(counts.values(), default=0))
    if hits and not any(hit.doc_id in judged for hit in hits):
        said.append(
            f"none of the {len(hits):,} hits is judged for any query, such as {quoted(hits[0].doc_id)}; "
            "do run and judgements belong together?"
        )
    return said


class Compared(NamedTuple):
    """One run: its mean and how it compares with the baseline; the p-value is corrected (Holm).

    `said` is what a reader should know of it, as in `Scored`.
    """

    path: Path
    mean: float
    against: Comparison | None = None
    p_value: float | None = None
    said: tuple[str, ...] = ()


def compare_runs(
    paths: Sequence[str | Path],
    *,
    measure: Measure | str = DEFAULT[0],
    qrels: str | Path | None = None,
    split: str | None = None,
    protocol: str | Protocol | None = None,
    seed: int = 0,
    permutations: int = 10_000,
    allow_different: bool = False,
) -> list[Compared]:
    """Test runs against a baseline, query by query, and return one line for each.

    Args:
        paths: the baseline and the others; each is a result, metrics of queries (.jsonl) or a run.
        measure: what is compared.
        qrels: what runs are scored against.
        split: of a BEIR folder of judgements.
        protocol: how the runs are evaluated, by its name; that of the judgements by default.
        seed: of the tests.
        permutations: how many random signs and samples the tests draw.
        allow_different: compare the shared queries of other collections or protocols, instead of refusing.

    Raises:
        InputError: a run comes without `qrels`, or judgements without a run, a file has no such measure, no
            query is in all of them, or the collections or protocols differ.
    """
    files = [Path(path) for path in paths]
    measure = parse_measures([measure])[0]
    needed = {"--split": split, "--protocol": protocol}
    if idle := [flag for flag, value in needed.items() if value and not qrels]:
        raise InputError(f"{idle[0]} has an effect only with --qrels; give both, or leave it out")
    if qrels and not any(_is_run(path) for path in files):
        raise InputError("--qrels has an effect only on runs, and there is none; leave it out")
    if qrels:
        refuse_idle_split(qrels, split)
    if not allow_different:
        refuse_unlike([load_result(path) for path in files if _is_result(path)])
    judged = load_judgements(qrels, split, protocol=protocol) if qrels else None
    found = [_values(path, measure, judged) for path in files]
    values, said = [each for each, _ in found], [sentences for _, sentences in found]
    if allow_different:
        shared = sorted(set(values[0]).intersection(*values))
        if not shared:
            raise InputError("no query is in all of them; there is nothing to compare")
        values = [{query_id: each[query_id] for query_id in shared} for each in values]
    base, *others = values
    tests = [paired_test(each, base, seed=seed, permutations=permutations) for each in others]
    corrected = holm([test.p_value for test in tests])
    return [
        Compared(files[0], fmean(base.values()), said=said[0]),
        *(
            Compared(path, fmean(each.values()), test, p, sentences)
            for path, each, test, p, sentences in zip(
                files[1:], others, tests, corrected, said[1:], strict=True
            )
        ),
    ]


def _values(
    path: Path, measure: Measure, judged: Judgements | None
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the value of the measure for each query, from a result, a file of metrics or a run.

    Also what is to be said of it.
    """
    known: Mapping[str, dict[str, float]]
    said: Sequence[str] = ()
    if _is_result(path):
        result = load_result(path)
        known, said = result.per_query, result.said
    elif _is_metrics(path):
        known = by_query(read_jsonl(path, Metric))
    elif judged is not None:
        hits = list(read_any_run(path))
        known = by_query(score(judged.qrels, hits, measures=[measure], excluded=judged.excluded))
        said = _without_corpus(hits, judged.qrels, [measure])
    else:
        raise InputError(f"{path}: a run needs --qrels; or give metrics (.jsonl) or a result")
    if str(measure) not in known:
        raise InputError(f"{path}: has no {measure}; it has {', '.join(known) or 'nothing'}")
    return known[str(measure)], tuple(said)


def _is_result(path: Path) -> bool:
    return is_folder(path) or path.name == RESULT or (path.suffix == ".json" and not _is_json_run(path))


def _is_run(path: Path) -> bool:
    return not _is_result(path) and not _is_metrics(path)


def _is_metrics(path: Path) -> bool:
    return Path(plain_name(path)).suffix == ".jsonl"


def _is_json_run(path: Path) -> bool:
    """Return whether a JSON file is a run: a result says its version first."""
    with open(path, "rb") as file:
        return b'"per_query"' not in file.read() if path.is_file() else False
