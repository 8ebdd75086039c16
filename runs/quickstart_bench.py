"""The last stage of the quickstart: every run, its controls, the table and the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from o1_bench import Result, load_result, save_result, write_report
from o1_bench.controls import (
    Texts,
    empty_thoughts,
    filler_thoughts,
    shuffled_thoughts,
    thought_texts,
)
from o1_bench.datasets.stdlib import load_stdlib
from o1_bench.reporting.examples import worked_examples
from o1_bench.reporting.words import table
from o1_bench.results.result import Milliseconds, System
from o1_bench.running.retrieve import bm25, with_thoughts
from o1_index import build, open_index
from o1_model import Embedder, Thinking, aggregate
from o1_model.encoding.shards import embed_stream
from o1_model.layout import load_layout
from o1_model.thinking.aggregate import stacked
from o1_records import Document, Hit, Query, Thought, read_jsonl, write_jsonl
from o1_records.kit.models import model_digest
from o1_records.trec import read_run
from o1_records.vectors import VectorSet, VectorWriter

K = 100
BM25 = {"k1": 1.5, "b": 0.75, "split_identifiers": True}
"""BM25 over code: identifiers split; k1 and b as chosen on dev."""
ORACLE = "oracle: reads the answer's own docstring"
Value = TypeVar("Value")
Outcome = tuple[list[Hit], Milliseconds]


class Runs:
    """What the runs share; each part is made when the first run asks for it."""

    def __init__(self, root: Path, weights: Callable[[], Path], thinking: Thinking, words: int) -> None:
        self.root, self.weights, self.thinking, self.words = root, weights, thinking, words
        self.collection = load_stdlib(root / "collection", "test")
        self.queries: list[Query] = list(self.collection.queries)
        self.query_ids = [query.query_id for query in self.queries]
        self.redone = False

    @cached_property
    def model(self) -> Embedder:
        """The trained model."""
        return Embedder.from_pretrained(self.root / "model", device="cpu")

    @cached_property
    def digest(self) -> str:
        """The trained model's digest, without loading it."""
        return model_digest(self.root / "model")

    def made_by(self, name: str) -> dict[str, Any]:
        """What a run of that name is made by: BM25, MiniLM as published, or the trained model.

        The thoughts are the trained model's, except the oracle's.
        """
        thoughts = {"thoughts by": self.digest} if "thoughts" in name else {}
        if name.startswith("BM25"):
            return {"model": "bm25s", **BM25, **thoughts}
        if name.startswith("MiniLM"):
            length = load_layout(self.root / "model").document_length
            return {"digest": model_digest(self.weights()), "max_length": length, **thoughts}
        return {"checkpoint": self.digest, **thoughts}

    @cached_property
    def index(self) -> Any:
        """The index of its document vectors; refused when another model made them."""
        index = open_index(self.root / "index")
        index.settings.refuse_other_encoder(self.model.fingerprint(role="query"))
        return index

    @cached_property
    def bm25(self) -> Any:
        """BM25 over the collection."""
        return bm25(self.collection, **BM25)

    @cached_property
    def minilm(self) -> Any:
        """MiniLM as published, through sentence-transformers, at the model's document length."""
        from sentence_transformers import SentenceTransformer

        published = SentenceTransformer(str(self.weights()), device="cpu")
        published.max_seq_length = self.model.layout.document_length
        return published

    @cached_property
    def minilm_index(self) -> Any:
        """MiniLM's own document vectors, indexed."""
        folder = self.root / "minilm-vectors"
        if not folder.exists():
            writer = VectorWriter(folder)
            embed_stream(
                writer, self.collection.documents, self._published_vectors, shard_rows=512, progress=True
            )
            writer.close()
        vectors = VectorSet(folder)
        return build(vectors.load(), vectors.ids())

    def _published_vectors(self, documents: Sequence[Document]) -> Any:
        texts = [document.full_text for document in documents]
        return self.minilm.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    @cached_property
    def own(self) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]], float]:
        """v_q [queries, dim], v_t [samples, dim] of each query, and milliseconds per query."""
        v_q, v_t, thoughts = [], [], []
        start = time.perf_counter()
        for first in tqdm(range(0, len(self.queries), 50), desc="think", unit="batch"):
            batch = self.queries[first : first + 50]
            vectors, traces = self.model.decode(batch, self.thinking)
            v_q.append(vectors)
            v_t += stacked(traces)
            thoughts += self.model.thoughts(batch, traces, self.thinking)
        milliseconds = (time.perf_counter() - start) * 1000 / len(self.queries)
        write_jsonl(self.root / "own_thoughts.jsonl", thoughts)
        return np.concatenate(v_q), v_t, milliseconds

    @cached_property
    def own_texts(self) -> Texts:
        """The model's own thoughts as text, by query_id."""
        path = self.root / "own_thoughts.jsonl"
        if not path.exists() or next(read_jsonl(path, Thought)).source.revision != self.digest:
            _ = self.own
        texts = thought_texts(read_jsonl(path, Thought))
        return {query_id: texts.get(query_id, []) for query_id in self.query_ids}

    @cached_property
    def oracle_texts(self) -> Texts:
        """The rest of each query's docstring, cut to the length that thoughts have here."""
        written = thought_texts(read_jsonl(self.root / "collection" / "thoughts.jsonl", Thought))
        return {name: [" ".join(t.split()[: self.words]) for t in written[name]] for name in self.query_ids}

    def lexical(self, texts: Texts | None, think: float | None = None) -> Outcome:
        """BM25 with the thoughts, if any, appended to the query (Query2doc).

        `think` is what writing them cost, in milliseconds per query.
        """
        queries = self.queries if texts is None else with_thoughts(self.queries, texts)
        search = self.bm25
        hits, search_ms = self._timed(lambda: list(search(queries, K)))
        return hits, Milliseconds(think=think, search=search_ms)

    def published(self, texts: Texts | None, think: float | None = None) -> Outcome:
        """MiniLM as published with the thoughts, if any, appended to the query."""
        queries = self.queries if texts is None else with_thoughts(self.queries, texts)
        index, encode = self.minilm_index, self.minilm.encode
        vectors, embed_ms = self._timed(
            lambda: encode([q.text for q in queries], normalize_embeddings=True, show_progress_bar=False)
        )
        return self._search(index, vectors, Milliseconds(think=think, embed=embed_ms))

    def ours(self, texts: Texts | None, *, with_query: bool = False) -> Outcome:
        """The trained model with given thoughts, or with none."""
        thoughts = None if texts is None else [texts[name] for name in self.query_ids]
        model = self.model
        vectors, embed_ms = self._timed(
            lambda: model.encode_query(self.queries, thoughts=thoughts, with_query=with_query)
        )
        return self._search(self.index, vectors, Milliseconds(embed=embed_ms))

    def thinking_ours(self, *, with_query: bool) -> Outcome:
        """The trained model with the thoughts it writes itself; v_t read from the live cache."""
        v_q, v_t, think_ms = self.own
        vectors = aggregate(v_q, v_t, with_query=with_query)
        return self._search(self.index, vectors, Milliseconds(think=think_ms, embed=0.0))

    def _search(self, index: Any, vectors: np.ndarray[Any, Any], cost: Milliseconds) -> Outcome:
        found, search_ms = self._timed(lambda: index.search(vectors, self.query_ids, k=K))
        return list(found), Milliseconds(think=cost.think, embed=cost.embed, search=search_ms)

    def _timed(self, work: Callable[[], Value]) -> tuple[Value, float]:
        start = time.perf_counter()
        value = work()
        return value, (time.perf_counter() - start) * 1000 / len(self.queries)


BASELINE, FOCUS = "ours, no thinking", "ours, own thoughts + query"


def evaluate(root: Path, weights: Callable[[], Path], thinking: Thinking, words: int) -> int:
    """Run what is missing, print the table, write `report.html`; returns the exit code."""
    runs = Runs(root, weights, thinking, words)
    results = [_result(runs, *plan) for plan in _plans(runs)]
    print(table(results, baseline=BASELINE))
    report = root / "report.html"
    if runs.redone or not report.exists():
        examples = worked_examples(
            runs.collection,
            before=read_run(root / "results" / _slug(BASELINE) / "run.trec"),
            after=read_run(root / "results" / _slug(FOCUS) / "run.trec"),
            thoughts=read_jsonl(root / "own_thoughts.jsonl", Thought),
        )
        title = "Does thinking help to find a function of the standard library?"
        write_report(report, results, baseline=BASELINE, focus=FOCUS, examples=examples, title=title)
    print(f'\n{report}\nnow ask it: {sys.executable} runs/quickstart.py ask "open a zip file"')
    return 0


def _plans(runs: Runs) -> Sequence[tuple[str, str, str, Callable[[], Outcome]]]:
    own, oracle = (lambda: runs.own_texts), (lambda: runs.oracle_texts)
    return [
        ("BM25", "system", "", lambda: runs.lexical(None)),
        (
            "BM25 + own thoughts",
            "system",
            "thoughts appended (Query2doc)",
            lambda: runs.lexical(own(), runs.own[2]),
        ),
        ("BM25 + docstring", "oracle", ORACLE, lambda: runs.lexical(oracle())),
        ("MiniLM as published", "system", "", lambda: runs.published(None)),
        ("MiniLM + own thoughts", "system", "thoughts appended", lambda: runs.published(own(), runs.own[2])),
        ("MiniLM + docstring", "oracle", ORACLE, lambda: runs.published(oracle())),
        (BASELINE, "system", "v_q", lambda: runs.ours(None)),
        ("ours, own thoughts", "system", "mean of v_t", lambda: runs.thinking_ours(with_query=False)),
        (FOCUS, "system", "mean of v_q and v_t", lambda: runs.thinking_ours(with_query=True)),
        ("ours, empty thoughts", "control", "", lambda: runs.ours(empty_thoughts(own()))),
        (
            "ours, shuffled thoughts",
            "control",
            "another query's",
            lambda: runs.ours(shuffled_thoughts(own())),
        ),
        ("ours, filler thoughts", "control", "same length", lambda: runs.ours(filler_thoughts(own()))),
        (
            "ours, filler thoughts + query",
            "control",
            "what averaging alone gives",
            lambda: runs.ours(filler_thoughts(own()), with_query=True),
        ),
        ("ours, docstring", "oracle", ORACLE, lambda: runs.ours(oracle())),
    ]


def _result(runs: Runs, name: str, kind: Any, note: str, work: Callable[[], Outcome]) -> Result:
    folder = runs.root / "results" / _slug(name)
    encoder = runs.made_by(name)
    if (folder / "result.json").exists() and load_result(folder).system.encoder == encoder:
        return load_result(folder)
    hits, milliseconds = work()
    runs.redone = True
    system = System(name=name, kind=kind, note=note, milliseconds=milliseconds, encoder=encoder)
    return save_result(folder, system, collection=runs.collection, hits=hits)


def _slug(name: str) -> str:
    return name.lower().replace(",", "").replace("+", "and").replace(" ", "-")
