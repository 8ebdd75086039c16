"""Runs and results as others write them: TREC, BEIR, FlagEmbedding, BRIGHT's code, mteb.

```
run.trec                           query_id Q0 doc_id rank score tag
run.json                           {query_id: {doc_id: score}}                   BEIR, BRIGHT's score.json
MODEL/NoReranker/fiqa-test.json    {"search_results": the same, "eval_name": ...}            FlagEmbedding
pony_MODEL_long_False/score.json, results.json                                             BRIGHT's run.py
MODEL/REVISION/SciFact.json        {"task_name": ..., "scores": {split: [...]}}          mteb's TaskResult
```
White space in document ids becomes `_`, as in collections. FlagEmbedding puts the split before BRIGHT's query
ids; it is taken away when read and put there when written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from o1_bench.datasets.bright import REASONING
from o1_bench.datasets.suites import ENTRIES
from o1_bench.datasets.tables import word
from o1_bench.results.mteb import write_task_result
from o1_bench.results.result import QRELS, RUN, Result, find_results, load_result
from o1_bench.score import from_dict, means, score, to_dict
from o1_records import Hit, InputError, atomic_write, open_run, quoted
from o1_records.files import is_file, plain_name
from o1_records.inputs import json_scores
from o1_records.trec import read_qrels, read_run

_CUTOFFS = (1, 5, 10, 25, 50, 100)
_FORMS = (".trec", ".trec.gz", ".json", ".json.gz")


def slug(name: str) -> str:
    """Return a name for a folder: never a path, never hidden. Raises InputError if nothing is left of it."""
    found = re.sub(r"[^\w.-]+", "-", name.lower().replace("+", "and")).strip("-.")
    if not found:
        raise InputError(f"{name!r} has no letter or digit to name a folder by; choose another name")
    return found


# --- reading ------------------------------------------------------------------------------------------


def read_any_run(path: str | Path) -> Iterator[Hit]:
    """Yield the hits of a run in any of the forms above, or of a file of Hit records; JSON is named `*.json`.

    Raises InputError for what is none of them, and for a score that is not a finite number.
    """
    if Path(plain_name(path)).suffix != ".json":
        yield from open_run(path)
        return
    for query_id, found in json_scores(path).items():
        renamed = {word(doc_id): value for doc_id, value in found.items()}
        if len(renamed) < len(found):
            raise InputError(
                f"{path}: query {quoted(query_id)} has two documents whose ids differ in white space only"
            )
        yield from from_dict({query_id: renamed})


def has_runs(folder: Path) -> bool:
    """Return whether a folder holds runs."""
    return any(_runs_in(folder))


def find_run(path: Path, collection: str) -> Path:
    """Return the run itself, or the run for a collection in a folder of them.

    It is called after the collection (`beir-fiqa-test.trec`), or as FlagEmbedding and BRIGHT's code call it.
    Raises InputError where there is none, or more than one.
    """
    if is_file(path):
        return path
    names = [f"{slug(collection)}{form}" for form in _FORMS]
    names += [f"{_flag_name(collection)}{form}" for form in _FORMS]
    found = [path / name for name in dict.fromkeys(names) if (path / name).is_file()]
    task, long = _bright_task(collection)
    if task:
        found += sorted(path.glob(f"{task}_*_long_{long}/score.json"))
    if not found:
        raise InputError(f"{path / names[0]}: no such run; a folder of runs needs one for each collection")
    if len(found) > 1:
        raise InputError(
            f"{path}: {', '.join(str(each.relative_to(path)) for each in found)}: keep one of them"
        )
    return found[0]


def run_name(path: Path) -> str:
    """Return what a run is called by its file or folder."""
    return re.sub(r"\.(trec|json|run|txt)(\.gz)?$", "", path.name)


# --- writing ------------------------------------------------------------------------------------------


def export(paths: Iterable[str | Path], out: str | Path, form: str) -> list[Path]:
    """Write saved results in the form of others and return the files.

    Args:
        paths: results, or folders of them.
        out: the folder that the files go to.
        form: one of `FORMS`.

    Raises:
        InputError: there is no such form, it has no name for a collection, two results would be one file, or
            a file is there already and differs.
    """
    if form not in FORMS:
        raise InputError(f"unknown format {quoted(form)}; choose one of {', '.join(FORMS)}")
    contents: dict[Path, bytes] = {}
    for path in find_results(paths).results:
        folder = path if path.is_dir() else path.parent
        for file, content in FORMS[form](load_result(path), folder).items():
            target = Path(out) / file
            if target in contents:
                raise InputError(
                    f"{target}: two results would be written there; give systems different names"
                )
            contents[target] = content
    for target, content in contents.items():
        if target.exists() and target.read_bytes() != content:
            raise InputError(f"{target}: exists, with another content; choose another --out, or remove it")
    for target, content in contents.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as out_file:
            out_file.write(content)
    return list(contents)


def _run_of(folder: Path) -> dict[str, dict[str, float]]:
    return to_dict(read_run(folder / RUN))


def _beir(result: Result, folder: Path) -> dict[str, bytes]:
    run = msgspec.json.encode(_run_of(folder))
    return {f"{slug(_label(result))}/{slug(result.collection.name)}.json": run}


def _flagembedding_search_results(result: Result, folder: Path) -> dict[str, bytes]:
    name, run = result.collection.name, _run_of(folder)
    dataset, _, split = _flag_name(name).rpartition("-")
    if name.startswith("bright"):
        run = {f"{split}-{query_id}": scores for query_id, scores in run.items()}
    content = {
        "eval_name": _flag_eval(name),
        "model_name": _label(result),
        "reranker_name": "NoReranker",
        "split": split,
        "dataset_name": dataset,
        "search_results": run,
    }
    return {f"{slug(_label(result))}/NoReranker/{dataset}-{split}.json": msgspec.json.encode(content)}


def _bright(result: Result, folder: Path) -> dict[str, bytes]:
    task, long = _bright_task(result.collection.name)
    if not task:
        raise InputError(f"{result.collection.name}: is not of BRIGHT, which this format is for")
    qrels, run = list(read_qrels(folder / QRELS)), _run_of(folder)
    names = [f"{name}@{k}" for name in ("nDCG", "AP", "R", "P") for k in _CUTOFFS]
    found = means(score(qrels, run, measures=[*names, "RR"]))
    theirs = {"nDCG": "NDCG", "AP": "MAP", "R": "Recall", "P": "P"}
    metrics = {
        f"{theirs[name.partition('@')[0]]}@{name.partition('@')[2]}": round(found[name], 5) for name in names
    }
    place = f"{task}_{slug(_label(result))}_long_{long}"
    return {
        f"{place}/score.json": msgspec.json.encode(run),
        f"{place}/results.json": msgspec.json.encode({**metrics, "MRR": round(found["RR"], 5)}),
    }


def _mteb(result: Result, folder: Path) -> dict[str, bytes]:
    return write_task_result(result, list(read_qrels(folder / QRELS)), _run_of(folder), slug(_label(result)))


FORMS: dict[str, Callable[[Result, Path], dict[str, bytes]]] = {
    "beir": _beir,
    "flagembedding": _flagembedding_search_results,
    "bright": _bright,
    "mteb": _mteb,
}
"""What `export` writes, by name."""


# --- names --------------------------------------------------------------------------------------------


def _label(result: Result) -> str:
    seed = result.system.seed
    return result.name if seed is None else f"{result.name} seed {seed}"


def _flag_name(collection: str) -> str:
    """Return what FlagEmbedding calls a collection: `fiqa-test`, `biology-examples`, `passage-dl19`."""
    family, _, rest = collection.partition("/")
    if family in ("msmarco", "msmarco-titles"):
        return f"passage-{rest}"
    if family.startswith("bright"):
        reasoning = REASONING.get(family.removeprefix("bright-"), "examples")
        return f"{rest}-{reasoning}"
    if family == "r2med":
        return f"{rest}-test"
    return "-".join(collection.removeprefix("beir/").split("/"))


def _flag_eval(collection: str) -> str:
    family = collection.partition("/")[0]
    if family.startswith("bright"):
        return "bright_long" if family == "bright-long" else "bright_short"
    return {"msmarco-titles": "msmarco"}.get(family, family)


def _bright_task(collection: str) -> tuple[str, bool]:
    """Return the task and whether its documents are long; "" for a collection that is not of BRIGHT."""
    family, _, task = collection.partition("/")
    known = family.startswith("bright") and collection in ENTRIES
    return (task if known else ""), family == "bright-long"


def _runs_in(folder: Path) -> Iterator[Path]:
    # a model has files of JSON too, but none whose name is a collection's
    for pattern in ("*.trec", "*.trec.gz", "*-*.json", "*-*.json.gz", "*_long_*/score.json"):
        yield from folder.glob(pattern)
