"""One run of one system on one collection: every stage once, kept, timed and scored."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Self, TypeVar

import msgspec
import numpy as np

from o1_bench.collection import Collection
from o1_bench.controls import thought_texts
from o1_bench.results.machine import peak_memory, reset_peak_memory
from o1_bench.results.result import (
    RESULT,
    STAGES,
    Milliseconds,
    Result,
    Sent,
    System,
    load_result,
    save_result,
)
from o1_bench.running.about import about, identity, sent
from o1_bench.running.mixture import MixedLexical
from o1_bench.running.pipeline import Pipeline, Vectors
from o1_bench.running.retrieve import Appended, GivenRun, Retrieve, reads_queries
from o1_bench.score import Measure, parse_measures, to_dict
from o1_records import Hit, InputError, Query, Thought, rank, sha256_file
from o1_records.kit.job import ChangedJobError, Database, Lock, move_aside, refuse_changed
from o1_records.progress import shown

Texts = Mapping[str, Sequence[str]]
Value = TypeVar("Value")

_STAGES = ("think", "embed", "search")
_MEASURED = ("encoder", "prompts", "index_bytes", "index_seconds", "peak_memory_bytes", "device")


def evaluate(
    collection: Collection,
    retrieve: Retrieve | Pipeline,
    *,
    system: System | None = None,
    folder: str | Path | None = None,
    k: int = 1000,
    measures: Sequence[Measure | str] | None = None,
    part: int = 256,
    progress: bool = False,
    new_job: bool = False,
) -> Result:
    """Run a system on all queries of a collection, score it and return the result.

    The queries carry the collection's instruction. What made the result is measured here, not told: the
    fingerprint that the retriever has of itself, or its code (`o1_bench.running.about`), and what the model
    read of the first queries and documents.

    In `folder` the output of every stage is kept, `part` queries at a time: a rerun continues from there.
    Only the measures may differ then. Without a folder nothing is kept.
    A retriever is asked for k documents and as many more as a query has excluded ones; those are
    removed before the k best are kept.

    Args:
        collection: what is asked, and of what.
        retrieve: a callable from (queries, k) to hits, or its stages.
        system: its name, kind and note, and of thoughts that existed before what they cost and how they were
            sampled. What is measured here is filled in, and added to the times.
        folder: where the result is kept (`o1_bench.results.result`).
        k: the largest number of hits per query.
        measures: the first one is the main one in reports; those of the collection's protocol by default.
        part: how many queries go through a stage at a time.
        progress: show on stderr how far it is.
        new_job: move the folder of a run with other settings aside, to NAME.old1, instead of refusing it.

    Raises:
        ChangedJobError: the folder has the run of another system, collection, instruction, k or thoughts.
        InputError: another run works in the folder, the system says what is measured here, none of the
            documents that were found is in the corpus; or what `score` refuses.
    """
    system = system or System(name="run")
    if told := [name for name in _MEASURED if getattr(system, name) != getattr(System(name="x"), name)]:
        raise InputError(
            f"System.{told[0]} is measured: leave it out, and give the retriever an attribute "
            "`about` (o1_bench.running.about.About)"
        )
    measures = parse_measures(measures or collection.protocol.measures)
    if folder is None:
        with TemporaryDirectory() as kept:
            return evaluate(
                collection, retrieve, system=system, folder=kept, k=k, measures=measures, part=part,
                progress=progress,
            )  # fmt: skip
    self_told = about(retrieve)
    fingerprint = dict(self_told.fingerprint) or _looked_at(retrieve)
    made_from = _made_from(collection, retrieve, system, fingerprint, self_told.prompts)
    made_from |= {"k": str(k), "part": str(part)}
    with _Journal(Path(folder), made_from, new_job=new_job) as journal:
        done = journal.result()
        if done is not None and list(done.metrics) == [str(measure) for measure in measures]:
            return done
        made = _run(collection, retrieve, _Stages(journal, collection.queries, part, progress), k)
        known = msgspec.structs.asdict(system.milliseconds)
        each = {stage: 1000 * journal.seconds(stage) / len(collection.queries) for stage in made.stages}
        times = {stage: value + (known[stage] or 0.0) for stage, value in each.items()}
        tokens = sum(thought.source.completion_tokens for thought in made.thoughts)
        measured = msgspec.structs.replace(
            system,
            encoder=fingerprint,
            prompts=dict(self_told.prompts),
            device=self_told.device,
            index_bytes=self_told.index_bytes,
            index_seconds=self_told.index_seconds,
            milliseconds=Milliseconds(**(known | times)),
            thought_tokens=tokens or system.thought_tokens,
            peak_memory_bytes=journal.peak_memory() if made.stages else None,
        )
        read = sent(collection, self_told.sample) if reads_queries(retrieve) else Sent()
        journal.note_result(None)  # a crash from here on leads to writing it again
        result = save_result(
            folder,
            measured,
            collection=collection,
            hits=made.hits,
            measures=measures,
            k=k,
            thoughts=made.thoughts,
            thought_words={name: sum(len(text.split()) for text in own) for name, own in made.texts.items()},
            sent=read,
        )
        journal.note_result(sha256_file(Path(folder) / RESULT))
        return result


# --- what is kept -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Codec(Generic[Value]):
    """How the output of a stage becomes bytes and comes back."""

    encode: Callable[[Value], bytes]
    decode: Callable[[bytes], Value]


_TABLES = """
CREATE TABLE IF NOT EXISTS made_from (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS finished (sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    stage TEXT, number INTEGER, seconds REAL, peak INTEGER, sha256 TEXT, content BLOB,
    PRIMARY KEY (stage, number)
);
"""


class _Journal:
    """The output of the stages of one run: `stages.sqlite` and a lock in the folder of its result.

    A stage works on the queries in parts. Each part is kept with its seconds, the peak of memory and the
    sha256 of its bytes, so that a crash loses only the part in flight. `made_from` is everything that the
    parts depend on; parts made from something else are refused, or with `new_job` moved aside.
    """

    def __init__(self, folder: Path, made_from: Mapping[str, str], *, new_job: bool) -> None:
        self.folder = folder
        try:
            self._open(made_from)
        except ChangedJobError:
            if not new_job:
                raise
            move_aside(folder)
            self._open(made_from)

    def _open(self, made_from: Mapping[str, str]) -> None:
        path, result = self.folder / STAGES, self.folder / RESULT
        if result.exists() and not path.exists():
            raise ChangedJobError(
                f"{result}: exists, and no {STAGES} beside it says what it was made from; choose another "
                "folder, or give --new-job to move this one aside"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(Lock(self.folder / "lock"))
            remedy = "if the disk is full, free space and run again; if it is damaged, remove the folder"
            self._db = stack.enter_context(Database(path, _TABLES, remedy=remedy))
            begun = dict(self._db.rows("SELECT name, value FROM made_from"))
            if begun != made_from:
                if self._db.row("SELECT 1 FROM parts LIMIT 1"):
                    refuse_changed(self.folder, begun, made_from)
                with self._db.transaction():
                    self._db.execute("DELETE FROM made_from")
                    self._db.execute_many("INSERT INTO made_from VALUES (?, ?)", made_from.items())
            noted = self._db.row("SELECT sha256 FROM finished")
            if noted and result.exists() and sha256_file(result) != noted[0]:
                raise ChangedJobError(
                    f"{result}: is not the one that this run wrote; remove it to write it again, or give "
                    "--new-job to move the folder aside"
                )
            self._finished = noted is not None and result.exists()
            self._stack = stack.pop_all()

    def result(self) -> Result | None:
        """Return the result if the run was finished before."""
        return load_result(self.folder) if self._finished else None

    def note_result(self, sha256: str | None) -> None:
        """Note the digest of the result that was written; None: it is about to be written."""
        with self._db.transaction():
            self._db.execute("DELETE FROM finished")
            if sha256 is not None:
                self._db.execute("INSERT INTO finished VALUES (?)", sha256)

    def part(self, stage: str, number: int, work: Callable[[], Value], codec: _Codec[Value]) -> Value:
        """Return the part that is kept; else do the work, time it and keep what it returns."""
        row = self._db.row("SELECT content, sha256 FROM parts WHERE stage = ? AND number = ?", stage, number)
        if row is not None:
            content: bytes = row[0]
            if hashlib.sha256(content).hexdigest() != row[1]:
                raise InputError(
                    f"{self.folder / STAGES}: part {number} of {stage} is damaged; remove the folder"
                )
            return codec.decode(content)
        reset_peak_memory()
        began = time.perf_counter()
        value = work()
        seconds, peak = time.perf_counter() - began, peak_memory()
        content = codec.encode(value)
        kept = (stage, number, seconds, peak, hashlib.sha256(content).hexdigest(), content)
        self._db.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?)", *kept)
        return value

    def seconds(self, stage: str) -> float:
        """Return how long all parts of a stage took."""
        return float(self._db.row("SELECT total(seconds) FROM parts WHERE stage = ?", stage)[0])

    def peak_memory(self) -> int:
        """Return the most memory, in bytes, that was in use during a part."""
        return int(self._db.row("SELECT ifnull(max(peak), 0) FROM parts")[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _made_from(
    collection: Collection,
    retrieve: Retrieve | Pipeline,
    system: System,
    fingerprint: Mapping[str, Any],
    prompts: Mapping[str, str],
) -> dict[str, str]:
    """Return everything that a rerun must have in common with the run that it continues."""
    given = _given(retrieve)
    thoughts = "" if given is None else hashlib.sha256(_sorted_json(given)).hexdigest()
    groups = {"encoder": fingerprint, "prompt": prompts, "sampling": system.sampling}
    brought = msgspec.structs.asdict(system.milliseconds)
    return {
        "system": system.name,
        "kind": system.kind,
        "note": system.note,
        "seed": "" if system.seed is None else str(system.seed),
        "device": about(retrieve).device,
        **{
            f"{group} {name}": _shown(value)
            for group, all_of in groups.items()
            for name, value in all_of.items()
        },
        **{f"{stage} milliseconds": str(value) for stage, value in brought.items() if value is not None},
        "thoughts (sha256)": thoughts,
        "collection": collection.name,
        "instruction": collection.instruction,
        **{f"{part} (sha256)": value for part, value in collection.digests.items()},
    }


def _looked_at(retrieve: Retrieve | Pipeline) -> dict[str, Any]:
    """Return what the callables of a retriever look like, where it says nothing of itself."""
    if not isinstance(retrieve, Pipeline):
        return {"retrieve": identity(retrieve)}
    stages = {name: getattr(retrieve, name) for name in _STAGES}
    return {name: identity(work) for name, work in stages.items() if work is not None}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else _sorted_json(value).decode()


def _sorted_json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


# --- the stages ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stages:
    """The queries in parts, and what the stages make of them."""

    journal: _Journal
    queries: Sequence[Query]
    part: int
    progress: bool

    @property
    def parts(self) -> list[Sequence[Query]]:
        return [self.queries[at : at + self.part] for at in range(0, len(self.queries), self.part)]

    def run(
        self, stage: str, work: Callable[..., Value], codec: _Codec[Value], *inputs: Sequence[Any]
    ) -> list[Value]:
        """Call `work` with one item of each input, part by part."""
        parts = list(zip(*inputs, strict=True))
        each = shown(parts, f"{stage}, part", total=len(parts)) if self.progress else parts
        return [
            self.journal.part(stage, number, partial(work, *items), codec)
            for number, items in enumerate(each)
        ]


@dataclass(frozen=True)
class _Made:
    """What a run produced; `stages` are those whose time counts."""

    hits: list[Hit]
    thoughts: list[Thought]
    texts: Texts
    stages: Sequence[str]


def _run(collection: Collection, retrieve: Retrieve | Pipeline, stages: _Stages, k: int) -> _Made:
    depth = k + max(map(len, collection.excluded.values()), default=0)
    if not isinstance(retrieve, Pipeline):
        found = stages.run("search", lambda queries: list(retrieve(queries, depth)), _HITS, stages.parts)
        timed = () if isinstance(retrieve, GivenRun) else ("search",)
        return _Made(_best(found, collection, k), [], _given(retrieve) or {}, timed)
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
    return _Made(_best(found, collection, k), thoughts, texts or {}, names)


def _best(parts: Iterable[Iterable[Hit]], collection: Collection, k: int) -> list[Hit]:
    """Return the k best hits of each query in the one total order, without its excluded documents."""
    best: list[Hit] = []
    for query_id, scores in to_dict(chain.from_iterable(parts)).items():
        left_out = collection.excluded.get(query_id, frozenset())
        kept = {doc_id: value for doc_id, value in scores.items() if doc_id not in left_out}
        best += rank(query_id, kept, k)
    return best


def _given(retrieve: Retrieve | Pipeline) -> Texts | None:
    """Return the thoughts that existed before the run."""
    return retrieve.thoughts if isinstance(retrieve, Pipeline | Appended | MixedLexical) else None


def _pack_vectors(vectors: Vectors) -> bytes:
    rows, dim = vectors.shape
    return msgspec.msgpack.encode((rows, dim, np.ascontiguousarray(vectors, dtype="<f4").tobytes()))


def _unpack_vectors(content: bytes) -> Vectors:
    rows, dim, flat = msgspec.msgpack.decode(content, type=tuple[int, int, bytes])
    return np.frombuffer(flat, dtype="<f4").reshape(rows, dim)


def _pack_hits(hits: list[Hit]) -> bytes:
    # by column, which takes a third of the bytes of records
    columns = [[getattr(hit, name) for hit in hits] for name in ("query_id", "doc_id", "score", "rank")]
    return msgspec.msgpack.encode(columns)


def _unpack_hits(content: bytes) -> list[Hit]:
    columns = msgspec.msgpack.decode(content, type=tuple[list[str], list[str], list[float], list[int]])
    return [
        Hit(query_id=query_id, doc_id=doc_id, score=score, rank=place)
        for query_id, doc_id, score, place in zip(*columns, strict=True)
    ]


_VECTORS = _Codec(_pack_vectors, _unpack_vectors)
_HITS = _Codec(_pack_hits, _unpack_hits)
_THOUGHTS: _Codec[list[Thought]] = _Codec(
    msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[Thought]).decode
)
