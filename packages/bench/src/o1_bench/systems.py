"""What `--model` stands for: systems with and without thoughts, and the controls beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from o1_bench.collection import Collection
from o1_bench.commands import CheckpointSearch
from o1_bench.controls import Texts, empty_thoughts, filler_thoughts, shuffled_thoughts, thought_texts
from o1_bench.encoder import EncodedCollection, SentenceEncoder
from o1_bench.evaluate import evaluate
from o1_bench.pipeline import Pipeline
from o1_bench.result import Kind, Milliseconds, Result, System
from o1_bench.retrieve import Appended, Retrieve, bm25, from_run, fused
from o1_bench.score import Measure
from o1_records import InputError, Thought, read_jsonl, sha256_file
from o1_records.trec import read_run

LAYOUT = "o1_layout.json"  # stands in every checkpoint of o1-model
CONTROLS: dict[str, Callable[[Mapping[str, Sequence[str]]], Texts]] = {
    "empty": empty_thoughts,
    "shuffled": shuffled_thoughts,
    "filler": filler_thoughts,
}
_SAYS = {"empty": "room for a thought", "shuffled": "another query's thought", "filler": "same length"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One collection, and how systems run on it.

    Attributes:
        collection: what is asked, and of what.
        folder: each system gets a folder in here.
        measures: the first one is the main one.
        k: hits a query.
        thoughts: thoughts about the queries that are there already.
        think_ms: what writing them took, in milliseconds per query; None: not known.
        oracle: whether those thoughts look at the answer, so that results must say so.
        think: whether a checkpoint writes thoughts of its own.
        controls: whether the controls run beside what thinks.
        device: where models run.
        lexical: settings of BM25.
        query_times: how often BM25 reads the query before appended thoughts.
        encoder: settings of a sentence-transformers model.
        options: more options for the commands of o1-model, by command.
    """

    collection: Collection
    folder: Path
    measures: Sequence[Measure]
    k: int = 1000
    thoughts: Sequence[Thought] = ()
    think_ms: float | None = None
    oracle: bool = False
    think: bool = False
    controls: bool = False
    device: str = "cpu"
    lexical: Mapping[str, Any] = field(default_factory=dict)
    query_times: int = 1
    encoder: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def run(self, system: System, retrieve: Retrieve | Pipeline, *, part: int = 256) -> Result:
        """Run one system, or take what an earlier call kept."""
        return evaluate(
            self.collection, retrieve, system=system, folder=self.folder / slug(system.name), k=self.k,
            measures=self.measures, part=part, progress=True,
        )  # fmt: skip


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
    """Fuse the runs of two results by reciprocal rank; their costs add up."""
    files = [task.folder / slug(result.name) / "run.trec" for result in (first, second)]
    systems = first.system, second.system
    system = System(
        name=f"{first.name} + {second.name}",
        note="reciprocal rank fusion",
        encoder={"runs": [sha256_file(path) for path in files]},
        milliseconds=_summed([each.milliseconds for each in systems]),
        thought_tokens=sum(each.thought_tokens for each in systems),
        index_bytes=sum(each.index_bytes or 0 for each in systems) or None,
        device=", ".join(dict.fromkeys(each.device for each in systems if each.device)),
    )
    return task.run(system, fused(*(from_run(read_run(path)) for path in files)))


def slug(name: str) -> str:
    """A name as the name of a folder: never a path, never hidden. Raises InputError for none."""
    found = re.sub(r"[^\w.-]+", "-", name.lower().replace("+", "and")).strip("-.")
    if not found:
        raise InputError(f"{name!r} has nothing to name a folder by; choose another name")
    return found


def _bm25(task: Task) -> Iterator[Result]:
    search = bm25(task.collection, **task.lexical)
    system = System(
        name="BM25",
        encoder={"model": "bm25s", "k1": 0.9, "b": 0.4} | dict(task.lexical),
        index_bytes=search.nbytes,
        device="cpu",
    )
    yield task.run(system, search)
    repeated = replace(system, encoder=system.encoder | {"query_times": task.query_times})
    yield from _thinking(task, repeated, lambda texts: Appended(search, texts, task.query_times))


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
        device=task.device,
    )

    def appended(texts: Texts | None) -> Pipeline:
        return Pipeline(embed=encoded.appended, search=encoded.search, thoughts=texts)

    yield task.run(system, appended(None))
    yield from _thinking(task, system, appended)
    if task.thoughts:
        hyde = _paid(task, system, f"{name}, HyDE", "thoughts embedded as documents")
        texts = _texts(task)
        yield task.run(hyde, Pipeline(embed=encoded.hyde, search=encoded.search, thoughts=texts))


def _checkpoint(model: Path, task: Task) -> Iterator[Result]:
    name = model.resolve().name
    search = CheckpointSearch(
        model, task.collection, task.folder / f"{slug(name)}.work", device=task.device, options=task.options
    )
    system = System(
        name=name,
        note="times include starting the commands",
        encoder={"checkpoint": name, "layout": sha256_file(model / LAYOUT)} | _weights(model),
        sampling={"options": {command: list(words) for command, words in task.options.items()}},
        index_bytes=search.build(),
        device=task.device,
    )
    all_at_once = len(task.collection.queries)  # every call loads the model

    def given(texts: Texts | None) -> Pipeline:
        return Pipeline(embed=search.embed, search=search.search, thoughts=texts)

    yield task.run(system, given(None), part=all_at_once)
    if task.thoughts:
        with_them = _paid(task, system, f"{name} + thought", "given thoughts")
        yield task.run(with_them, given(_texts(task)), part=all_at_once)
    if task.think:
        thinking = Pipeline(think=search.think, embed=search.embed, search=search.search)
        own = task.run(replace(system, name=f"{name}, thinking"), thinking, part=all_at_once)
        yield own
        thoughts = read_jsonl(task.folder / slug(own.name) / "thoughts.jsonl", Thought)
        texts = _texts(task, thoughts)
        # o1-model's file of thoughts cannot hold an empty one: that control needs its Python
        for control in ("shuffled", "filler") if task.controls else ():
            changed = replace(
                system, name=f"{name}, {control} thoughts", kind="control", note=_SAYS[control],
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


def _thinking(
    task: Task, system: System, retrieve: Callable[[Texts], Retrieve | Pipeline]
) -> Iterator[Result]:
    """The system with the given thoughts appended, and the controls, each at the same cost."""
    if not task.thoughts:
        return
    texts = _texts(task)
    with_them = _paid(task, system, f"{system.name} + thought", "thoughts appended (Query2doc)")
    yield task.run(with_them, retrieve(texts))
    for control, change in CONTROLS.items() if task.controls else ():
        name = f"{system.name} + {control} thought"
        yield task.run(_paid(task, system, name, _SAYS[control], "control"), retrieve(change(texts)))


def _paid(task: Task, system: System, name: str, note: str, kind: Kind = "system") -> System:
    """The system under another name with what given thoughts cost: time, tokens, who sampled them."""
    if task.oracle and kind == "system":
        kind, note = "oracle", f"oracle: {note}"
    if task.think_ms is None and kind != "control":
        note += "; the time of thinking is not known"
    asked = {query.query_id for query in task.collection.queries}
    sources = [thought.source for thought in task.thoughts if thought.query_id in asked]
    thinkers = sorted({(source.model, source.temperature, source.max_tokens) for source in sources})
    sampling = {
        "thoughts": [dict(zip(("model", "temperature", "max_tokens"), t, strict=True)) for t in thinkers]
    }
    tokens = sum(source.completion_tokens for source in sources)
    return replace(
        system, name=name, note=note, kind=kind, thought_tokens=tokens, sampling=sampling,
        milliseconds=Milliseconds(think=task.think_ms),
    )  # fmt: skip


def _texts(task: Task, thoughts: Iterator[Thought] | None = None) -> Texts:
    """The thoughts of each query that is asked; of some there may be none."""
    texts = thought_texts(task.thoughts if thoughts is None else thoughts)
    asked = [query.query_id for query in task.collection.queries]
    if not texts.keys() & set(asked):
        raise InputError(f"none of the thoughts is about a query of {task.collection.name}")
    return {query_id: texts.get(query_id, []) for query_id in asked}


def _weights(model: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(model.glob("*.safetensors"))}


def _summed(times: Sequence[Milliseconds]) -> Milliseconds:
    def total(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Milliseconds(
        think=total([each.think for each in times]),
        embed=total([each.embed for each in times]),
        search=total([each.search for each in times]),
    )
