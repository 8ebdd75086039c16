"""One run of one system on one collection: every stage once, kept, timed and scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec
import numpy as np

from o1_bench.collection import Collection
from o1_bench.controls import thought_texts
from o1_bench.journal import Codec, Journal
from o1_bench.pipeline import Pipeline, Vectors
from o1_bench.result import Milliseconds, Result, System, load_result, save_result
from o1_bench.retrieve import Appended, GivenRun, Retrieve
from o1_bench.score import DEFAULT, Measure, to_dict
from o1_records import Hit, Query, Thought, rank

Texts = Mapping[str, Sequence[str]]
Value = TypeVar("Value")

_STAGES = ("think", "embed", "search")


def evaluate(
    collection: Collection,
    retrieve: Retrieve | Pipeline,
    *,
    system: System | None = None,
    folder: str | Path | None = None,
    k: int = 1000,
    measures: Sequence[Measure] = DEFAULT,
    part: int = 256,
    progress: bool = False,
) -> Result:
    """Run a system on all queries of a collection and score it.

    In `folder` the output of every stage is kept, `part` queries at a time: a rerun takes it from
    there and goes on. Measures may differ then, nothing else. Without a folder nothing is kept.
    A retriever is asked for k documents and as many more as a query has excluded ones; those are
    taken out before the k best are kept.

    Args:
        collection: what is asked, and of what.
        retrieve: a callable from (queries, k) to hits, or its stages.
        system: its name and what is known of it; what is measured here is filled in, times that
            it brings (of thoughts that were there already) are added to.
        folder: where the result is kept (`o1_bench.result`).
        k: how many hits a query may have.
        measures: the first one is the main one in reports.
        part: how many queries go through a stage at a time.
        progress: show bars on stderr.

    Raises:
        InputError: the folder holds the run of another system, collection, k or thoughts; another
            process works in it; or what `score` refuses.
    """
    system = system or System(name="run")
    if folder is None:
        with TemporaryDirectory() as kept:
            return evaluate(
                collection, retrieve, system=system, folder=kept, k=k, measures=measures, part=part,
                progress=progress,
            )  # fmt: skip
    folder = Path(folder)
    made_from = _made_from(collection, retrieve, system) | {"k": str(k), "part": str(part)}
    with Journal(folder / "stages.sqlite", made_from) as journal:
        names = [str(measure) for measure in dict.fromkeys(measures)]
        if (folder / "result.json").exists() and list((done := load_result(folder)).metrics) == names:
            return done
        made = _run(collection, retrieve, _Stages(journal, collection.queries, part, progress), k)
        return save_result(
            folder,
            _measured(system, journal, made),
            collection=collection,
            hits=made.hits,
            measures=measures,
            k=k,
            thoughts=made.thoughts,
            thought_words=_words(made.texts),
        )


@dataclass(frozen=True)
class _Stages:
    """The queries in parts, and what the stages make of them."""

    journal: Journal
    queries: Sequence[Query]
    part: int
    progress: bool

    @property
    def parts(self) -> list[Sequence[Query]]:
        return [self.queries[at : at + self.part] for at in range(0, len(self.queries), self.part)]

    def run(
        self, stage: str, work: Callable[..., Value], codec: Codec[Value], *inputs: Sequence[Any]
    ) -> list[Value]:
        """Call `work` with one item of each input, part by part."""
        from tqdm import tqdm

        parts = list(zip(*inputs, strict=True))
        shown = tqdm(parts, stage, unit=" parts", disable=None if self.progress else True)
        return [
            self.journal.part(stage, number, partial(work, *items), codec)
            for number, items in enumerate(shown)
        ]


@dataclass(frozen=True)
class _Made:
    """What a run came to."""

    hits: list[Hit]
    queries: int
    thoughts: list[Thought]
    texts: Texts
    stages: Sequence[str]


def _run(collection: Collection, retrieve: Retrieve | Pipeline, stages: _Stages, k: int) -> _Made:
    depth = k + max(map(len, collection.excluded.values()), default=0)
    count = len(collection.queries)
    if not isinstance(retrieve, Pipeline):
        found = stages.run("search", lambda queries: list(retrieve(queries, depth)), _HITS, stages.parts)
        timed = () if isinstance(retrieve, GivenRun) else ("search",)
        return _Made(_best(found, collection, k), count, [], _given(retrieve) or {}, timed)
    thoughts, texts = [], retrieve.thoughts
    if (think := retrieve.think) is not None:
        made = stages.run("think", lambda queries: list(think(queries)), _THOUGHTS, stages.parts)
        thoughts = list(chain.from_iterable(made))
        texts = thought_texts(thoughts)

    def search(queries: Sequence[Query], vectors: Vectors) -> list[Hit]:
        return list(retrieve.search(vectors, [query.query_id for query in queries], k=depth))

    vectors = stages.run("embed", lambda queries: retrieve.vectors(queries, texts), _VECTORS, stages.parts)
    found = stages.run("search", search, _HITS, stages.parts, vectors)
    names = _STAGES if retrieve.think is not None else _STAGES[1:]
    return _Made(_best(found, collection, k), count, thoughts, texts or {}, names)


def _best(parts: Iterable[Iterable[Hit]], collection: Collection, k: int) -> list[Hit]:
    """The k best of each query in the one total order, without its excluded documents."""
    best: list[Hit] = []
    for query_id, scores in to_dict(chain.from_iterable(parts)).items():
        left_out = collection.excluded.get(query_id, frozenset())
        kept = {doc_id: value for doc_id, value in scores.items() if doc_id not in left_out}
        best += rank(query_id, kept, k)
    return best


def _measured(system: System, journal: Journal, made: _Made) -> System:
    """The system with its times, tokens and memory; times that it brought are added to."""
    known = msgspec.structs.asdict(system.milliseconds)
    each = {stage: 1000 * journal.seconds(stage) / made.queries for stage in made.stages}
    times = {stage: value + (known[stage] or 0.0) for stage, value in each.items()}
    tokens = sum(thought.source.completion_tokens for thought in made.thoughts)
    return msgspec.structs.replace(
        system,
        milliseconds=Milliseconds(**(known | times)),
        thought_tokens=tokens or system.thought_tokens,
        peak_memory_bytes=journal.peak_memory() if made.stages else None,
    )


def _made_from(collection: Collection, retrieve: Retrieve | Pipeline, system: System) -> dict[str, str]:
    """Everything that a rerun must have in common with the run that it continues."""
    given = _given(retrieve)
    settings = (system.encoder, system.prompts, system.sampling)
    return {
        "system": system.name,
        "settings": msgspec.json.encode(settings, order="sorted").decode(),
        "thoughts": "" if given is None else _digest(given),
        "collection": collection.name,
        **{f"{part} (sha256)": value for part, value in collection.digests.items()},
    }


def _given(retrieve: Retrieve | Pipeline) -> Texts | None:
    """The thoughts that were there before the run."""
    return retrieve.thoughts if isinstance(retrieve, Pipeline | Appended) else None


def _digest(texts: Texts) -> str:
    return hashlib.sha256(msgspec.json.encode(texts, order="sorted")).hexdigest()


def _words(texts: Texts) -> dict[str, int]:
    return {query_id: sum(len(text.split()) for text in each) for query_id, each in texts.items()}


def _pack(vectors: Vectors) -> bytes:
    rows, dim = vectors.shape
    return msgspec.msgpack.encode((rows, dim, np.ascontiguousarray(vectors, dtype="<f4").tobytes()))


def _unpack(content: bytes) -> Vectors:
    rows, dim, flat = msgspec.msgpack.decode(content, type=tuple[int, int, bytes])
    return np.frombuffer(flat, dtype="<f4").reshape(rows, dim)


def _pack_hits(hits: list[Hit]) -> bytes:
    # columns: a third of the bytes that records take
    columns = [[getattr(hit, name) for hit in hits] for name in ("query_id", "doc_id", "score", "rank")]
    return msgspec.msgpack.encode(columns)


def _unpack_hits(content: bytes) -> list[Hit]:
    columns = msgspec.msgpack.decode(content, type=tuple[list[str], list[str], list[float], list[int]])
    return [
        Hit(query_id=query_id, doc_id=doc_id, score=score, rank=place)
        for query_id, doc_id, score, place in zip(*columns, strict=True)
    ]


_VECTORS = Codec(_pack, _unpack)
_HITS = Codec(_pack_hits, _unpack_hits)
_THOUGHTS: Codec[list[Thought]] = Codec(
    msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[Thought]).decode
)
