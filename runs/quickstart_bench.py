"""The last stage of the quickstart: every run, its controls, the tables and the report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from o1_bench import Pipeline, report
from o1_bench.collection import Collection
from o1_bench.controls import Texts
from o1_bench.datasets.suites import load_collection
from o1_bench.reporting.words import table
from o1_bench.results.result import Kind, System
from o1_bench.running.about import About
from o1_bench.running.mixture import MixedLexical
from o1_bench.running.retrieve import bm25
from o1_bench.running.task import Task, load_thoughts
from o1_index import open_index
from o1_model import ThinkingRetriever
from o1_model.retriever.calibration import load_calibration
from o1_model.retriever.embedders import EmbeddingModel, encoder_of
from o1_records import Thought, read_jsonl
from o1_records.mixture import Mixture

K = 100
BM25 = {"k1": 1.5, "b": 0.75, "split_identifiers": True}
"""BM25 over code: identifiers split; k1 and b as chosen on dev."""
NAMES = {"bm25": "BM25", "minilm": "MiniLM", "ours": "ours"}
"""The retrievers, by what their calibrations are called."""
INDEXES = {"minilm": "minilm-index", "ours": "index"}
"""Of those that embed."""

Search = Callable[[Texts | None, Mixture], Any]


def tried(calibration: Path) -> Mixture:
    """Return the mixture that a calibration found; with the usual weight where it found that none gains."""
    found = load_calibration(calibration).mixture
    return found if found.weight else Mixture(reading=found.reading)


def evaluate(root: Path, work: Path, models: Mapping[str, EmbeddingModel], words: int) -> None:
    """Run what is missing, print a table for each retriever, write `report.html`.

    Args:
        root: what all thinkers share: the collection and the indexes.
        work: what one thinker made: its thoughts, the calibrations, the results.
        models: the embedders.
        words: of a docstring that the oracle reads.
    """
    collection = load_collection(root / "collection", "test")
    thinking = Task(
        collection=collection,
        folder=work / "results",
        k=K,
        thoughts=load_thoughts(work / "test-thoughts.jsonl", collection.name),
        think_ms=float((work / "milliseconds").read_text()),
    )
    oracle = replace(
        thinking,
        thoughts=_docstrings(root, words),
        think_ms=0.0,
        controls=False,
        oracle=True,
    )
    folders = []
    for key, name in NAMES.items():
        search = _lexical(collection) if key == "bm25" else _dense(root / INDEXES[key], models[key])
        mixture = tried(work / f"{key}.json")
        results = [thinking.run(System(name=name), search(None, mixture))]
        for task, texts, kind, what, note in _mixed(thinking, oracle):
            system = task.paid(f"{name}, {mixture.weight:g} {what}", note, kind)
            results.append(task.run(system, search(texts, mixture)))
        folders += [thinking.folder_of(result.name) for result in results]
        found = load_calibration(work / f"{key}.json")
        print(table(results, baseline=name))
        print(f"calibrated on dev: weight {found.mixture.weight:g}, because {found.why}\n")
    page = work / "report.html"
    if not page.exists():
        report(
            folders,
            page,
            baseline=NAMES["ours"],
            title="Does thinking help to find a function of the standard library?",
            collection=root / "collection",
            thoughts=work / "test-thoughts.jsonl",
        )
    print(f'{page}\nnow ask it: {sys.executable} runs/quickstart.py ask "open a zip file"')


def _mixed(thinking: Task, oracle: Task) -> Iterator[tuple[Task, Texts, Kind, str, str]]:
    """Yield what is mixed into the queries: thoughts, what should not help, and what nobody could know."""
    yield thinking, thinking.texts(), "system", "thought", ""
    for name, (texts, note) in thinking.controls_of(thinking.texts()).items():
        yield thinking, texts, "control", f"{name} thought", note
    yield oracle, oracle.texts(), "oracle", "docstring", "reads the answer's own docstring"


def _docstrings(root: Path, words: int) -> list[Thought]:
    """Return the rest of each query's docstring as a thought, cut to so many words."""
    written = read_jsonl(root / "collection" / "thoughts.jsonl", Thought)
    return [structs.replace(each, text=" ".join(each.text.split()[:words])) for each in written]


def _lexical(collection: Collection) -> Search:
    """Return BM25, with thoughts mixed in by standard scores."""
    search = bm25(collection, **BM25)
    return lambda texts, mixture: search if texts is None else MixedLexical(search, texts, mixture.weight)


def _dense(index: Path, model: EmbeddingModel) -> Search:
    """Return a model and the index of its documents, with thoughts mixed in as vectors."""
    opened = open_index(index)
    opened.settings.refuse_other_encoder(encoder_of(model, role="query"))

    def pipeline(texts: Texts | None, mixture: Mixture) -> Pipeline:
        retriever = ThinkingRetriever(model, mixture=mixture)
        how = {} if texts is None else {"weight": mixture.weight, "reading": mixture.reading}
        return Pipeline(
            embed=lambda queries, *, thoughts: retriever.encode_query(
                queries, thoughts=thoughts or [[] for _ in queries]
            ),
            search=opened.search,
            thoughts=texts,
            about=About(fingerprint={"embedder": dict(model.fingerprint), **how}, device="cpu"),
        )

    return pipeline
