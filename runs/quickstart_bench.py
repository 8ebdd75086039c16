"""The last stage of the quickstart: every run, its controls, the tables and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from msgspec import structs

from o1_bench import Pipeline, explore, report
from o1_bench.collection import Collection
from o1_bench.controls import Texts
from o1_bench.datasets.suites import load_collection
from o1_bench.reporting.words import table
from o1_bench.results.result import System
from o1_bench.running.about import About
from o1_bench.running.mixture import MixedLexical, MixedVectors
from o1_bench.running.retrieve import ExactSearch, bm25
from o1_bench.running.task import Task, load_thoughts
from o1_model.retriever.calibration import load_calibration
from o1_model.retriever.embedders import EmbeddingModel, JointModel
from o1_records import Query, Thought, read_jsonl
from o1_records.mixture import Mixture
from o1_records.vectors import VectorSet

K = 100
BM25 = {"k1": 1.5, "b": 0.75, "split_identifiers": True}
"""BM25 over code: identifiers split; k1 and b as chosen on dev."""
USUAL = Mixture()
NAMES = {"bm25": "BM25", "minilm": "MiniLM", "ours": "ours"}
"""The retrievers, by what their calibrations are called."""
VECTORS = {"minilm": "minilm-vectors", "ours": "vectors"}
"""Where those that embed have the vectors of the documents."""


def tried(calibration: Path) -> Mixture:
    """Return the mixture that a calibration found; with the usual weight where it found that none gains."""
    found = load_calibration(calibration).mixture
    return found if found.weight else structs.replace(found, weight=USUAL.weight)


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
        controls=True,
    )
    told = replace(thinking, thoughts=_docstrings(root, words), think_ms=0.0, controls=False, oracle=True)
    folders = []
    for key, name in NAMES.items():
        search = _lexical(collection) if key == "bm25" else _dense(root / VECTORS[key], models[key])
        found, mixture = load_calibration(work / f"{key}.json"), tried(work / f"{key}.json")
        results = [thinking.run(System(name=name), search())]
        results += thinking.with_mixtures(name, search, [mixture], thinking.thoughts, thinking.paid)
        results += told.with_mixtures(name, search, [mixture], told.thoughts, told.paid, what="docstring")
        folders += [thinking.folder_of(result.name) for result in results]
        mixed = thinking.folder_of(results[1].name)  # the last retriever's, ours
        print(table(results, baseline=name))
        print(f"calibrated on dev: weight {found.mixture.weight:g}, because {found.why}\n")
    page, explorer = work / "report.html", work / "explore.html"
    if not page.exists():
        report(
            folders,
            page,
            baseline=NAMES["ours"],
            title="Does thinking help to find a function of the standard library?",
            collection=root / "collection",
            thoughts=work / "test-thoughts.jsonl",
        )
    if not explorer.exists():
        explore(mixed, explorer)
    print(f"{page}: the same with pictures\n{explorer}: each query, its thought and what that moved")


def _docstrings(root: Path, words: int) -> list[Thought]:
    """Return the rest of each query's docstring as a thought, cut to so many words."""
    written = read_jsonl(root / "collection" / "thoughts.jsonl", Thought)
    return [structs.replace(each, text=" ".join(each.text.split()[:words])) for each in written]


def _lexical(collection: Collection) -> Callable[..., Any]:
    """Return what makes BM25, with thoughts mixed in by standard scores if there are some."""
    plain = bm25(collection, **BM25)

    def search(texts: Texts | None = None, mixture: Mixture = USUAL) -> Any:
        return plain if texts is None else MixedLexical(plain, texts, mixture.weight)

    return search


def _dense(folder: Path, model: EmbeddingModel) -> Callable[..., Pipeline]:
    """Return what makes a search by the vectors of documents, with thoughts mixed in if there are some."""
    vectors = VectorSet(folder)
    exact, reads = ExactSearch(vectors.load(), vectors.ids()), _Reads(model)

    def search(texts: Texts | None = None, mixture: Mixture = USUAL) -> Pipeline:
        embed = reads.queries if texts is None else MixedVectors(reads, mixture)
        how = {} if texts is None else {"weight": mixture.weight, "reading": mixture.reading}
        about = About(fingerprint={"embedder": dict(model.fingerprint), **how}, device="cpu")
        return Pipeline(embed=embed, search=exact, thoughts=texts, about=about)

    return search


class _Reads:
    """An embedding model as o1-bench calls it."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model, self.documents = model, model.documents

    def queries(self, queries: Sequence[Query], thoughts: Sequence[Sequence[str]] | None = None) -> Any:
        if thoughts is None:
            return self._model.queries(queries)
        return cast(JointModel, self._model).joint(queries, [thought for (thought,) in thoughts])
