"""A model on a collection or on those of a suite, with thoughts and their controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from o1_bench._partly import Tell, attempt_each
from o1_bench.collection import Collection
from o1_bench.datasets.suites import expand, load, load_collection, protocol
from o1_bench.results.result import Result
from o1_bench.running.systems import (
    Options,
    ThinkingModel,
    open_system,
    refuse_idle,
    refuse_incomplete,
    run_hybrid,
)
from o1_bench.running.task import Task, load_thoughts, slug
from o1_bench.score import Measure
from o1_records import InputError


def run(
    model: str | Path | ThinkingModel,
    out: str | Path,
    *,
    suite: Sequence[str] = (),
    collection: Collection | str | Path | None = None,
    data: str | Path = "data",
    split: str = "test",
    hybrid: str | Path | ThinkingModel | None = None,
    measures: Sequence[Measure] | None = None,
    k: int = 1000,
    thoughts: str | Path | None = None,
    think_ms: float | None = None,
    oracle: bool = False,
    think: bool = False,
    controls: bool = False,
    options: Options | None = None,
    new_job: bool = False,
    tell: Tell | None = None,
) -> dict[str, list[Result]]:
    """Run a model on each collection, keep the results and return them by collection.

    A rerun repeats nothing. The results are in `out/COLLECTION/SYSTEM`, the vectors of documents beside them.

    Args:
        model: `bm25`, a checkpoint or another model that thinks, a TREC run (or a folder with one for each
            collection), or the folder or hub id of a sentence-transformers model.
        out: the folder of all results.
        suite: names of suites or collections, whose files are in folders under `data`.
        collection: instead of a suite, a collection: a BEIR folder, `ROOT/NAME`, or an object.
        data: see `suite`.
        split: of a BEIR folder.
        hybrid: a second model; the results of both, without thoughts, are fused by reciprocal rank.
        measures: those of the collection's protocol by default; the first one is the main one.
        k: the largest number of hits per query.
        thoughts: thoughts to run with (JSONL of Thought records), or a folder with one file per collection.
        think_ms: the time that writing them took, in milliseconds per query.
        oracle: the thoughts read the answer.
        think: the model writes thoughts of its own.
        controls: run empty, shuffled and filler thoughts too.
        options: settings of the models.
        new_job: move earlier results with other settings aside, instead of refusing them.
        tell: called with the name of each collection as it ends, and with its results or its error.

    Raises:
        InputError: an input is wrong or missing, or an option has no effect. Of several collections the
            others run first; see `o1_bench.PartlyDoneError`.
        ChangedJobError: earlier results in `out` were made with other settings.
    """
    if bool(suite) == (collection is not None):
        raise InputError("give a suite or a collection, and not both")
    loaders: dict[str, Callable[[], Collection]] = {name: partial(load, name, data) for name in expand(suite)}
    if isinstance(collection, Collection):
        loaders = {collection.name: lambda: collection}
    elif collection is not None:
        loaders = {str(collection): partial(load_collection, collection, split)}
    if thoughts and len(loaders) > 1 and not Path(thoughts).is_dir():
        raise InputError(f"{thoughts}: {len(loaders)} collections need a folder with a file for each")
    options = options or Options()
    about_thoughts = {
        "thoughts": thoughts, "think_ms": think_ms, "oracle": oracle, "think": think, "controls": controls
    }  # fmt: skip
    set_options = options.changed
    set_options += [name for name, value in about_thoughts.items() if value not in (None, False)]
    refuse_incomplete(set_options)
    models = [open_system(each, options) for each in (model, hybrid) if each is not None]
    refuse_idle(set_options, models)

    def run_on(name: str, loader: Callable[[], Collection]) -> list[Result]:
        asked = loader()
        task = Task(
            collection=asked,
            folder=Path(out) / slug(asked.name),
            measures=measures or protocol(name),
            k=k,
            thoughts=load_thoughts(thoughts, asked.name) if thoughts else (),
            think_ms=think_ms,
            oracle=oracle,
            think=think,
            controls=controls,
            new_job=new_job,
        )
        each = [list(system.run(task)) for system in models]
        fusion = [run_hybrid(each[0][0], each[1][0], task)] if hybrid is not None else []
        return [*(result for results in each for result in results), *fusion]

    return attempt_each({name: partial(run_on, name, loader) for name, loader in loaders.items()}, tell)
