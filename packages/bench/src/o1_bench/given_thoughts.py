"""Systems that are given thoughts, at the cost that writing them had, and the controls beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from o1_bench.collection import digest
from o1_bench.controls import Texts, empty_thoughts, filler_thoughts, shuffled_thoughts, thought_texts
from o1_bench.pipeline import Pipeline
from o1_bench.result import Kind, Milliseconds, Result, System
from o1_bench.retrieve import Retrieve
from o1_bench.task import Task
from o1_records import InputError, Thought

CONTROLS: dict[str, Callable[[Mapping[str, Sequence[str]]], Texts]] = {
    "empty": empty_thoughts,
    "shuffled": shuffled_thoughts,
    "filler": filler_thoughts,
}
_SAMPLED = ("model", "revision", "prompt_digest", "temperature", "top_p", "max_tokens")
SAYS = {"empty": "room for a thought", "shuffled": "another query's thought", "filler": "same length"}


def with_given(
    task: Task, system: System, retrieve: Callable[[Texts], Retrieve | Pipeline]
) -> Iterator[Result]:
    """The system with the given thoughts appended, and the controls, each at the same cost."""
    if not task.thoughts:
        return
    texts = texts_of(task)
    with_them = paid(task, system, f"{system.name} + thought", "thoughts appended (Query2doc)")
    yield task.run(with_them, retrieve(texts))
    for control, change in CONTROLS.items() if task.controls else ():
        name = f"{system.name} + {control} thought"
        yield task.run(paid(task, system, name, SAYS[control], "control"), retrieve(change(texts)))


def paid(task: Task, system: System, name: str, note: str, kind: Kind = "system") -> System:
    """The system under another name with what given thoughts cost: time, tokens, who sampled them."""
    if task.oracle and kind == "system":
        kind, note = "oracle", f"oracle: {note}"
    if task.think_ms is None and kind != "control":
        note += "; the time of thinking is not known"
    asked = {query.query_id for query in task.collection.queries}
    given = [thought for thought in task.thoughts if thought.query_id in asked]
    sources = [thought.source for thought in given]
    sampled = sorted({tuple(getattr(source, name) for name in _SAMPLED) for source in sources})
    sampling = {
        "thoughts": [dict(zip(_SAMPLED, each, strict=True)) for each in sampled],
        "sha256": digest(given),
    }
    tokens = sum(source.completion_tokens for source in sources)
    return replace(
        system, name=name, note=note, kind=kind, thought_tokens=tokens, sampling=sampling,
        milliseconds=Milliseconds(think=task.think_ms),
    )  # fmt: skip


def texts_of(task: Task, thoughts: Iterator[Thought] | None = None) -> Texts:
    """The thoughts of each query that is asked; of some there may be none."""
    texts = thought_texts(task.thoughts if thoughts is None else thoughts)
    asked = [query.query_id for query in task.collection.queries]
    if not texts.keys() & set(asked):
        raise InputError(f"none of the thoughts is about a query of {task.collection.name}")
    return {query_id: texts.get(query_id, []) for query_id in asked}
