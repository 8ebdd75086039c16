"""mteb's results, in and out: `TaskResult` as JSON, one file a task.

Only tasks that evaluate what a collection here evaluates are known: BEIR's public sets, BRIGHT v1.1 (its
older task counted excluded documents), R2MED. mteb's CosQA repeats functions and is another collection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from o1_bench.datasets import bright, r2med
from o1_bench.datasets.beir import PUBLIC, split_of
from o1_bench.results.result import Result
from o1_bench.score import means, score
from o1_records import InputError, Qrel, quoted

_CUTOFFS = (1, 3, 5, 10, 20, 100, 1000)
_THEIRS = {"nDCG": "ndcg", "AP": "map", "R": "recall", "P": "precision", "RR": "mrr"}
_BEIR = {
    "arguana": "ArguAna",
    "climate-fever": "ClimateFEVER",
    "dbpedia-entity": "DBPedia",
    "fever": "FEVER",
    "fiqa": "FiQA2018",
    "hotpotqa": "HotpotQA",
    "msmarco": "MSMARCO",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "quora": "QuoraRetrieval",
    "scidocs": "SCIDOCS",
    "scifact": "SciFact",
    "trec-covid": "TRECCOVID",
    "webis-touche2020": "Touche2020",
}


class Task(NamedTuple):
    """A task of mteb, its split, and its main score."""

    name: str
    split: str
    main: str = "ndcg_at_10"


def _beir_task(name: str) -> Task:
    forum = name.partition("/")[2]
    return Task(f"CQADupstack{forum.title()}Retrieval" if forum else _BEIR[name], split_of(name))


def _words(task: str) -> str:
    written = {"theoremqa": "TheoremQA"}
    return "".join(written.get(part, part.title()) for part in task.split("_"))


TASKS: dict[str, Task] = {
    **{f"beir/{name}/{split_of(name)}": _beir_task(name) for name in PUBLIC},
    **{f"bright/{task}": Task(f"Bright{_words(task)}Retrieval", "standard") for task in bright.TASKS},
    **{
        f"bright-long/{task}": Task(f"Bright{_words(task)}LongRetrieval", "long", "recall_at_1")
        for task in bright.LONG_TASKS
    },
    **{f"r2med/{task}": Task(f"R2MED{task.replace('-', '')}Retrieval", "test") for task in r2med.TASKS},
}
"""The task that evaluates a collection, by the collection's name."""


class TheirResult(NamedTuple):
    """A figure that mteb measured: of a system, on a collection, in a measure as it is called here."""

    system: str
    collection: str
    measure: str
    value: float
    source: str


class _Scores(msgspec.Struct):
    main_score: float
    hf_subset: str = "default"


class _TaskResult(msgspec.Struct):
    task_name: str
    scores: dict[str, list[dict[str, Any]]]
    mteb_version: str | None = None


def read_mteb(paths: Iterable[str | Path]) -> list[TheirResult]:
    """Return the figures in mteb's result files, or in folders of them, of collections that are known here.

    A model is called as its `model_meta.json` says, else after the folder above the revision.

    Raises InputError for a file that is none of mteb's, and where a folder has no known task.
    """
    known = {(task.name, task.split): name for name, task in TASKS.items()}
    found: list[TheirResult] = []
    for path in map(Path, paths):
        files = [path] if path.is_file() else sorted(path.rglob("*.json"))
        before = len(found)
        for file in files:
            if file.name == "model_meta.json":
                continue
            found += list(_figures(file, known))
        if len(found) == before:
            raise InputError(f"{path}: no result of mteb of a collection that is known here")
    return found


def write_task_result(
    result: Result, qrels: Sequence[Qrel], run: Mapping[str, Mapping[str, float]], model: str
) -> dict[str, bytes]:
    """Return a TaskResult of a result and its path: MODEL/REVISION/TASK.json.

    Raises InputError for a collection that no task of mteb evaluates.
    """
    task = TASKS.get(result.collection.name)
    if task is None:
        raise InputError(f"{result.collection.name}: no task of mteb evaluates the same")
    names = [f"{name}@{k}" for name in _THEIRS for k in _CUTOFFS]
    scores = {
        _theirs(name): round(value, 6) for name, value in means(score(qrels, run, measures=names)).items()
    }
    entry = {**scores, "main_score": scores[task.main], "hf_subset": "default", "languages": ["eng-Latn"]}
    times = result.system.milliseconds.total
    seconds = None if times is None else round(times * result.collection.queries / 1000, 3)
    content = {
        "dataset_revision": _revision(result.collection.revision),
        "task_name": task.name,
        # not measured by mteb: this is the first version whose form it is
        "mteb_version": "2.0.0",
        "scores": {task.split: [entry]},
        "evaluation_time": seconds,
        "kg_co2_emissions": None,
    }
    revision = str(result.system.encoder.get("digest", "no_revision_available")).removeprefix("sha256:")[:40]
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    return {f"{model}/{revision}/{task.name}.json": text}


def _figures(file: Path, known: Mapping[tuple[str, str], str]) -> Iterator[TheirResult]:
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_TaskResult)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{file}: {error}; not a result of mteb") from error
    model = _model_of(file)
    for split, entries in content.scores.items():
        collection = known.get((content.task_name, split))
        for entry in entries if collection else ():
            for name, value in entry.items():
                ours = _ours(name)
                if ours and isinstance(value, int | float):
                    source = f"mteb {content.mteb_version or ''}".rstrip()
                    yield TheirResult(model, str(collection), ours, float(value), source)


def _model_of(file: Path) -> str:
    meta = file.with_name("model_meta.json")
    if meta.is_file():
        try:
            name = msgspec.json.decode(meta.read_bytes(), type=dict[str, Any]).get("name")
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise InputError(f"{meta}: {error}") from error
        if isinstance(name, str) and name:
            return name
    return file.resolve().parent.parent.name.replace("__", "/")


def _theirs(measure: str) -> str:
    name, _, cutoff = measure.partition("@")
    return f"{_THEIRS[name]}_at_{cutoff}"


def _ours(name: str) -> str:
    """Return what mteb calls `ndcg_at_10` as ir-measures writes it; "" for anything else."""
    found = re.fullmatch(r"(ndcg|map|recall|precision|mrr)_at_(\d+)", name)
    if found is None:
        return ""
    ours = next(mine for mine, theirs in _THEIRS.items() if theirs == found[1])
    return f"{ours}@{found[2]}"


def _revision(revision: str) -> str:
    """Return the commit in a collection's revision; else what it says, quoted as unknown to mteb."""
    commit = re.search(r"@([0-9a-f]{40})", revision)
    return commit[1] if commit else f"unknown ({quoted(revision)})" if revision else "unknown"
