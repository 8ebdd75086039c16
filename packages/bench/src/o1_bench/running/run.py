"""A model on a collection or on those of a suite, with thoughts and their controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from o1_bench._partly import Tell, attempt_each
from o1_bench.collection import Collection
from o1_bench.datasets.suites import expand, load, load_collection
from o1_bench.protocol import Protocol, protocol_named
from o1_bench.results.result import Result
from o1_bench.running.rerank import Reranker
from o1_bench.running.systems import (
    Options,
    ThinkingModel,
    open_system,
    refuse_equal_names,
    refuse_idle,
    refuse_incomplete,
    run_hybrid,
    run_reranked,
)
from o1_bench.running.task import Task, load_thoughts, slug
from o1_bench.score import Measure
from o1_records import InputError
from o1_records.files import is_folder


def run(
    model: str | Path | ThinkingModel,
    out: str | Path,
    *,
    suite: Sequence[str] = (),
    collection: Collection | str | Path | None = None,
    data: str | Path = "data",
    split: str | None = None,
    protocol: str | Protocol | None = None,
    name: str = "",
    hybrid: str | Path | ThinkingModel | None = None,
    hybrid_name: str = "",
    fusion: str | None = None,
    weights: Sequence[float] | None = None,
    rerank: str | Path | Reranker | None = None,
    rerank_top: int | None = None,
    measures: Sequence[Measure | str] | None = None,
    k: int = 1000,
    thoughts: str | Path | None = None,
    think_ms: float | None = None,
    oracle: bool = False,
    think: bool = False,
    controls: bool = False,
    seed: int | None = None,
    options: Options | None = None,
    new_job: bool = False,
    tell: Tell | None = None,
) -> dict[str, list[Result]]:
    """Run a model on each collection, keep the results and return them by collection.

    A rerun repeats nothing. The results are in `out/COLLECTION/SYSTEM`, the vectors of documents beside them.

    Args:
        model: `bm25`, a checkpoint or another model that thinks, a run (or a folder with one for each
            collection), the address of a server with the name of a model there (`http://HOST/v1#NAME`), or
            the folder or hub id of a sentence-transformers model.
        out: the folder of all results.
        suite: names of suites or collections, whose files are in folders under `data`.
        collection: instead of a suite, a collection: a BEIR folder, `ROOT/NAME`, or an object.
        data: see `suite`.
        split: of a BEIR folder; "test" by default.
        protocol: how the collections are evaluated, by its name; their own by default.
        name: what results call the model.
        hybrid: a second model; the results of both, without thoughts, are fused.
        hybrid_name: what results call it.
        fusion: how: "rrf" (the default), "minmax", "z" or "sum", see `o1_bench.running.retrieve.fused`.
        weights: of the two models in the fusion; equal by default.
        rerank: a cross-encoder that orders the first hits of every system, by its folder or hub id.
        rerank_top: how many; 100 by default.
        measures: those of the collection's protocol by default; the first one is the main one.
        k: the largest number of hits per query.
        thoughts: thoughts to run with (JSONL of Thought records), or a folder with one file per collection.
        think_ms: the time that writing them took, in milliseconds per query.
        oracle: the thoughts read the answer.
        think: the model writes thoughts of its own.
        controls: run empty, shuffled and filler thoughts and copies of the query too.
        seed: of the model's training or sampling; results of several seeds are shown as one, with the spread.
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
    loaders = _loaders(suite, collection, data, split, protocol)
    if thoughts and len(loaders) > 1 and not is_folder(thoughts):
        raise InputError(f"{thoughts}: {len(loaders)} collections need a folder with a file for each")
    options = options or Options()
    about_thoughts = {
        "thoughts": thoughts, "think_ms": think_ms, "oracle": oracle, "think": think, "controls": controls
    }  # fmt: skip
    set_options = options.changed
    set_options += [each for each, value in about_thoughts.items() if value not in (None, False)]
    needed = {"fusion": fusion, "weights": weights, "hybrid_name": hybrid_name, "rerank_top": rerank_top}
    set_options += [each for each, value in needed.items() if value]
    set_options += [each for each, value in (("hybrid", hybrid), ("rerank", rerank)) if value is not None]
    refuse_incomplete(set_options)
    named = [(model, name), (hybrid, hybrid_name)]
    models = [open_system(each, options, name=called) for each, called in named if each is not None]
    reranker = _reranker(rerank, options)
    refuse_idle(set_options, models, reranks=reranker is not None)
    refuse_equal_names(models)

    def run_on(name: str, loader: Callable[[], Collection]) -> list[Result]:
        asked = loader()
        task = Task(
            collection=asked,
            folder=Path(out) / slug(asked.name),
            measures=measures,
            k=k,
            thoughts=load_thoughts(thoughts, asked.name) if thoughts else (),
            think_ms=think_ms,
            oracle=oracle,
            think=think,
            controls=controls,
            seed=seed,
            new_job=new_job,
        )
        each = [list(system.run(task)) for system in models]
        results = [result for of_system in each for result in of_system]
        if hybrid is not None:
            results.append(run_hybrid(each[0][0], each[1][0], task, method=fusion or "rrf", weights=weights))
        if reranker is not None:
            fair = [result for result in results if result.system.kind != "control"]
            results += [run_reranked(result, reranker, task, top=rerank_top or 100) for result in fair]
        return results

    return attempt_each({name: partial(run_on, name, loader) for name, loader in loaders.items()}, tell)


def _loaders(
    suite: Sequence[str],
    collection: Collection | str | Path | None,
    data: str | Path,
    split: str | None,
    protocol: str | Protocol | None,
) -> dict[str, Callable[[], Collection]]:
    """Return what loads each collection, by its name or path; refuse what has no effect."""
    if split and (suite or isinstance(collection, Collection)):
        raise InputError("--split has an effect only on a BEIR folder, with --collection; leave it out")
    chosen = protocol_named(protocol) if isinstance(protocol, str) else protocol
    if isinstance(collection, Collection):
        changed = collection if chosen is None else collection.changed(protocol=chosen)
        return {collection.name: lambda: changed}
    if collection is not None:
        return {str(collection): partial(load_collection, collection, split, protocol=chosen)}
    return {name: partial(load, name, data, protocol=chosen) for name in expand(suite)}


def _reranker(rerank: str | Path | Reranker | None, options: Options) -> Reranker | None:
    if rerank is None or isinstance(rerank, Reranker):
        return rerank
    return Reranker(rerank, device=options.device, batch=options.batch, max_length=options.max_length)
