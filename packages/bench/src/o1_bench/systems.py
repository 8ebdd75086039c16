"""What `--model` stands for: systems with and without thoughts, and the controls beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from o1_bench.checkpoint_commands import CheckpointSearch
from o1_bench.controls import Texts
from o1_bench.encoder import EncodedCollection, SentenceEncoder
from o1_bench.given_thoughts import CONTROLS, SAYS, paid, texts_of, with_given
from o1_bench.pipeline import Pipeline
from o1_bench.result import Milliseconds, Result, System
from o1_bench.retrieve import Appended, bm25, from_run, fused
from o1_bench.task import Task, slug
from o1_records import InputError, Thought, read_jsonl, sha256_file
from o1_records.trec import read_run

LAYOUT = "o1_layout.json"  # stands in every checkpoint of o1-model


def run_model(model: str, task: Task) -> list[Result]:
    """Run what a text names, without thoughts first.

    `bm25`, a checkpoint of o1-model, a TREC run (or a folder with one per collection), or the
    folder or hub id of a sentence-transformers model.
    """
    path = Path(model)
    if model == "bm25":
        return list(_bm25(task))
    if (path / LAYOUT).is_file():
        return list(_checkpoint(path, task))
    if path.is_file() or (path.is_dir() and any(path.glob("*.trec"))):
        return [_run_file(path, task)]
    return list(_encoder(model, task))


def run_hybrid(first: Result, second: Result, task: Task) -> Result:
    """Fuse the runs of two results by reciprocal rank; their costs add up, as far as they are known."""
    files = [task.folder / slug(result.name) / "run.trec" for result in (first, second)]
    systems = first.system, second.system
    unknown = [f"the time of {s.name} is not known" for s in systems if s.milliseconds.total is None]
    system = System(
        name=f"{first.name} + {second.name}",
        note="; ".join(["reciprocal rank fusion", *unknown]),
        encoder={"runs": [sha256_file(path) for path in files]},
        milliseconds=_summed([each.milliseconds for each in systems]),
        thought_tokens=sum(each.thought_tokens for each in systems),
        index_bytes=sum(each.index_bytes or 0 for each in systems) or None,
        index_seconds=_total([each.index_seconds for each in systems]),
        device=", ".join(dict.fromkeys(each.device for each in systems if each.device)),
    )
    return task.run(system, fused(*(from_run(read_run(path)) for path in files)))


def _bm25(task: Task) -> Iterator[Result]:
    began = time.perf_counter()
    search = bm25(task.collection, **task.lexical)
    seconds = time.perf_counter() - began
    system = System(
        name="BM25",
        encoder={"model": "bm25s", "k1": 0.9, "b": 0.4} | dict(task.lexical),
        index_bytes=search.nbytes,
        index_seconds=seconds,
        device="cpu",
    )
    yield task.run(system, search)
    repeated = replace(system, encoder=system.encoder | {"query_times": task.query_times})
    yield from with_given(task, repeated, lambda texts: Appended(search, texts, task.query_times))


def _encoder(model: str, task: Task) -> Iterator[Result]:
    encoder = SentenceEncoder(model, device=task.device, **task.encoder)
    name = Path(model).name
    encoded = EncodedCollection(
        encoder, task.collection, task.folder / f"{slug(name)}.documents", progress=True
    )
    system = System(
        name=name,
        encoder=encoder.fingerprint,
        prompts=encoder.prompts,
        index_bytes=encoded.search.nbytes,
        index_seconds=encoded.seconds,
        device=task.device,
    )

    def appended(texts: Texts | None) -> Pipeline:
        return Pipeline(embed=encoded.appended, search=encoded.search, thoughts=texts)

    yield task.run(system, appended(None))
    yield from with_given(task, system, appended)
    if task.thoughts:
        hyde = paid(task, system, f"{name}, HyDE", "thoughts embedded as documents")
        texts = texts_of(task)
        yield task.run(hyde, Pipeline(embed=encoded.hyde, search=encoded.search, thoughts=texts))


def _checkpoint(model: Path, task: Task) -> Iterator[Result]:
    name = model.resolve().name
    search = CheckpointSearch(
        model, task.collection, task.folder / f"{slug(name)}.work", device=task.device, options=task.options
    )
    size = search.build()
    system = System(
        name=name,
        note="times include starting the commands",
        encoder={"checkpoint": name, "layout": sha256_file(model / LAYOUT)} | _weights(model),
        sampling={"options": {command: list(words) for command, words in task.options.items()}},
        index_bytes=size,
        index_seconds=search.seconds,
        device=task.device,
    )
    all_at_once = len(task.collection.queries)  # every call loads the model

    def given(texts: Texts | None) -> Pipeline:
        return Pipeline(embed=search.embed, search=search.search, thoughts=texts)

    yield task.run(system, given(None), part=all_at_once)
    if task.thoughts:
        with_them = paid(task, system, f"{name} + thought", "given thoughts")
        yield task.run(with_them, given(texts_of(task)), part=all_at_once)
    if task.think:
        thinking = Pipeline(think=search.think, embed=search.embed, search=search.search)
        own = task.run(replace(system, name=f"{name}, thinking"), thinking, part=all_at_once)
        yield own
        thoughts = read_jsonl(task.folder / slug(own.name) / "thoughts.jsonl", Thought)
        texts = texts_of(task, thoughts)
        # o1-model's file of thoughts cannot hold an empty one: that control needs its Python
        for control in ("shuffled", "filler") if task.controls else ():
            changed = replace(
                system, name=f"{name}, {control} thoughts", kind="control", note=SAYS[control],
                milliseconds=Milliseconds(think=own.system.milliseconds.think),
                thought_tokens=own.system.thought_tokens,
            )  # fmt: skip
            yield task.run(changed, given(CONTROLS[control](texts)), part=all_at_once)


def _run_file(path: Path, task: Task) -> Result:
    file = path if path.is_file() else path / f"{slug(task.collection.name)}.trec"
    if not file.is_file():
        raise InputError(f"{file}: no such run; a folder of runs has one for each collection")
    system = System(name=path.stem, note="a run that was given", encoder={"sha256": sha256_file(file)})
    return task.run(system, from_run(read_run(file)))


def _weights(model: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(model.glob("*.safetensors"))}


def _summed(times: Sequence[Milliseconds]) -> Milliseconds:
    return Milliseconds(
        think=_total([each.think for each in times]),
        embed=_total([each.embed for each in times]),
        search=_total([each.search for each in times]),
    )


def _total(values: Sequence[float | None]) -> float | None:
    """The sum of those that are known; None when none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
