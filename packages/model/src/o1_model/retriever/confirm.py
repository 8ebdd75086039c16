"""`confirm`: what a calibrated retriever gains on queries that had no part in its calibration.

Everything is as the calibration says: one weight, one reading, one length. Beside the mixture stand what it
is made of and what should not help: the query alone, the thoughts alone, thoughts of documents alone, and
the controls at the same weight.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np

from o1_model.ndcg import first_rows
from o1_model.retriever.asked import Asked, AskedThoughts, control_texts, texts_about, texts_of, tokens_of
from o1_model.retriever.calibration import Calibration, Gain, Search, load_calibration
from o1_model.retriever.embedders import EmbeddingModel, open_embedder
from o1_model.retriever.identity import digest_of
from o1_model.retriever.judged import Floats, Judged, gain_of, open_judged
from o1_model.retriever.retriever import Texts, ThinkingRetriever
from o1_model.retriever.scores import Corpus, Scores, mixed, open_corpus
from o1_model.retriever.thinker import Thinker
from o1_model.retriever.thinkers import GivenThoughts, is_file_of_thoughts, open_thinker
from o1_model.retriever.vectors import known_vectors
from o1_records import DocumentThought, InputError, Record, atomic_write
from o1_records.mixture import Mixture, Reading

if TYPE_CHECKING:
    from o1_model.embedder import Embedder

Kind = Literal["baseline", "system", "control"]


class Row(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to ask: its mean, its gain over no thought at all, and the value of each query."""

    name: str
    kind: Kind
    mean: float
    gain: Gain
    values: list[float]


class Told(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One query: what was asked, thought and found, for whoever looks at it (`o1-bench explore`).

    Args:
        text: of the query.
        thoughts: as they were read.
        tokens: written for them.
        relevant: what is relevant in the corpus.
        found: the first ten documents, best first, by the name of each row that is no control.
    """

    text: str
    thoughts: tuple[str, ...]
    tokens: float
    relevant: dict[str, int]
    found: dict[str, list[str]]


class Confirmation(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured, and how.

    Args:
        embedder: its name; "bm25" without one.
        thinker: its name.
        search: "dense", "bm25" or "hybrid".
        mixture: how thoughts entered queries.
        document_weight: how thoughts entered documents.
        calibrated_on: collection and split that chose them; "" where they were given.
        collection: on what this was measured, with `split` and the number of `documents`.
        query_ids: of the queries, in the order of each row's values.
        measure: of all figures here.
        rows: no thought first, systems, controls.
        tokens: written a query.
        queries: what was asked, thought and found, in the order of `query_ids`.
        held_out: by `calibrate`: each query is measured at what is best for the other folds, not at
            `mixture`, so that no ranking is kept.
    """

    embedder: str
    thinker: str
    search: Search
    mixture: Mixture
    document_weight: float
    calibrated_on: str
    collection: str
    split: str
    documents: int
    query_ids: list[str]
    measure: str = "nDCG@10"
    rows: list[Row]
    tokens: float
    queries: tuple[Told, ...] = ()
    held_out: bool = False

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        with atomic_write(path) as file:
            file.write(msgspec.json.encode(self) + b"\n")


def confirm(
    calibration: str | Path | Calibration,
    embedder: str | Path | Embedder | EmbeddingModel | None,
    thinker: str | Path | Embedder | Thinker,
    collection: str | Path | Judged,
    *,
    split: str = "test",
    queries: int | None = None,
    document_thoughts: str | Path | Iterable[DocumentThought] | None = None,
    document_vectors: str | Path | None = None,
    weight: float | None = None,
    document_weight: float | None = None,
    device: str | None = None,
    dtype: str | None = None,
    out: str | Path | None = None,
    new_job: bool = False,
    stop: threading.Event | None = None,
    progress: bool = False,
) -> Confirmation | None:
    """Measure a calibrated retriever on queries that chose nothing; None if it was stopped.

    Args:
        calibration: what `calibrate` found, or its file.
        embedder: what it was found for; None for BM25.
        thinker: what it was found for, or a file of thoughts, which is taken to be by it.
        collection: a BEIR folder, or what `open_judged` read.
        split: the judgements to measure on.
        queries: use only so many of them.
        document_thoughts: thoughts about documents, needed where the calibration gives them a weight.
        document_vectors: a folder of the documents' vectors, as `embed` wrote it with this embedder;
            otherwise all documents are embedded here.
        weight: of thoughts in queries, instead of the calibration's.
        document_weight: of thoughts in documents, instead of the calibration's.
        device: where models run, if they run here.
        dtype: of the embedder's weights, if it is loaded here; its own by default.
        out: write the outcome there; the thoughts are kept in OUT.job.
        new_job: move earlier work with other settings aside instead of refusing it.
        stop: once set, the thoughts in flight are the last.
        progress: show on stderr how far the thinking is.

    Raises:
        ChangedJobError: `out` has earlier work with other settings.
        InputError: the split that chose the weights, another embedder or thinker, missing thoughts.
    """
    found = calibration if isinstance(calibration, Calibration) else load_calibration(calibration)
    judged = collection if isinstance(collection, Judged) else open_judged(collection, split, queries=queries)
    if (judged.name, judged.split) == (found.collection, found.split):
        raise InputError(f"{judged.name}/{judged.split} chose these weights; measure on another split")
    mixture = found.mixture if weight is None else Mixture(weight=weight, reading=found.mixture.reading)
    about_weight = found.document_weight if document_weight is None else document_weight
    if bool(about_weight) != (document_thoughts is not None):
        raise InputError(
            f"documents' thoughts have a weight of {about_weight:g}; "
            + ("give document_thoughts" if about_weight else "leave out document_thoughts")
        )
    model = None if embedder is None else open_embedder(embedder, device=device, dtype=dtype)
    if (model is None) != (found.search == "bm25"):
        raise InputError(f"the calibration is for {found.search} search: an embedder is for the others")
    vectors = known_vectors(document_vectors, model, judged.documents)
    if isinstance(thinker, str | Path):
        style = None if is_file_of_thoughts(thinker) else found.style
        opened = open_thinker(thinker, style, device=device)
    else:
        opened = open_thinker(thinker)
    asked = Asked(opened, found.thinking, found.style)
    given = isinstance(asked.thinker, GivenThoughts)
    if model is not None:
        found.refuse_others(model, None if given else asked.thinker)
    about = None if document_thoughts is None else texts_about(document_thoughts, judged.documents)
    retriever = None if model is None else ThinkingRetriever(model)
    about_model = {"search": found.search, "embedder": "" if model is None else digest_of(model.fingerprint)}
    with AskedThoughts(judged, [asked], out, about_model, new_job=new_job) as thoughts:
        if not thoughts.think(stop, progress=progress):
            return None
        thoughts.refuse_few()
        own = thoughts.of(asked)
        samples, tokens = found.thinking.samples, found.thinking.max_tokens
        corpus = open_corpus(
            found.search,
            retriever,
            judged.documents,
            about,
            split_identifiers=found.split_identifiers,
            vectors=vectors,
        )
        texts = texts_of(asked, own, samples, tokens)
        rows, first = _rows(corpus, judged, texts, mixture, about_weight)
        made = Confirmation(
            embedder=found.embedder,
            thinker=asked.thinker.name,
            search=found.search,
            mixture=mixture,
            document_weight=about_weight,
            calibrated_on=f"{found.collection}/{found.split}" if weight is document_weight is None else "",
            collection=judged.name,
            split=judged.split,
            documents=len(judged.documents),
            query_ids=[query.query_id for query in judged.queries],
            rows=rows,
            tokens=tokens_of(asked, own, samples, tokens),
            queries=told(judged, texts, [tokens_of(asked, [each], samples, tokens) for each in own], first),
        )
        if out is not None:
            made.save(out)
    return made


def row_of(name: str, kind: Kind, values: Floats, base: Floats) -> Row:
    """Return a row of what was measured, beside no thought at all."""
    gain = gain_of(values - base)
    return Row(name=name, kind=kind, mean=float(values.mean()), gain=gain, values=values.tolist())


def told(
    judged: Judged, texts: Texts, tokens: Sequence[float], first: Mapping[str, Sequence[list[str]]]
) -> tuple[Told, ...]:
    """Return what was asked, thought and found; `first` has each query's documents, by the name of a row."""
    names = [document.doc_id for document in judged.documents]
    return tuple(
        Told(
            text=query.text,
            thoughts=tuple(texts[place]),
            tokens=tokens[place],
            relevant={names[row]: relevance for row, relevance in judged.relevant[place].items()},
            found={name: found[place] for name, found in first.items()},
        )
        for place, query in enumerate(judged.queries)
    )


class _Plan(NamedTuple):
    """A row to measure."""

    name: str
    kind: Kind
    corpus: Corpus
    texts: Texts
    weight: float
    document_weight: float


def _rows(
    corpus: Corpus, judged: Judged, texts: Texts, mixture: Mixture, document_weight: float
) -> tuple[list[Row], dict[str, list[list[str]]]]:
    """Return the rows, and the first documents of each query by the name of a row."""
    plans = list(_plans(corpus, judged, texts, mixture.weight, document_weight))
    values, first = _values(plans, judged, mixture.reading)
    rows = [row_of(plan.name, plan.kind, own, values[0]) for plan, own in zip(plans, values, strict=True)]
    return rows, first


def _plans(
    corpus: Corpus, judged: Judged, texts: Texts, weight: float, document_weight: float
) -> Iterator[_Plan]:
    # documents that think last: a dense corpus mixes all its vectors anew for another weight
    yield _Plan("no thought", "baseline", corpus, texts, 0, 0)
    if weight:
        yield _Plan("mixture", "system", corpus, texts, weight, 0)
    yield _Plan("thoughts alone", "system", corpus, texts, 1, 0)
    if weight:
        for name, own in control_texts(judged.queries, texts).items():
            yield _Plan(f"{name} thoughts", "control", corpus, own, weight, 0)
    if document_weight:
        yield _Plan("documents think", "system", corpus, texts, 0, document_weight)
        if weight:
            yield _Plan("mixture, documents think", "system", corpus, texts, weight, document_weight)
        other = corpus.with_others_thoughts()
        yield _Plan("other documents' thoughts", "control", other, texts, 0, document_weight)


def _values(
    plans: Sequence[_Plan], judged: Judged, reading: Reading
) -> tuple[list[Floats], dict[str, list[list[str]]]]:
    """Return nDCG@10 of every query for each plan, and what those that are no controls find first.

    Queries are scored once a corpus and its weight.
    """
    values = [np.zeros(len(judged.queries)) for _ in plans]
    first: dict[str, list[list[str]]] = {plan.name: [] for plan in plans if plan.kind != "control"}
    for block in judged.blocks(range(len(judged.queries))):
        asked = [judged.queries[place] for place in block]
        plain: dict[tuple[int, float], Scores] = {}
        for own, plan in zip(values, plans, strict=True):
            key = (id(plan.corpus), plan.document_weight)
            if key not in plain:
                plain[key] = plan.corpus.of_queries(asked, plan.document_weight)
            theirs = None
            if plan.weight:
                texts = [plan.texts[place] for place in block]
                theirs = plan.corpus.of_thoughts(asked, texts, reading, plan.document_weight)
            scores = mixed(plain[key], theirs, plan.weight)
            own[block] = judged.ndcg(scores, block)
            if plan.name in first:
                rows = first_rows(judged.without_itself(scores, block))
                first[plan.name] += [[judged.documents[row].doc_id for row in found] for found in rows]
    return values, first
