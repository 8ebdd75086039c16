"""One collection, how systems run on it, and the thoughts that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from o1_bench.collection import Collection, digest
from o1_bench.controls import Control, Texts, controls_of, thought_texts
from o1_bench.results.exchange import slug
from o1_bench.results.result import RUN, Kind, Milliseconds, Result, System
from o1_bench.results.trace import save_trace, traces
from o1_bench.running.evaluate import evaluate
from o1_bench.running.pipeline import Pipeline
from o1_bench.running.retrieve import Retrieve
from o1_bench.running.trace import trace
from o1_bench.score import Measure
from o1_records import InputError, Thought, read_jsonl
from o1_records.files import is_folder
from o1_records.mixture import Mixture, Reading

__all__ = ["Task", "load_thoughts", "slug"]

_READ: dict[Reading, str] = {
    "document": "read as a document",
    "query": "read as a query",
    "joint": "read in one row with the query",
}
_SAMPLED = ("model", "revision", "prompt_digest", "temperature", "top_p", "max_tokens")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One collection, and how systems run on it.

    Attributes:
        collection: what is asked, and of what.
        folder: each system gets a folder in it.
        measures: the first one is the main one; those of the collection's protocol by default.
        k: the largest number of hits per query.
        thoughts: existing thoughts about the queries.
        think_ms: the time that writing them took, in milliseconds per query; None: unknown.
        oracle: whether those thoughts read the answer; results then say so.
        think: whether models that can think write thoughts of their own.
        controls: whether empty, shuffled and filler thoughts and copies of the query run too.
        seed: of the system's training or sampling, which tells its results from those of other seeds.
        new_job: move results that were made with other settings aside, instead of refusing them.
    """

    collection: Collection
    folder: Path
    measures: Sequence[Measure | str] | None = None
    k: int = 1000
    thoughts: Sequence[Thought] = ()
    think_ms: float | None = None
    oracle: bool = False
    think: bool = False
    controls: bool = False
    seed: int | None = None
    new_job: bool = False

    def folder_of(self, name: str) -> Path:
        """Return the folder of a system by its name."""
        return self.folder / slug(name if self.seed is None else f"{name} seed {self.seed}")

    def run(self, system: System, retrieve: Retrieve | Pipeline) -> Result:
        """Run one system, or take what an earlier call kept."""
        return evaluate(
            self.collection, retrieve, system=replace(system, seed=self.seed),
            folder=self.folder_of(system.name), k=self.k, measures=self.measures, progress=True,
            new_job=self.new_job,
        )  # fmt: skip

    def with_given_thoughts(
        self,
        name: str,
        retrieve: Callable[[Texts], Retrieve | Pipeline],
        note: str = "thoughts appended (Query2doc)",
        *,
        given: str = "{} + thought",
        control: str = "{} + {} thought",
    ) -> Iterator[Result]:
        """Run a system with the given thoughts, if there are some, and with the controls at the same cost.

        Args:
            name: of the system.
            retrieve: makes it of texts.
            note: of the run with the thoughts.
            given: what that run is called, with the name in it.
            control: what a control is called, with the system's name and its own in it.
        """
        if not self.thoughts:
            return
        texts = self.texts()
        yield self.run(self.paid(given.format(name), note), retrieve(texts))
        for kind, (changed, says) in self.controls_of(texts).items() if self.controls else ():
            yield self.run(self.paid(control.format(name, kind), says, "control"), retrieve(changed))

    def with_mixtures(
        self,
        name: str,
        retrieve: Callable[[Texts, Mixture], Retrieve | Pipeline],
        mixtures: Sequence[Mixture],
        thoughts: Sequence[Thought],
        paid: Callable[[str, str, Kind], System],
        *,
        how: str = "",
        what: str = "thought",
    ) -> Iterator[Result]:
        """Run a system with thoughts mixed in by each weight, and with the controls at the same weights.

        Beside the result of each mixture goes what the thoughts did to each query (`results.trace`).

        Args:
            name: of the system.
            retrieve: makes it of texts and a mixture.
            mixtures: a weight of 1 is the thoughts alone, without controls.
            thoughts: what is mixed in.
            paid: the system of a name, a note and a kind, with what the thoughts cost.
            how: what is mixed, for the note; by default how the thoughts are read.
            what: what results call the thoughts.
        """
        texts = self.texts(thoughts)
        for mixture in mixtures:
            weight = mixture.weight
            read = how or _READ[mixture.reading]
            if weight == 1:
                yield self.run(
                    paid(f"{name}, {what} alone", f"nothing but thoughts, {read}", "system"),
                    retrieve(texts, mixture),
                )
                continue
            note = f"{1 - weight:.3g} query + {weight:.3g} thought, {read}"
            system = paid(f"{name}, {weight:g} {what}", note, "system")
            yield self._run_traced(system, retrieve(texts, mixture), texts, thoughts)
            for kind, (changed, says) in self.controls_of(texts).items() if self.controls else ():
                control = paid(f"{name}, {weight:g} {kind} {what}", says, "control")
                yield self._run_traced(control, retrieve(changed, mixture), changed)

    def _run_traced(
        self, system: System, retrieve: Retrieve | Pipeline, texts: Texts, thoughts: Sequence[Thought] = ()
    ) -> Result:
        """Run a mixture, and write beside its result what the thoughts did to each query."""
        result, folder = self.run(system, retrieve), self.folder_of(system.name)
        if not traces(folder, result.files[RUN]):
            told = trace(self.collection, retrieve, run=result.files[RUN], texts=texts, thoughts=thoughts)
            if told is not None:
                save_trace(folder, told)
        return result

    def controls_of(self, texts: Texts) -> dict[str, Control]:
        """Return the controls of the thoughts about the queries."""
        return controls_of(texts, self.collection.queries)

    def paid(self, name: str, note: str, kind: Kind = "system") -> System:
        """Return a system of that name with the cost and the sampling of the given thoughts."""
        if self.oracle and kind == "system":
            kind, note = "oracle", f"oracle: {note}"
        if self.think_ms is None and kind != "control":
            note += "; the time of thinking is not known"
        asked = {query.query_id for query in self.collection.queries}
        given = [thought for thought in self.thoughts if thought.query_id in asked]
        sources = [thought.source for thought in given]
        sampled = sorted({tuple(getattr(source, name) for name in _SAMPLED) for source in sources})
        sampling = {
            "thoughts": [dict(zip(_SAMPLED, each, strict=True)) for each in sampled],
            "sha256": digest(given),
        }
        tokens = sum(source.completion_tokens for source in sources)
        return System(
            name=name, note=note, kind=kind, thought_tokens=tokens, sampling=sampling,
            milliseconds=Milliseconds(think=self.think_ms),
        )  # fmt: skip

    def texts(self, thoughts: Iterable[Thought] | None = None) -> Texts:
        """Return the thoughts, by default the given ones, of each query; a query may have none.

        Raises InputError when none is about a query of the collection.
        """
        texts = thought_texts(self.thoughts if thoughts is None else thoughts)
        asked = [query.query_id for query in self.collection.queries]
        if not texts.keys() & set(asked):
            raise InputError(f"none of the thoughts is about a query of {self.collection.name}")
        return {query_id: texts.get(query_id, []) for query_id in asked}


def load_thoughts(path: str | Path, collection: str) -> list[Thought]:
    """Return the thoughts in a file, or in the file for a collection of a folder."""
    path = Path(path)
    return list(read_jsonl(path / f"{slug(collection)}.jsonl" if is_folder(path) else path, Thought))
