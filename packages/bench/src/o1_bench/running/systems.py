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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from o1_bench.controls import Texts
from o1_bench.results.exchange import find_run, has_runs, read_any_run, run_name
from o1_bench.results.result import RUN, THOUGHTS, Kind, Milliseconds, Result, System, known_sum
from o1_bench.running.about import About
from o1_bench.running.encoder import EncodedCollection, SentenceEncoder, TextEncoder, readable_name
from o1_bench.running.endpoint import EndpointEncoder
from o1_bench.running.mixture import MixedLexical, MixedVectors
from o1_bench.running.pipeline import Pipeline, Vectors
from o1_bench.running.rerank import Reranked, Reranker
from o1_bench.running.retrieve import Appended, Fused, bm25, from_run
from o1_bench.running.task import Task, slug
from o1_records import Document, InputError, MissingExtraError, Query, Thought, read_jsonl
from o1_records.files import is_file, is_folder
from o1_records.kit.http import is_address
from o1_records.kit.models import CONFIGS, cached_folder, is_hub_id, model_folder
from o1_records.mixture import Mixture, Reading
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
            `thinking` and `engine` change thoughts only, `with_query` and `mixture` only vectors of queries
            with thoughts. A model with a `mixture` mixes thoughts in by itself, and reads none in one row
            with its query.
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

    def sample(self, queries: Sequence[Query], documents: Sequence[Document]) -> tuple[list[str], list[str]]:
        """Return the texts that the model really reads for queries and documents.

        They are its token ids decoded, control tokens visible, cut as they are cut.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the models that run; those that have no effect are refused.

    Attributes:
        device: where a model runs.
        split_identifiers: BM25 splits `snake_case` and `camelCase`, for code.
        k1: BM25's k1.
        b: BM25's b.
        query_weights: BM25 weighs the terms of queries too, as BRIGHT's published baseline does.
        query_times: how often BM25 repeats the query before appended thoughts.
        batch: texts that an encoder takes at a time.
        max_length: tokens of a text that a sentence-transformers model reads; the protocol's limit or its own
            by default.
        query_prompt: goes before an encoder's queries; `{instruction}` is replaced by the task.
        document_prompt: goes before its documents.
        think_options: options of a thinking model for thinking, as on its own command line.
        embed_options: the same for embedding.
        mix: the shares that thoughts get in a query (`o1_records.mixture`), between 0 and 1, each in a run of
            its own; beside them there is a run with the thoughts alone.
        reading: how thoughts are read for that: as a "document", as a "query", or "joint", in one row with
            the query.
    """

    device: str = "cpu"
    split_identifiers: bool = False
    k1: float = 0.9
    b: float = 0.4
    query_weights: bool = False
    query_times: int = 1
    batch: int = 32
    max_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    think_options: Sequence[str] = ()
    embed_options: Sequence[str] = ()
    mix: Sequence[float] = (Mixture().weight,)
    reading: Reading = "document"

    def __post_init__(self) -> None:
        """Make equal options equal, whatever sequence they come in; refuse weights that mix nothing."""
        for name in ("think_options", "embed_options", "mix"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for weight in self.mix:
            if not 0 < weight < 1:
                raise InputError(f"mix must be more than 0 and less than 1, got {weight:g}")
        _ = self.mixtures  # refuses an unknown reading

    @property
    def mixtures(self) -> list[Mixture]:
        """How thoughts are mixed in, the smallest share first; the last one is the thoughts alone."""
        weights = [*sorted(set(self.mix)), 1.0]
        return [Mixture(weight=weight, reading=self.reading) for weight in weights]

    @property
    def changed(self) -> list[str]:
        """The names of the options that differ from their defaults."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]


class ModelUnderTest(ABC):
    """What a `--model` stands for, loaded.

    Attributes:
        kind: what it is, in words.
        uses: the names of Options, and of Task's attributes about thoughts, that have an effect on it.
        name: what results call it.
    """

    kind: ClassVar[str]
    uses: ClassVar[frozenset[str]]
    name: str

    @abstractmethod
    def run(self, task: Task) -> Iterator[Result]:
        """Run on one collection and yield the results, the one without thoughts first."""


def open_system(
    model: str | Path | ThinkingModel, options: Options | None = None, *, name: str = ""
) -> ModelUnderTest:
    """Return the system that a text names: it is loaded once and runs on any number of collections.

    In this order: `bm25`, the address of a server (`http://HOST/v1#NAME`), a run (or a folder with one for
    each collection), a model of the entry-point group `o1_bench.systems`, the folder or hub id of a
    sentence-transformers model. `name` is what results call it; else it is called after its file or model.

    Raises InputError where it is none of them.
    """
    options = options or Options()
    if not isinstance(model, str | Path):
        return _Thinking(model, name or model.name, options.mixtures)
    model, path = str(model), Path(model)
    if model == "bm25":
        return _Lexical(options, name or "BM25")
    if is_address(model):
        return _Endpoint(model, options, name)
    of_model = any((path / config).exists() for config in CONFIGS)
    if is_file(path) or (is_folder(path) and not of_model and has_runs(path)):
        return _GivenRuns(path, name)
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
    if opened is None:
        return _Encoder(model, options, name)
    return _Thinking(opened, name or readable_name(model), options.mixtures)


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


def refuse_idle(
    set_options: Sequence[str], systems: Sequence[ModelUnderTest], *, reranks: bool = False
) -> None:
    """Raise InputError for options that are set and have no effect on any of the systems.

    The options are fields of Options, and arguments of `run` that are about thoughts, fusion and reranking.
    """
    used = frozenset(_ONLY_WITH["fusion"]).union(*(system.uses for system in systems))
    used |= {"fusion", "weights", "hybrid_name", "rerank", "rerank_top"}
    used |= {"device", "batch", "max_length"} if reranks else set()
    kinds = [system.kind for system in systems] + ["a cross-encoder"] * reranks
    for name in set_options:
        if name not in used:
            named = " and ".join(dict.fromkeys(kinds))
            raise InputError(f"{_flag(name)} has no effect on {named}; leave it out")


def refuse_incomplete(set_options: Sequence[str]) -> None:
    """Raise InputError for options that are set and have an effect only beside another one."""
    for name, needed in _ONLY_WITH.items():
        if name in set_options and not set(needed).intersection(set_options):
            others = " or ".join(map(_flag, needed))
            raise InputError(f"{_flag(name)} has an effect only with {others}; give both, or leave it out")


def refuse_equal_names(systems: Sequence[ModelUnderTest]) -> None:
    """Raise InputError for two systems whose results would share a folder."""
    if len({slug(system.name) for system in systems}) < len(systems):
        raise InputError(
            f"both models would be called {systems[0].name!r} in results; give one another --name or "
            "--hybrid-name"
        )


_ONLY_WITH = {
    "think_ms": ["thoughts"],
    "oracle": ["thoughts"],
    "query_times": ["thoughts"],
    "think_options": ["think"],
    "controls": ["thoughts", "think"],
    "mix": ["thoughts", "think"],
    "reading": ["thoughts", "think"],
    "fusion": ["hybrid"],
    "weights": ["hybrid"],
    "hybrid_name": ["hybrid"],
    "rerank_top": ["rerank"],
}


def run_hybrid(
    first: Result,
    second: Result,
    task: Task,
    *,
    method: str = "rrf",
    weights: Sequence[float] | None = None,
) -> Result:
    """Fuse the runs of two results (`o1_bench.running.retrieve.fused`); known costs add up."""
    systems = first.system, second.system
    runs = [from_run(read_run(task.folder_of(result.name) / RUN)) for result in (first, second)]
    both = Fused(runs, weights, method)
    both.about = replace(
        both.about,
        index_bytes=sum(each.index_bytes or 0 for each in systems) or None,
        index_seconds=known_sum([each.index_seconds for each in systems]),
        device=", ".join(dict.fromkeys(each.device for each in systems if each.device)),
    )
    how = FUSIONS[method]
    if weights is not None:
        how += f", weights {' and '.join(map('{:g}'.format, weights))}"
    unknown = [f"the time of {s.name} is not known" for s in systems if s.milliseconds.total is None]
    system = System(
        name=f"{first.name} + {second.name}",
        note="; ".join([how, *unknown]),
        milliseconds=Milliseconds(
            **{
                stage: known_sum([getattr(each.milliseconds, stage) for each in systems])
                for stage in Milliseconds.__struct_fields__
            }
        ),
        thought_tokens=sum(each.thought_tokens for each in systems),
    )
    return task.run(system, both)


def run_reranked(result: Result, reranker: Reranker, task: Task, *, top: int) -> Result:
    """Let a cross-encoder order the first hits of a result; its time is added to the result's."""
    hits = read_run(task.folder_of(result.name) / RUN)
    known = result.system.milliseconds
    unknown = "" if known.total is not None else f"; the time of {result.name} is not known"
    system = System(
        name=f"{result.name}, reranked by {reranker.name}",
        kind=result.system.kind,
        note=f"the first {top:,} hits of a query in the order of a cross-encoder{unknown}",
        milliseconds=known,
        thought_tokens=result.system.thought_tokens,
        sampling=result.system.sampling,
    )
    return task.run(system, Reranked(task.collection, hits, reranker, top))


FUSIONS = {
    "rrf": "reciprocal rank fusion",
    "minmax": "fusion of scores from 0 to 1",
    "z": "fusion of standard scores",
    "sum": "sum of scores",
}
"""The methods of `fused`, in the words of a note."""

_GIVEN = frozenset({"thoughts", "think_ms", "oracle", "controls", "mix"})


class _Lexical(ModelUnderTest):
    kind = "bm25"
    uses = _GIVEN | {"split_identifiers", "k1", "b", "query_weights", "query_times"}

    def __init__(self, options: Options, name: str) -> None:
        self.name = name
        names = ("k1", "b", "split_identifiers", "query_weights")
        self._settings: dict[str, Any] = {each: getattr(options, each) for each in names}
        self._times, self._mixtures = options.query_times, options.mixtures

    def run(self, task: Task) -> Iterator[Result]:
        search = bm25(task.collection, **self._settings)
        yield task.run(System(name=self.name), search)
        yield from task.with_given_thoughts(self.name, lambda texts: Appended(search, texts, self._times))
        if task.thoughts:
            yield from task.with_mixtures(
                self.name, lambda texts, mixture: MixedLexical(search, texts, mixture.weight), self._mixtures,
                task.thoughts, task.paid, how="of standard scores",
            )  # fmt: skip


class _GivenRuns(ModelUnderTest):
    kind = "a run"
    uses = frozenset()

    def __init__(self, path: Path, name: str) -> None:
        self.name, self._path = name or run_name(path), path

    def run(self, task: Task) -> Iterator[Result]:
        file = find_run(self._path, task.collection.name)
        if (task.folder_of(self.name) / RUN).resolve() == file.resolve():
            raise InputError(f"{file}: would be overwritten by its own result; choose another --out")
        yield task.run(System(name=self.name, note="a run that was given"), from_run(read_any_run(file)))


class _OfTexts(ModelUnderTest):
    """An encoder of plain texts."""

    def __init__(self, model: TextEncoder, mixtures: Sequence[Mixture]) -> None:
        self._model, self.name, self._mixtures = model, model.name, mixtures

    def run(self, task: Task) -> Iterator[Result]:
        model = self._model
        model.adopt(task.collection.protocol)
        encoded = EncodedCollection(
            task.collection, model.documents, model.encoder, task.folder / f"{slug(self.name)}.documents",
            new_job=task.new_job, progress=True,
        )  # fmt: skip

        def pipeline(embed: Callable[..., Vectors], way: Any, texts: Texts | None) -> Pipeline:
            def sample(
                queries: Sequence[Query], documents: Sequence[Document]
            ) -> tuple[list[str], list[str]]:
                appended = texts if way == "appended" else None
                own = None if appended is None else [appended.get(q.query_id, ()) for q in queries]
                return model.sample(queries, documents, own)

            about = About(
                fingerprint=model.fingerprint | ({"thoughts": way} if texts is not None else {}),
                prompts=model.prompts,
                device=model.device,
                index_bytes=encoded.search.nbytes,
                index_seconds=encoded.seconds,
                sample=sample,
            )
            return Pipeline(embed=embed, search=encoded.search, thoughts=texts, about=about)

        yield task.run(System(name=self.name), pipeline(model.queries, "", None))
        yield from task.with_given_thoughts(self.name, partial(pipeline, model.queries, "appended"))
        yield from task.with_given_thoughts(
            self.name,
            partial(pipeline, model.hyde, "embedded as documents"),
            "thoughts embedded as documents",
            given="{}, HyDE",
            control="{}, HyDE of {} thought",
        )
        if task.thoughts:
            yield from task.with_mixtures(
                self.name,
                lambda texts, mixture: pipeline(
                    MixedVectors(model, mixture, reads_nothing=False), _told(mixture), texts
                ),
                self._mixtures,
                task.thoughts,
                task.paid,
            )


class _Encoder(_OfTexts):
    kind = "a sentence-transformers model"
    uses = _GIVEN | {"device", "batch", "max_length", "query_prompt", "document_prompt", "reading"}

    def __init__(self, model: str, options: Options, name: str) -> None:
        names = ("device", "batch", "max_length", "query_prompt", "document_prompt")
        settings = {each: getattr(options, each) for each in names}
        super().__init__(SentenceEncoder(model, name=name, **settings), options.mixtures)


class _Endpoint(_OfTexts):
    kind = "a model behind a server"
    uses = _GIVEN | {"batch", "query_prompt", "document_prompt", "reading"}

    def __init__(self, model: str, options: Options, name: str) -> None:
        names = ("batch", "query_prompt", "document_prompt")
        settings = {each: getattr(options, each) for each in names}
        super().__init__(EndpointEncoder(model, name=name, **settings), options.mixtures)


_OF_THOUGHTS = ("thinking", "engine")
_OF_MIXED = ("with_query", "mixture")


class _Thinking(ModelUnderTest):
    kind = "a model that thinks"
    uses = _GIVEN | {"device", "think", "think_options", "embed_options", "reading"}

    def __init__(self, model: ThinkingModel, name: str, mixtures: Sequence[Mixture]) -> None:
        self._model, self.name, self._mixtures = model, name, mixtures

    def run(self, task: Task) -> Iterator[Result]:
        from o1_records.vectors import Encoder

        model, name = self._model, self.name
        of_vectors = {key: value for key, value in model.fingerprint.items() if key not in _OF_THOUGHTS}
        of_documents = {key: value for key, value in of_vectors.items() if key not in _OF_MIXED}
        if "mixture" in model.fingerprint and any(each.reading == "joint" for each in self._mixtures):
            raise InputError(
                f"--reading joint: {name} reads no thought in one row with its query; leave it out"
            )
        encoder = Encoder(
            model=model.name,
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

        def pipeline(texts: Texts | None, mixture: Mixture | None = None, **think: Any) -> Pipeline:
            plain = texts is None and not think
            about = About(
                fingerprint=(of_documents if plain else of_vectors)
                | ({} if mixture is None else {"thoughts": _told(mixture)}),
                device=model.device,
                index_bytes=encoded.search.nbytes,
                index_seconds=encoded.seconds,
                sample=model.sample,
            )
            embed = model.queries if mixture is None else MixedVectors(model, mixture)
            return Pipeline(embed=embed, search=encoded.search, thoughts=texts, about=about, **think)

        yield task.run(System(name=name), pipeline(None))
        yield from task.with_given_thoughts(name, pipeline, "given thoughts")
        if task.thoughts:
            yield from task.with_mixtures(name, pipeline, self._mixtures, task.thoughts, task.paid)
        if not task.think:
            return
        sampling = {key: model.fingerprint[key] for key in _OF_THOUGHTS if key in model.fingerprint}
        thinking = pipeline(None, think=lambda queries: chain.from_iterable(model.think(queries)))
        own = task.run(System(name=f"{name}, thinking", sampling=sampling), thinking)
        yield own
        kept = task.folder_of(own.name) / THOUGHTS
        if not kept.exists():  # every thought came out blank
            return
        thoughts = list(read_jsonl(kept, Thought))
        texts = task.texts(thoughts)

        def paid(name: str, note: str, kind: Kind) -> System:
            return System(
                name=name, kind=kind, note=note, sampling=sampling,
                milliseconds=Milliseconds(think=own.system.milliseconds.think),
                thought_tokens=own.system.thought_tokens,
            )  # fmt: skip

        for control, (changed, says) in task.controls_of(texts).items() if task.controls else ():
            yield task.run(paid(f"{name}, {control} thoughts", says, "control"), pipeline(changed))
        yield from task.with_mixtures(name, pipeline, self._mixtures, thoughts, paid, what="own thought")


def _told(mixture: Mixture) -> dict[str, Any]:
    return {"mixture": {"weight": mixture.weight, "reading": mixture.reading}}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
