"""The long jobs: thoughts, vectors and a gate, from files to files, resumed where they stopped.

What the commands `o1-model think`, `embed` and `gate` call. Earlier work is continued if everything it was
made from is the same; otherwise it is refused with every difference named, or moved aside (`new_job`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
from tqdm import tqdm

from o1_model.embedder import Embedder
from o1_model.encoding.encode import Vectors
from o1_model.encoding.shards import Encoded, batched, checked_devices, encode_on, write_shards
from o1_model.layout import FILE_NAME, Layout
from o1_model.retriever.identity import digest_of_records, without_place
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.retriever.thinker import Thinker
from o1_model.retriever.thinkers import (
    CHECKPOINT_CHUNK,
    CheckpointThinker,
    chunk_of,
    open_thinker,
    thoughts_by_query,
)
from o1_model.thinking.decoder import Decoder
from o1_model.thinking.engines import Engine
from o1_model.thinking.gate import Gate, Point, calibrate, curve, read_margins, refuse_budget
from o1_model.thinking.records import ThoughtCache
from o1_model.thinking.settings import Thinking
from o1_records import (
    Document,
    DocumentThought,
    InputError,
    InputWarning,
    Metric,
    Query,
    Record,
    Thought,
    open_documents,
    open_queries,
    quoted,
    read_jsonl,
    sha256_file,
    write_jsonl,
)
from o1_records.files import is_folder
from o1_records.kit.cluster import Cluster, Make, Notes, Work, run_on
from o1_records.kit.http import is_address
from o1_records.kit.job import Job, refuse_changed
from o1_records.kit.models import model_folder
from o1_records.progress import shown
from o1_records.styles import DOCUMENT_STYLES, Style
from o1_records.vectors import Encoder, VectorSet, VectorWriter, refuse_other_origin

logger = logging.getLogger(__name__)

WINDOW = 1024  # documents that are sorted by length, so that those of a chunk need little padding
CPU_SHARD_ROWS, GPU_SHARD_ROWS = 1024, 8192
BUDGETS = [tenth / 10 for tenth in range(11)]

Asked = str | Path | Sequence[Query]
Corpus = str | Path | Sequence[Document]
AnyRecord = TypeVar("AnyRecord", bound=Record)


# --- thoughts -----------------------------------------------------------------------------------------

_THOUGHTS = (
    "CREATE TABLE IF NOT EXISTS thoughts (query_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;"
)


@dataclass(frozen=True)
class Report:
    """How far `think` came: queries (or documents) asked and thought about, thoughts written and left out.

    Those that are left out are blank.

    Nothing is written before all queries are thought about.
    """

    queries: int
    thought_about: int
    written: int
    blank: int

    @property
    def finished(self) -> bool:
        """Whether the file of thoughts is complete."""
        return self.thought_about == self.queries


def think(
    model: Embedder | Thinker | str | Path,
    queries: Asked,
    thinking: Thinking | None = None,
    *,
    out: str | Path,
    split: str | None = None,
    style: str | Style | None = None,
    engine: Engine | None = None,
    cache: str | Path | None = None,
    cluster: Cluster | None = None,
    new_job: bool = False,
    stop: threading.Event | None = None,
    progress: bool = False,
    **loading: Any,
) -> Report:
    """Write thoughts about queries to a JSONL file of Thought records, in the order of the queries.

    What was thought survives kill -9, up to the chunk in flight; thoughts whose text is blank are left out
    and counted.

    Args:
        model: an Embedder, the folder or hub id of a checkpoint, or anything else that `open_thinker` takes:
            an instruct model, a `.gguf` file, a chat server, a Thinker.
        queries: a BEIR folder (of which `split` chooses), a JSONL file of Query records, or records.
        thinking: how to think; by default as suits the model.
        out: the file of thoughts; OUT.job beside it is the work so far.
        split: of a BEIR folder, only the queries that this split judges.
        style: what an instruct model is asked for.
        engine: writes the thoughts instead of a checkpoint.
        cache: a file that keeps a checkpoint's thoughts and vectors for other runs too (`ThoughtCache`).
        cluster: spread the queries over the workers of a Ray cluster; `model` must then be a name.
        new_job: move earlier work with other settings aside instead of refusing it.
        stop: once set, the chunk in flight is the last.
        progress: show on stderr how far the job is.
        **loading: arguments of `Embedder.from_pretrained`, where `model` is no Embedder.

    Raises:
        ChangedJobError: there is earlier work with other settings; the message names them.
        InputError: duplicate query_ids, or a model that was never saved and so has no digest.
    """
    source, total = digest_of_records(_queries(queries, split))
    if cluster is not None:
        if not isinstance(model, str | Path):
            raise InputError("each worker of a cluster loads the model; give its folder, hub id or address")
        if cache is not None or loading.get("device"):
            raise InputError("cache and device have no effect with a cluster; leave them out")
    name = str(model) if isinstance(model, str | Path) else ""
    there = {**loading, "device": "cuda" if cluster and cluster.gpus else "cpu"}
    on_cluster: Make
    with contextlib.ExitStack() as during:
        if is_thinker(model, loading):
            if engine is not None or cache is not None:
                raise InputError("engine and cache are for a checkpoint; leave them out")
            thinker = open_thinker(model, style, **loading)
            thinking = thinking or thinker.usual
            made_from = {name: _plain(value) for name, value in without_place(thinker.fingerprint).items()}
            chunk, make, cut = chunk_of(thinker), partial(thinker.think, thinking=thinking), Counter[str]()
            on_cluster = partial(_think_there, name, style, there, thinking, None, made_from)
        else:
            if style is not None:
                raise InputError("a checkpoint thinks in its own way; leave out style")
            embedder = _loaded(cast(Any, model), loading)
            thinking, engine = embedder.capped(thinking or Thinking()), engine or embedder.decoder.engine
            made_from = {**_made_by(embedder), "engine": "" if engine is None else engine.name}
            on_cluster = partial(_think_there, name, None, there, thinking, engine, _made_by(embedder))
            during.enter_context(_thinking_by(embedder.decoder, engine, cache))
            cut = during.enter_context(embedder.counting())
            chunk, make = CHECKPOINT_CHUNK, partial(thoughts_by_query, embedder, thinking=thinking)
        made_from |= {name: str(value) for name, value in vars(thinking).items()} | {"queries": source}
        job = during.enter_context(Job(out, made_from, schema=_THOUGHTS, new_job=new_job))
        if job.finished:
            _say(f"{out} is complete; nothing to do", progress)
        else:
            made: Iterator[list[tuple[str, bytes]]]
            missing = _missing(job, _queries(queries, split), (cluster and cluster.block) or chunk)
            if cluster is None:
                made = _thought_here(make, missing, stop)
            else:
                made = _thought_on(cluster, on_cluster, missing, job.folder / "ray", stop, cut)
            thought_about = _kept(job, made, total, "query", progress)
            if cut:
                _say_cut(cut, embedder.layout)
            if thought_about < total:
                return Report(total, thought_about, 0, 0)
            _write(job, out, _journalled(job, _queries(queries, split)))
        written = int(job.note("written") or 0)
    return Report(total, total, written, total * thinking.samples - written)


def think_about_documents(
    thinker: Thinker | str | Path,
    corpus: Corpus,
    thinking: Thinking | Mapping[str, Any] | None = None,
    *,
    out: str | Path,
    style: str | Style | None = None,
    characters: int | None = None,
    new_job: bool = False,
    stop: threading.Event | None = None,
    progress: bool = False,
    **loading: Any,
) -> Report:
    """Write thoughts about documents to a JSONL file of DocumentThought records; otherwise as `think`.

    Documents of similar length share a batch. Blank ones get no thought and are not counted.

    Args:
        thinker: anything that `open_thinker` takes but a checkpoint, which has learnt to think about queries.
        corpus: a BEIR folder, a file of documents, or records.
        thinking: how to think, or some of its settings; by default one greedy thought of as many tokens as
            the style needs.
        out: the file of thoughts; OUT.job beside it is the work so far.
        style: one of `o1_records.styles.DOCUMENT_STYLES`, or a Style.
        characters: how much of a document is read, at most; how many are longer is said.
        new_job: move earlier work with other settings aside instead of refusing it.
        stop: once set, the chunk in flight is the last.
        progress: show on stderr how far the job is.
        **loading: arguments of `open_thinker`, where it is not open.

    Raises:
        ChangedJobError: there is earlier work with other settings; the message names them.
        InputError: duplicate doc_ids, no such style, or a thinker that is none.
    """
    if isinstance(style, str):
        if style not in DOCUMENT_STYLES:
            known = ", ".join(DOCUMENT_STYLES)
            raise InputError(f"unknown style {quoted(style)} of thoughts about documents; choose of {known}")
        style = DOCUMENT_STYLES[style]
    opened = open_thinker(thinker, style, **loading)
    if isinstance(opened, CheckpointThinker):
        raise InputError(f"{opened.name}: a checkpoint thinks about queries; give an instruct model")
    if not isinstance(thinking, Thinking):
        thinking = replace(opened.usual, **(thinking or {}))

    longer = 0

    def asked() -> Iterator[Query]:
        nonlocal longer
        longer = 0
        for document in _items(corpus, None, None):
            longer += characters is not None and len(document.full_text) > characters
            if text := document.full_text[:characters].strip():
                yield Query(query_id=document.doc_id, text=text)

    source, total = digest_of_records(asked())
    if longer:
        logger.warning("%d documents are longer than %d characters: only so much is read", longer, characters)
    made_from = {name: _plain(value) for name, value in without_place(opened.fingerprint).items()}
    made_from |= {name: str(value) for name, value in vars(thinking).items()} | {"documents": source}
    with Job(out, made_from, schema=_THOUGHTS, new_job=new_job) as job:
        if job.finished:
            _say(f"{out} is complete; nothing to do", progress)
        else:
            missing = _missing(job, _by_length(asked()), chunk_of(opened))
            made = _thought_here(partial(opened.think, thinking=thinking), missing, stop)
            thought_about = _kept(job, made, total, "document", progress)
            if thought_about < total:
                return Report(total, thought_about, 0, 0)
            thoughts = _journalled(job, asked())
            _write(
                job,
                out,
                (
                    DocumentThought(doc_id=t.query_id, thought_id=t.thought_id, text=t.text, source=t.source)
                    for t in thoughts
                ),
            )
        written = int(job.note("written") or 0)
    return Report(total, total, written, total * thinking.samples - written)


def _by_length(queries: Iterable[Query]) -> Iterator[Query]:
    """Yield queries with those of similar length beside each other, a window at a time."""
    for window in batched(queries, WINDOW):
        yield from sorted(window, key=lambda query: len(query.text))


def _kept(job: Job, made: Iterable[list[tuple[str, bytes]]], total: int, unit: str, progress: bool) -> int:
    """Journal what is made; return how many queries or documents are thought about."""
    with tqdm(total=total, unit=unit, desc="think", disable=not progress) as bar:
        bar.update(job.db.row("SELECT count(*) FROM thoughts")[0])
        for rows in made:
            with job.db.transaction():
                job.db.execute_many("INSERT OR IGNORE INTO thoughts VALUES (?, ?)", rows)
            bar.update(len(rows))
    return int(job.db.row("SELECT count(*) FROM thoughts")[0])


def _write(job: Job, out: str | Path, thoughts: Iterable[Record]) -> None:
    """Write all thoughts; the job is finished then."""
    job.set_note("written", str(write_jsonl(out, thoughts)))
    job.finish()


def is_thinker(model: Any, loading: Mapping[str, Any]) -> bool:
    """Return whether a model is a thinker of another kind than a checkpoint of this package."""
    if not isinstance(model, str | Path):
        return not isinstance(model, Embedder)
    return Path(model).suffix == ".gguf" or not is_checkpoint(model, loading)


def is_checkpoint(model: str | Path, loading: Mapping[str, Any]) -> bool:
    """Return whether a name is that of a checkpoint of this package, or is to be read as one."""
    if is_address(model):
        return False
    if loading.get("layout") is not None:
        return True
    return (model_folder(model, loading.get("revision")) / FILE_NAME).exists()


def _missing(job: Job, queries: Iterable[Query], size: int) -> Iterator[list[Query]]:
    """Yield the queries of each chunk that are not thought about yet."""
    for chunk in batched(queries, size):
        if missing := [query for query in chunk if _body(job, query) is None]:
            yield missing


def _thought_here(
    make: Callable[[list[Query]], list[list[Thought]]],
    chunks: Iterable[list[Query]],
    stop: threading.Event | None,
) -> Iterator[list[tuple[str, bytes]]]:
    """Yield each query_id with its encoded thoughts, chunk by chunk."""
    for chunk in chunks:
        if stop is not None and stop.is_set():
            return
        pairs = zip(chunk, make(chunk), strict=True)
        yield [(query.query_id, msgspec.json.encode(own)) for query, own in pairs]


def _thought_on(
    cluster: Cluster,
    make: Make,
    chunks: Iterable[list[Query]],
    folder: Path,
    stop: threading.Event | None,
    cut: Counter[str],
) -> Iterator[list[tuple[str, bytes]]]:
    """Do what `_thought_here` does on a cluster, and count the texts that were `cut`."""
    result = msgspec.msgpack.Decoder(tuple[list[tuple[str, bytes]], dict[str, int]])
    for _, content in run_on(cluster, make, map(msgspec.json.encode, chunks), folder, stop=stop):
        rows, counts = result.decode(content)
        cut.update(counts)
        yield rows


def _think_there(
    name: str,
    style: str | Style | None,
    loading: Mapping[str, Any],
    thinking: Thinking,
    engine: Engine | None,
    expected: Mapping[str, str],
    workers: int,
) -> Work:
    """Return what thinks in a process of a cluster. Raises InputError for another model than `expected`."""
    cut: Mapping[str, int] = {}
    if is_thinker(name, loading):
        thinker = open_thinker(name, style, **loading)
        found = {about: _plain(value) for about, value in without_place(thinker.fingerprint).items()}
        make = partial(thinker.think, thinking=thinking)
    else:
        embedder = Embedder.from_pretrained(name, **loading)
        embedder.decoder.engine, found = engine, _made_by(embedder)
        make = partial(thoughts_by_query, embedder, thinking=thinking)
    refuse_changed(
        f"{name} on {socket.gethostname()}", expected, found, remedy="copy the model of the first one there"
    )
    queries = msgspec.json.Decoder(list[Query])

    def work(block: bytes, notes: Notes) -> bytes:
        with contextlib.ExitStack() as during:
            counts = cut if is_thinker(name, loading) else during.enter_context(embedder.counting())
            (rows,) = _thought_here(make, [queries.decode(block)], None)
            return msgspec.msgpack.encode((rows, dict(counts)))

    return work


def _journalled(job: Job, queries: Iterable[Query]) -> Iterator[Thought]:
    for query in queries:
        yield from msgspec.json.decode(_body(job, query) or b"[]", type=list[Thought])


def _body(job: Job, query: Query) -> bytes | None:
    row = job.db.row("SELECT body FROM thoughts WHERE query_id = ?", query.query_id)
    return None if row is None else bytes(row[0])


@contextlib.contextmanager
def _thinking_by(decoder: Decoder, engine: Engine | None, cache: str | Path | None) -> Iterator[None]:
    """Give a decoder an engine and a cache for a while."""
    before = decoder.engine, decoder.cache
    with contextlib.nullcontext(decoder.cache) if cache is None else ThoughtCache(cache) as chosen:
        decoder.engine, decoder.cache = engine, chosen
        try:
            yield
        finally:
            decoder.engine, decoder.cache = before


# --- vectors ------------------------------------------------------------------------------------------


def embed(
    model: Embedder | ThinkingRetriever | str | Path,
    *,
    out: str | Path,
    corpus: Corpus | None = None,
    queries: Asked | None = None,
    split: str | None = None,
    thoughts: str | Path | Sequence[Thought] | Sequence[DocumentThought] | None = None,
    think: Thinking | None = None,
    gate: Gate | None = None,
    margins: Mapping[str, float] | None = None,
    with_query: bool = False,
    devices: Sequence[str] = (),
    cluster: Cluster | None = None,
    batch_tokens: int | None = None,
    shard_rows: int | None = None,
    new_job: bool = False,
    progress: bool = False,
    **loading: Any,
) -> VectorSet:
    """Write vectors of a corpus or of queries to a folder of shards, and open it.

    Finished shards survive kill -9 and full disks. Memory holds one shard (two for each of several devices),
    the ids and the thoughts.

    Args:
        model: an Embedder, the folder or hub id of a checkpoint, or a ThinkingRetriever, which thinks about
            queries as it was told to.
        out: the folder.
        corpus: a BEIR folder, a JSONL file of Document records, or records.
        queries: a BEIR folder (of which `split` chooses), a JSONL file of Query records, or records.
        split: of a BEIR folder, only the queries that this split judges.
        thoughts: a JSONL file of Thought records, or records, to embed the queries with. A query without
            any keeps v_q. With a ThinkingRetriever and a corpus: DocumentThought records.
        think: let the model write the thoughts.
        gate: with `think`, think only about the queries that it opens for.
        margins: with `gate`, the margin of each query's hits (`gate.read_margins`), if it needs them.
        with_query: average v_q with the v_t.
        devices: run one process on each of these devices; `model` must then be a name.
        cluster: spread the shards over the workers of a Ray cluster; `model` must then be a name. The vectors
            are those of one machine, and either goes on where the other stopped.
        batch_tokens: the most padded tokens of a forward pass.
        shard_rows: rows of a shard, which a kill can lose on each device.
        new_job: move earlier vectors with other settings aside instead of refusing them.
        progress: show on stderr how far the job is.
        **loading: arguments of `Embedder.from_pretrained`, where `model` is no Embedder.

    Raises:
        ChangedJobError: there are earlier vectors with other settings; the message names them.
        InputError: arguments that do not go together, unknown devices, duplicate ids.
    """
    if (corpus is None) == (queries is None):
        raise InputError("give either a corpus or queries")
    if isinstance(model, ThinkingRetriever):
        idle = {"think": think, "gate": gate, "with_query": with_query, "devices": devices, **loading}
        if refused := [name for name, value in {**idle, "batch_tokens": batch_tokens}.items() if value]:
            raise InputError(f"{', '.join(refused)}: not with a ThinkingRetriever, which is set up already")
        given = {"corpus": corpus, "queries": queries, "split": split, "thoughts": thoughts}
        how = {"shard_rows": shard_rows, "new_job": new_job, "progress": progress}
        return _embed_by(model, out=out, margins=margins, **given, **how)  # type: ignore[arg-type]
    if corpus is not None and (think or thoughts is not None or split):
        raise InputError(
            "thoughts, think and split are for queries; a checkpoint does not think about documents"
        )
    if thoughts is not None and think:
        raise InputError("give thoughts or think, not both")
    if with_query and not (think or thoughts is not None):
        raise InputError("with_query averages v_q with thoughts; give thoughts or think too")
    if (gate and not think) or (margins is not None and not gate):
        raise InputError("a gate decides for think, and margins are for a gate; give them together")
    device = loading.pop("device", None)
    if device and devices:
        raise InputError(f"give device {device} or devices {','.join(devices)}, not both")
    if cluster is not None and (device or devices):
        raise InputError(
            "a worker of a cluster takes a GPU if it is given one, else the CPU; leave out device"
        )
    if cluster is not None and cluster.block:
        raise InputError("a worker of a cluster takes a shard at a time; give shard_rows, not block")
    places = checked_devices(devices or ([device] if device else []))
    elsewhere = cluster is not None or len(places) > 1
    if elsewhere and isinstance(model, Embedder):
        raise InputError("on several devices each process loads the model; give its folder or hub id")
    # then this process only needs to know what the model is
    here = "cpu" if elsewhere else places[0] if places else None
    embedder = _loaded(model, {**loading, "device": here})
    _refuse_unsaved(embedder)

    items = partial(_items, corpus, queries, split)
    source, total = digest_of_records(shown(items(), "read") if progress else items())
    work = _Work(
        of_queries=queries is not None,
        thoughts=None if thoughts is None else _by_item(thoughts, items, "query"),
        think=think and embedder.capped(think),
        gate=gate,
        margins=margins,
        with_query=with_query,
        batch_tokens=batch_tokens,
    )
    engine = embedder.decoder.engine
    encoder = embedder.fingerprint(
        role="query" if work.of_queries else "document",
        thoughts=work.fingerprint() + (f" in {engine.name}" if think and engine else ""),
    )
    if (found := _complete(out, encoder, source, new_job=new_job)) is not None:
        _say(f"{out} is complete; nothing to do", progress)
        return found
    layout = embedder.layout
    device = (
        "cuda"
        if cluster and cluster.gpus
        else places[0]
        if len(places) > 1
        else embedder.backbone.device.type
    )
    on_cpu = device.startswith("cpu")
    name = model if isinstance(model, Embedder) else str(model)
    make = partial(_encode_there, name, loading, work, embedder.digest)
    with VectorWriter(out, encoder=encoder, source=source, new_job=new_job) as writer:
        if elsewhere:
            del embedder
        if cluster is not None:
            there = partial(make, device)
            kind = Query if work.of_queries else Document
            encode_all: Any = partial(
                _encode_on, cluster, partial(_in_worker, there, kind), writer.partial / "ray"
            )
        elif len(places) > 1:
            encode_all = partial(encode_on, places, make)
        else:
            encode_all = partial(map, work.encoder(embedder))
        cut = write_shards(
            writer,
            items(),
            encode_all,
            shard_rows=shard_rows or (CPU_SHARD_ROWS if on_cpu else GPU_SHARD_ROWS),
            total=total,
            progress=progress,
        )
        _say_cut(cut, layout)
        return writer.close()


def _complete(out: str | Path, encoder: Encoder, source: str, *, new_job: bool) -> VectorSet | None:
    """Return the vectors that are there already; None if there are none, or others that may be moved."""
    if not (Path(out) / "manifest.json").exists():
        return None
    try:
        vectors = VectorSet(out)
        refuse_other_origin(vectors, encoder, source)
    except InputError:  # of another job, or damaged
        if not new_job:
            raise
        return None
    return vectors


def _embed_by(
    retriever: ThinkingRetriever,
    *,
    out: str | Path,
    corpus: Corpus | None,
    queries: Asked | None,
    split: str | None,
    thoughts: str | Path | Sequence[Thought] | Sequence[DocumentThought] | None,
    margins: Mapping[str, float] | None,
    shard_rows: int | None,
    new_job: bool,
    progress: bool,
) -> VectorSet:
    """Write the vectors of a ThinkingRetriever."""
    if queries is None and (split or margins is not None):
        raise InputError("split and margins are for queries; leave them out")

    items = partial(_items, corpus, queries, split)
    source, total = digest_of_records(shown(items(), "read") if progress else items())
    role = "document" if queries is None else "query"
    known = None if thoughts is None else _by_item(thoughts, items, role)
    encoder = retriever.encoder(role=role)
    if known is not None:
        mixture = f"weight {retriever.document_weight:g}"
        if role == "query":
            mixture = f"weight {retriever.mixture.weight:g} {retriever.mixture.reading}"
            mixture += (
                "" if retriever.gate is None else f" gate {msgspec.json.encode(retriever.gate).decode()}"
            )
        given = f"sha256:{_sha256(sorted(known.items()))} {mixture}"
        encoder = msgspec.structs.replace(encoder, thoughts=given)
    if margins is not None and retriever.gate is not None:
        told = f"{encoder.thoughts} margins {_sha256(sorted(margins.items()))}"
        encoder = msgspec.structs.replace(encoder, thoughts=told)
    if (found := _complete(out, encoder, source, new_job=new_job)) is not None:
        _say(f"{out} is complete; nothing to do", progress)
        return found

    def encode(part: list[Any]) -> Encoded:
        own: Any = None if known is None else [known.get(item.key[0], ()) for item in part]
        if role == "query":
            return Encoded(retriever.encode_query(part, thoughts=own, margins=margins), 0, {})
        return Encoded(retriever.encode_document(part, thoughts=own), 0, {})

    thinks = role == "query" and known is None and retriever.thinks
    with VectorWriter(out, encoder=encoder, source=source, new_job=new_job) as writer:
        rows = shard_rows or (chunk_of(retriever.thinker) if thinks else CPU_SHARD_ROWS)
        write_shards(writer, items(), partial(map, encode), shard_rows=rows, total=total, progress=progress)
        return writer.close()


@dataclass(frozen=True)
class _Work:
    """How items become vectors: the same in every process, so it can be pickled."""

    of_queries: bool
    thoughts: Mapping[str, Sequence[Thought]] | None
    think: Thinking | None
    gate: Gate | None
    margins: Mapping[str, float] | None
    with_query: bool
    batch_tokens: int | None

    def fingerprint(self) -> str:
        """Return how the queries come by their thoughts; "" if they have none."""
        mean = " with v_q" if self.with_query else ""
        if self.think is not None:
            gate = "" if self.gate is None else f" gate {msgspec.json.encode(self.gate).decode()}"
            margins = "" if self.margins is None else f" margins {_sha256(sorted(self.margins.items()))}"
            return f"{self.think}{mean}{gate}{margins}"
        if self.thoughts is not None:
            return f"sha256:{_sha256(sorted(self.thoughts.items()))}{mean}"
        return ""

    def encoder(self, embedder: Embedder) -> Callable[[list[Any]], Encoded]:
        """Return what encodes the items of a shard."""
        gate = self.gate if self.gate is None or self.margins is None else self.gate.given(self.margins)

        def vectors_of(items: list[Any]) -> Vectors:
            if not self.of_queries:
                return embedder.encode_document(items)
            known = self.thoughts
            own = None if known is None else [known.get(query.query_id, ()) for query in items]
            return embedder.encode_query(
                items, thoughts=own, think=self.think, gate=gate, with_query=self.with_query
            )

        def encode(items: list[Any]) -> Encoded:
            tokens, budget = embedder.tokens_read, embedder.batch_tokens
            embedder.batch_tokens = self.batch_tokens or budget
            try:
                with embedder.counting() as cut:
                    vectors = vectors_of(items)
            finally:
                embedder.batch_tokens = budget
            return Encoded(vectors, embedder.tokens_read - tokens, dict(cut))

        return encode


def _encode_there(
    name: Embedder | str, loading: Mapping[str, Any], work: _Work, digest: str, device: str
) -> Callable[[list[Any]], Encoded]:
    """Return what encodes the items of a shard, in another process. Raises InputError for another model."""
    embedder = _loaded(name, {**loading, "device": device})
    if embedder.digest != digest:
        raise InputError(f"{name}: has other files on {socket.gethostname()} than here; copy them there")
    return work.encoder(embedder)


def _encode_on(cluster: Cluster, make: Make, folder: Path, chunks: Iterable[list[Any]]) -> Iterator[Encoded]:
    """Encode chunks on a cluster, and yield the results in their order."""
    for _, result in run_on(cluster, make, map(msgspec.json.encode, chunks), folder):
        dtype, shape, body, tokens, cut = msgspec.msgpack.decode(result)
        yield Encoded(np.frombuffer(body, dtype=dtype).reshape(shape), tokens, cut)


def _in_worker(make: Callable[[], Callable[[list[Any]], Encoded]], kind: type[Record], workers: int) -> Work:
    """Return what makes the vectors of a block, in a process of a cluster."""
    encode, items = make(), msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]

    def work(block: bytes, notes: Notes) -> bytes:
        vectors, tokens, cut = encode(items.decode(block))
        body = np.ascontiguousarray(vectors)
        return msgspec.msgpack.encode((str(body.dtype), body.shape, body.tobytes(), tokens, cut))

    return work


def _by_item(
    thoughts: str | Path | Sequence[Thought] | Sequence[DocumentThought],
    items: Callable[[], Iterator[Any]],
    role: str,
) -> dict[str, list[Any]]:
    """Return the thoughts of the queries, or documents, by id. Raises InputError when none has any."""
    kind = Thought if role == "query" else DocumentThought
    own: dict[str, list[Any]] = {item.key[0]: [] for item in items()}
    given: Any = read_jsonl(thoughts, kind) if isinstance(thoughts, str | Path) else thoughts
    strangers = 0
    for thought in given:
        if not isinstance(thought, kind):
            raise InputError(
                f"a {type(thought).__name__} among thoughts of a {role}; give {kind.__name__} records"
            )
        about = thought.key[0]
        if about in own:
            own[about].append(thought)
        else:
            strangers += 1
    name = thoughts if isinstance(thoughts, str | Path) else "thoughts"
    without = sum(not row for row in own.values())
    if own and without == len(own):
        raise InputError(
            f"{name}: none of its {strangers} thoughts is about a {role} that is here; do they belong to it?"
        )
    if without:
        many, kept = ("queries", "v_q") if role == "query" else ("documents", "their own vector")
        logger.warning("%s: %d of %d %s have no thought and keep %s", name, without, len(own), many, kept)
    return own


# --- a gate -------------------------------------------------------------------------------------------


class Learnt(msgspec.Struct, frozen=True):
    """A gate, the quality at each of BUDGETS, and the measure's mean without thinking (`base`)."""

    gate: Gate
    points: list[Point]
    base: float


def learn_gate(
    model: Embedder | str | Path,
    queries: Asked,
    *,
    without: str | Path,
    thinking: str | Path,
    out: str | Path,
    split: str | None = None,
    measure: str = "nDCG@10",
    hits: str | Path | None = None,
    budget: float = 0.3,
    new_job: bool = False,
    **loading: Any,
) -> Learnt:
    """Learn for which queries thinking pays, write the gate to `out` and return it with its quality.

    Args:
        model: an Embedder, or the folder or hub id of a checkpoint.
        queries: a BEIR folder (of which `split` chooses), a JSONL file of Query records, or records.
        without: JSONL of Metric records, v_q's value of `measure` for each query.
        thinking: the same for the run that thinks.
        out: the gate, for `embed`.
        split: of a BEIR folder, only the queries that this split judges.
        measure: what thinking should improve.
        hits: v_q's run (TREC, or JSONL of Hit records), which lets the gate use its margins.
        budget: the share of the queries that may think.
        new_job: move an earlier gate with other settings aside instead of refusing it.
        **loading: arguments of `Embedder.from_pretrained`, where `model` is no Embedder.

    Raises:
        ChangedJobError: there is an earlier gate with other settings; the message names them.
        InputError: no query has a value in both files, or a budget that is not between 0 and 1.
    """
    refuse_budget(budget)
    plain, thought = (_values(path, measure) for path in (without, thinking))
    gains = {query_id: thought[query_id] - value for query_id, value in plain.items() if query_id in thought}
    known = [query for query in _queries(queries, split) if query.query_id in gains]
    if not known:
        raise InputError(f"{without}, {thinking}: no query that is asked has a value in both")
    embedder = _loaded(model, loading)
    made_from = {
        **_made_by(embedder),
        "queries": digest_of_records(known)[0],
        "without": sha256_file(without),
        "with": sha256_file(thinking),
        "measure": measure,
        "hits": "" if hits is None else sha256_file(hits),
        "budget": str(budget),
    }
    with Job(out, made_from, new_job=new_job) as job:
        if job.finished:
            return msgspec.json.decode(job.note("learnt") or "", type=Learnt)
        signals = embedder.signals(known)
        if hits is not None:
            margins = read_margins(hits)
            signals = [
                msgspec.structs.replace(signal, margin=margins.get(signal.query_id)) for signal in signals
            ]
        learnt = Learnt(
            gate=calibrate(signals, gains, budget),
            points=curve(signals, gains, BUDGETS),
            base=sum(plain[query.query_id] for query in known) / len(known),
        )
        learnt.gate.save(out)
        job.set_note("learnt", msgspec.json.encode(learnt).decode())
        job.finish()
    return learnt


def _values(path: str | Path, measure: str) -> dict[str, float]:
    values = {
        metric.query_id: metric.value
        for metric in read_jsonl(path, Metric)
        if metric.measure == measure and metric.query_id is not None
    }
    if not values:
        raise InputError(
            f"{path}: no {measure} of single queries; `o1-bench score --per-query` writes such a file"
        )
    return values


# --- what they share ----------------------------------------------------------------------------------


def _loaded(model: Embedder | str | Path, loading: Mapping[str, Any]) -> Embedder:
    if not isinstance(model, Embedder):
        return Embedder.from_pretrained(model, **loading)
    given = [name for name, value in loading.items() if value is not None]
    if given:
        raise InputError(f"{', '.join(given)}: the model is loaded already; give its folder or hub id")
    return model


def _refuse_unsaved(embedder: Embedder) -> None:
    if not embedder.digest:
        raise InputError("a job notes the digest of its checkpoint; save this model and load it first")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _made_by(embedder: Embedder) -> dict[str, str]:
    _refuse_unsaved(embedder)
    return {
        "model": embedder.name,
        "digest": embedder.digest,
        "layout": msgspec.json.encode(embedder.layout).decode(),
        "dtype": embedder.fingerprint().dtype,
    }


def _items(corpus: Corpus | None, queries: Asked | None, split: str | None) -> Iterator[Any]:
    """Return what is embedded, from the beginning."""
    if corpus is None:
        return _queries(queries or (), split)
    return open_documents(corpus) if isinstance(corpus, str | Path) else _unique(corpus)


def _queries(queries: Asked, split: str | None) -> Iterator[Query]:
    if split and not (isinstance(queries, str | Path) and is_folder(queries)):
        raise InputError(f"split {quoted(split)}: only a BEIR folder of queries has splits; leave it out")
    return open_queries(queries, split) if isinstance(queries, str | Path) else _unique(queries)


def _unique(records: Sequence[AnyRecord]) -> Iterator[AnyRecord]:
    if isinstance(records, Iterator):
        raise InputError("an iterator can be read only once, and a job reads its records twice; give a list")
    seen = set()
    for record in records:
        if record.key in seen:
            raise InputError(f"duplicate {record.key_fields[0]} {quoted(record.key[0])}")
        seen.add(record.key)
        yield record


def _sha256(content: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _say_cut(cut: Mapping[str, int], layout: Layout) -> None:
    """Warn of texts of which only the beginning was read."""
    for kind, count in sorted(cut.items()):
        if count:
            most = getattr(layout, f"{kind}_length")
            warnings.warn(
                f"{count:,} {kind}(s) had more than {most} tokens and were cut there; "
                f"--{kind}-length ({kind}_length) reads more",
                InputWarning,
                stacklevel=3,
            )


def _say(sentence: str, progress: bool) -> None:
    if progress:
        tqdm.write(sentence, file=sys.stderr)
