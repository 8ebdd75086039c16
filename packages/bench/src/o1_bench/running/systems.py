"""What `--model` stands for: systems with and without thoughts, and the controls beside them.

Models that think come from other packages, which register them in the entry-point group `o1_bench.systems`:
a callable `open_model(model, *, device, think_options, embed_options)` returns a `ThinkingModel`, or None
where the model is not one of its own. o1-model registers its checkpoints.

```toml
[project.entry-points."o1_bench.systems"]
o1-model = "o1_model.bench:open_model"
```
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec
from msgspec.structs import replace

from o1_bench.controls import CONTROLS, Texts
from o1_bench.results.result import RUN, THOUGHTS, Milliseconds, Result, System, known_sum
from o1_bench.running.encoder import EncodedCollection, SentenceEncoder
from o1_bench.running.pipeline import Pipeline, Vectors
from o1_bench.running.retrieve import Appended, bm25, from_run, fused
from o1_bench.running.task import Task, slug
from o1_records import Document, InputError, MissingExtraError, Query, Thought, read_jsonl, sha256_file
from o1_records.kit.models import CONFIGS, cached_folder, is_hub_id, model_folder
from o1_records.trec import read_run

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

GROUP = "o1_bench.systems"


class ThinkingModel(Protocol):
    """A model that embeds documents and queries, and writes thoughts about queries.

    Attributes:
        name: what results call it.
        device: where it runs.
        fingerprint: everything that changes its vectors and thoughts; values that JSON can hold. In it
            `thinking` and `engine` change thoughts only, `with_query` only vectors of queries with thoughts.
    """

    name: str
    device: str
    fingerprint: Mapping[str, Any]

    def documents(self, documents: Sequence[Document]) -> NDArray[float32]:
        """Return vectors of documents [documents, dim]."""
        ...

    def queries(
        self,
        queries: Sequence[Query],
        thoughts: Sequence[Sequence[Thought | str]] | None = None,
        *,
        with_query: bool = False,
    ) -> NDArray[float32]:
        """Return vectors of queries [queries, dim].

        `thoughts` has those of each query: records or texts, of which "" is an empty thought; a query
        without any, or None for all, is embedded as it is. `with_query` averages with that vector too.
        """
        ...

    def think(self, queries: Sequence[Query]) -> list[list[Thought]]:
        """Return the thoughts that the model writes about each query; blank ones are left out."""
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the models that run; those that have no effect are refused.

    Attributes:
        device: where a model runs.
        split_identifiers: BM25 splits `snake_case` and `camelCase`, for code.
        k1: BM25's k1.
        b: BM25's b.
        query_times: how often BM25 repeats the query before appended thoughts.
        batch: texts that a sentence-transformers model takes at a time.
        max_length: tokens of a text that it reads; its own limit by default.
        query_prompt: goes before its queries; `{instruction}` is replaced by the task.
        document_prompt: goes before its documents.
        think_options: options of a thinking model for thinking, as on its own command line.
        embed_options: the same for embedding.
    """

    device: str = "cpu"
    split_identifiers: bool = False
    k1: float = 0.9
    b: float = 0.4
    query_times: int = 1
    batch: int = 32
    max_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    think_options: Sequence[str] = ()
    embed_options: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Make equal options equal, whatever sequence they come in."""
        for name in ("think_options", "embed_options"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def changed(self) -> list[str]:
        """The names of the options that differ from their defaults."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]


class ModelUnderTest(ABC):
    """What a `--model` stands for, loaded.

    Attributes:
        kind: what it is, in words.
        uses: the names of Options, and of Task's attributes about thoughts, that have an effect on it.
    """

    kind: ClassVar[str]
    uses: ClassVar[frozenset[str]]

    @abstractmethod
    def run(self, task: Task) -> Iterator[Result]:
        """Run on one collection and yield the results, the one without thoughts first."""


def open_system(model: str | Path | ThinkingModel, options: Options | None = None) -> ModelUnderTest:
    """Return the system that a text names: it is loaded once and runs on any number of collections.

    In this order: `bm25`, a TREC run (or a folder with one for each collection), a model of the entry-point
    group `o1_bench.systems`, the folder or hub id of a sentence-transformers model.

    Raises InputError where it is none of them.
    """
    options = options or Options()
    if not isinstance(model, str | Path):
        return _Thinking(model)
    model, path = str(model), Path(model)
    if model == "bm25":
        return _Lexical(options)
    of_model = any((path / name).exists() for name in CONFIGS)
    if path.is_file() or (path.is_dir() and not of_model and any(path.glob("*.trec"))):
        return _GivenRuns(path)
    opened = _registered(model, options)
    if opened is None:
        new = is_hub_id(model) and cached_folder(model) is None
        try:
            folder = model_folder(model)  # downloads it
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-bench", "st", "A model of the hub") from error
        opened = _registered(model, options) if new else None
        if opened is None and (folder / "o1_layout.json").is_file():
            raise InputError(
                f"{model}: is a checkpoint of o1-model, which is not installed; pip install o1-model"
            )
    return _Encoder(model, options) if opened is None else _Thinking(opened)


def _registered(model: str, options: Options) -> ThinkingModel | None:
    """Return the model that an installed package opens, if one does."""
    from importlib.metadata import entry_points  # 40 ms that `import o1_bench` does not need

    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            open_model = entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"the entry point {entry.name!r} of {GROUP} cannot be loaded: {error}; install its package "
                "again, or uninstall it"
            ) from error
        opened: ThinkingModel | None = open_model(
            model,
            device=options.device,
            think_options=options.think_options,
            embed_options=options.embed_options,
        )
        if opened is not None:
            return opened
    return None


def refuse_idle(set_options: Sequence[str], systems: Sequence[ModelUnderTest]) -> None:
    """Raise InputError for options that are set and have no effect on any of the systems.

    The options are fields of Options, and attributes of Task that are about thoughts.
    """
    used = frozenset().union(*(system.uses for system in systems))
    kinds = " and ".join(dict.fromkeys(system.kind for system in systems))
    for name in set_options:
        if name not in used:
            raise InputError(f"{_flag(name)} has no effect on {kinds}; leave it out")


def refuse_incomplete(set_options: Sequence[str]) -> None:
    """Raise InputError for options that are set and have an effect only beside another one."""
    for name, needed in _ONLY_WITH.items():
        if name in set_options and not set(needed).intersection(set_options):
            others = " or ".join(map(_flag, needed))
            raise InputError(f"{_flag(name)} has an effect only with {others}; give both, or leave it out")


_ONLY_WITH = {
    "think_ms": ["thoughts"],
    "oracle": ["thoughts"],
    "query_times": ["thoughts"],
    "think_options": ["think"],
    "controls": ["thoughts", "think"],
}


def run_hybrid(first: Result, second: Result, task: Task) -> Result:
    """Fuse the runs of two results by reciprocal rank; their costs add up, as far as they are known."""
    files = [task.folder_of(result.name) / RUN for result in (first, second)]
    systems = first.system, second.system
    unknown = [f"the time of {s.name} is not known" for s in systems if s.milliseconds.total is None]
    system = System(
        name=f"{first.name} + {second.name}",
        note="; ".join(["reciprocal rank fusion", *unknown]),
        encoder={"runs": [sha256_file(path) for path in files]},
        milliseconds=Milliseconds(
            **{
                stage: known_sum([getattr(each.milliseconds, stage) for each in systems])
                for stage in Milliseconds.__struct_fields__
            }
        ),
        thought_tokens=sum(each.thought_tokens for each in systems),
        index_bytes=sum(each.index_bytes or 0 for each in systems) or None,
        index_seconds=known_sum([each.index_seconds for each in systems]),
        device=", ".join(dict.fromkeys(each.device for each in systems if each.device)),
    )
    return task.run(system, fused(*(from_run(read_run(path)) for path in files)))


_GIVEN = frozenset({"thoughts", "think_ms", "oracle", "controls"})


class _Lexical(ModelUnderTest):
    kind = "bm25"
    uses = _GIVEN | {"split_identifiers", "k1", "b", "query_times"}

    def __init__(self, options: Options) -> None:
        names = ("k1", "b", "split_identifiers")
        self._settings: dict[str, Any] = {name: getattr(options, name) for name in names}
        self._times = options.query_times

    def run(self, task: Task) -> Iterator[Result]:
        began = time.perf_counter()
        search = bm25(task.collection, **self._settings)
        system = System(
            name="BM25",
            encoder={"model": "bm25s", **self._settings},
            index_bytes=search.nbytes,
            index_seconds=time.perf_counter() - began,
            device="cpu",
        )
        yield task.run(system, search)
        repeated = replace(system, encoder=system.encoder | {"query_times": self._times})
        yield from task.with_given_thoughts(repeated, lambda texts: Appended(search, texts, self._times))


class _GivenRuns(ModelUnderTest):
    kind = "a TREC run"
    uses = frozenset()

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, task: Task) -> Iterator[Result]:
        file = self._path
        if not file.is_file():
            file = self._path / f"{slug(task.collection.name)}.trec"
        if not file.is_file():
            raise InputError(f"{file}: no such run; a folder of runs needs one for each collection")
        name = self._path.stem
        if (task.folder_of(name) / RUN).resolve() == file.resolve():
            raise InputError(f"{file}: would be overwritten by its own result; choose another --out")
        system = System(name=name, note="a run that was given", encoder={"sha256": sha256_file(file)})
        yield task.run(system, from_run(read_run(file)))


class _Encoder(ModelUnderTest):
    kind = "a sentence-transformers model"
    uses = _GIVEN | {"device", "batch", "max_length", "query_prompt", "document_prompt"}

    def __init__(self, model: str, options: Options) -> None:
        names = ("device", "batch", "max_length", "query_prompt", "document_prompt")
        self._model = SentenceEncoder(model, **{name: getattr(options, name) for name in names})

    def run(self, task: Task) -> Iterator[Result]:
        model, name = self._model, self._model.name
        encoded = EncodedCollection(
            task.collection, model.documents, model.encoder, task.folder / f"{slug(name)}.documents",
            new_job=task.new_job, progress=True,
        )  # fmt: skip
        system = System(
            name=name,
            encoder=model.fingerprint,
            prompts=model.prompts,
            index_bytes=encoded.search.nbytes,
            index_seconds=encoded.seconds,
            device=model.device,
        )

        def pipeline(embed: Callable[..., Vectors], texts: Texts | None) -> Pipeline:
            def instructed(queries: Sequence[Query], *, thoughts: Sequence[Sequence[str]] | None) -> Vectors:
                # a query's own instruction wins over the collection's
                task_text = task.collection.instruction
                return embed([replace(q, instruction=q.instruction or task_text) for q in queries], thoughts)

            return Pipeline(embed=instructed, search=encoded.search, thoughts=texts)

        yield task.run(system, pipeline(model.queries, None))
        yield from task.with_given_thoughts(system, partial(pipeline, model.queries))
        if task.thoughts:
            hyde = task.paid(system, f"{name}, HyDE", "thoughts embedded as documents")
            yield task.run(hyde, pipeline(model.hyde, task.texts()))


_OF_THOUGHTS = ("thinking", "engine")


class _Thinking(ModelUnderTest):
    kind = "a model that thinks"
    uses = _GIVEN | {"device", "think", "think_options", "embed_options"}

    def __init__(self, model: ThinkingModel) -> None:
        self._model = model

    def run(self, task: Task) -> Iterator[Result]:
        from o1_records.vectors import Encoder

        model, name = self._model, self._model.name
        of_vectors = {key: value for key, value in model.fingerprint.items() if key not in _OF_THOUGHTS}
        of_documents = {key: value for key, value in of_vectors.items() if key != "with_query"}
        encoder = Encoder(
            model=name,
            digest=msgspec.json.encode(of_documents, order="sorted").decode(),
            layout="",
            pooling="",
            max_length=0,
            role="document",
        )
        encoded = EncodedCollection(
            task.collection, model.documents, encoder, task.folder / f"{slug(name)}.documents",
            new_job=task.new_job, progress=True,
        )  # fmt: skip
        system = System(
            name=name,
            encoder=of_documents,
            index_bytes=encoded.search.nbytes,
            index_seconds=encoded.seconds,
            device=model.device,
        )

        def given(texts: Texts | None) -> Pipeline:
            return Pipeline(embed=model.queries, search=encoded.search, thoughts=texts)

        yield task.run(system, given(None))
        with_thoughts = replace(system, encoder=of_vectors)
        yield from task.with_given_thoughts(with_thoughts, given, "given thoughts")
        if not task.think:
            return
        thinking = Pipeline(
            think=lambda queries: chain.from_iterable(model.think(queries)),
            embed=model.queries,
            search=encoded.search,
        )
        sampling = {key: model.fingerprint[key] for key in _OF_THOUGHTS if key in model.fingerprint}
        sampled = replace(with_thoughts, name=f"{name}, thinking", sampling=sampling)
        own = task.run(sampled, thinking)
        yield own
        if not task.controls:
            return
        texts = task.texts(read_jsonl(task.folder_of(own.name) / THOUGHTS, Thought))
        for control, (change, says) in CONTROLS.items():
            changed = replace(
                sampled, name=f"{name}, {control} thoughts", kind="control", note=says,
                milliseconds=Milliseconds(think=own.system.milliseconds.think),
                thought_tokens=own.system.thought_tokens,
            )  # fmt: skip
            yield task.run(changed, given(change(texts)))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
