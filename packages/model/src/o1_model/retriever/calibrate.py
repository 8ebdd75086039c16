"""`calibrate`: how thoughts should enter the queries of a retriever, and whether they should at all.

Every candidate (style, samples, tokens, reading, weight, weight for documents) is scored on every query. Five
folds of the queries: the best candidate of four folds is measured on the fifth, so that the gain that is
reported is one on queries that chose nothing. The controls run at the same settings. Where the interval of
the gain over no thought, or over a control, reaches 0, the weight becomes 0. The same holds for thoughts of
documents, which are decided on first. Where documents think, queries think too if their thoughts surely gain
by themselves and gain more, on average, beside those of the documents.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from o1_model.retriever.asked import (
    Asked,
    AskedThoughts,
    ask,
    control_texts,
    texts_about,
    texts_of,
    tokens_of,
)
from o1_model.retriever.calibration import SEARCHES, Calibration, Search, Share
from o1_model.retriever.confirm import Confirmation, row_of, told
from o1_model.retriever.embedders import CheckpointModel, EmbeddingModel, open_embedder
from o1_model.retriever.identity import digest_of
from o1_model.retriever.instruct import Instruct, VLLMInstruct
from o1_model.retriever.judged import Floats, Judged, gain_of, open_judged
from o1_model.retriever.retriever import Texts, ThinkingRetriever
from o1_model.retriever.scores import Corpus, mixed, open_corpus
from o1_model.retriever.thinker import Thinker
from o1_model.retriever.vectors import known_vectors
from o1_model.thinking.gate import Signal, curve
from o1_model.thinking.gate import calibrate as calibrate_gate
from o1_model.thinking.settings import Thinking
from o1_records import DocumentThought, InputError, Query
from o1_records.keys import draw, same_query
from o1_records.mixture import Mixture, Reading
from o1_records.styles import Style

if TYPE_CHECKING:
    from o1_model.embedder import Embedder

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
DOCUMENT_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SHARES = (0.1, 0.3, 0.5, 0.7)
FOLDS = 5
_ROWS = {  # kinds of gains and controls, as `confirm` calls them
    "queries": "mixture",
    "documents": "documents think",
    "both": "mixture, documents think",
    "other document": "other documents' thoughts",
}
TIMED = 8  # queries that are timed one by one


def calibrate(
    embedder: str | Path | Embedder | EmbeddingModel | None,
    thinker: str | Path | Embedder | Thinker,
    collection: str | Path | Judged,
    *,
    split: str = "dev",
    queries: int | None = None,
    search: Search = "dense",
    styles: Sequence[str | Style] = (),
    samples: int = 1,
    max_tokens: int | None = None,
    document_thoughts: str | Path | Iterable[DocumentThought] | None = None,
    document_vectors: str | Path | None = None,
    weights: Sequence[float] = WEIGHTS,
    split_identifiers: bool = False,
    budget: float | None = None,
    device: str | None = None,
    dtype: str | None = None,
    out: str | Path | None = None,
    values: str | Path | None = None,
    new_job: bool = False,
    stop: threading.Event | None = None,
    progress: bool = False,
) -> Calibration | None:
    """Choose how thoughts enter the queries of a retriever, on judged queries; None if it was stopped.

    Args:
        embedder: anything that `open_embedder` takes; None with `search="bm25"`.
        thinker: anything that `open_thinker` takes.
        collection: a BEIR folder, or what `open_judged` read.
        split: the judgements to calibrate on; not those that are to be reported.
        queries: use only so many of them.
        search: by vectors, by BM25, or by both (half the z-scores of each).
        styles: to try, where the thinker is asked for one.
        samples: thoughts a query, at most; 1, 2, 4 and so on are tried. More than one are sampled at a
            temperature of 0.7.
        max_tokens: of a thought, at most; where the thinker runs here, half and a quarter are tried too.
        document_thoughts: thoughts about documents (a file of DocumentThought records, or records), to try
            in the documents too.
        document_vectors: a folder of the documents' vectors, as `embed` wrote it with this embedder;
            otherwise all documents are embedded here.
        weights: to try; 0 is always tried.
        split_identifiers: BM25 breaks `snake_case` and `camelCase`.
        budget: the share of queries that may think: calibrate a gate too.
        device: where models run, if they run here.
        dtype: of the embedder's weights, if it is loaded here; its own by default.
        out: write the calibration there (`o1_calibration.json` in a checkpoint's folder stays with it). The
            thoughts are kept in OUT.job: a killed run goes on, and one with other weights does not think
            again.
        values: write there what thoughts did to each query, measured at what is best for the other folds: a
            `Confirmation`, as `confirm` writes it of queries that chose nothing.
        new_job: move earlier work with other settings aside instead of refusing it.
        stop: once set, the thoughts in flight are the last.
        progress: show on stderr how far the job is.

    Raises:
        ChangedJobError: `out` has earlier work with other settings; the message names them.
        InputError: arguments that do not go together, too few queries, thoughts about nothing here.
    """
    if search not in SEARCHES:
        raise InputError(f"search must be one of {', '.join(SEARCHES)}, got {search!r}")
    if (embedder is None) != (search == "bm25"):
        raise InputError("an embedder is for dense and hybrid search, and bm25 has none")
    if split_identifiers and search == "dense":
        raise InputError("split_identifiers is for BM25; leave it out")
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    if wrong := [weight for weight in weights if not 0 <= weight <= 1]:
        raise InputError(f"a weight must be between 0 and 1, got {wrong[0]}")
    if budget is not None and (search != "dense" or not 0 < budget < 1):
        raise InputError("a budget is for dense search, above 0 and below 1: the gate reads v_q's margins")
    if isinstance(collection, Judged) and (queries is not None or split != "dev"):
        raise InputError("split and queries are of a folder; this collection is read already")
    model = None if embedder is None else open_embedder(embedder, device=device, dtype=dtype)
    judged = collection if isinstance(collection, Judged) else open_judged(collection, split, queries=queries)
    vectors = known_vectors(document_vectors, model, judged.documents)
    if isinstance(model, CheckpointModel) and isinstance(thinker, str | Path) and thinker == embedder:
        thinker = model.embedder  # loaded once
    asked = ask(thinker, styles, samples, max_tokens, device)
    retriever = None if model is None else ThinkingRetriever(model)
    about = None if document_thoughts is None else texts_about(document_thoughts, judged.documents)
    how = f"{search}, identifiers split" if split_identifiers else search
    about_model = {"search": how, "embedder": "" if model is None else digest_of(model.fingerprint)}
    with AskedThoughts(judged, asked, out, about_model, new_job=new_job) as found:
        if not found.think(stop, progress=progress):
            return None
        found.refuse_few()
        corpus = open_corpus(
            search,
            retriever,
            judged.documents,
            about,
            split_identifiers=split_identifiers,
            vectors=vectors,
        )
        calibration, told_by_query = _calibrated(
            corpus,
            judged,
            asked,
            found,
            weights=sorted({0.0, *weights}),
            document_weights=(0.0,) if about is None else DOCUMENT_WEIGHTS,
            search=search,
            split_identifiers=split_identifiers,
            model=model,
            budget=budget,
            by_query=values is not None,
            progress=progress,
        )
        if values is not None and told_by_query is not None:
            told_by_query.save(values)
        if out is not None:
            calibration.save(out)
    return calibration


# --- choosing -----------------------------------------------------------------------------------------


class _Choice(NamedTuple):
    """A candidate; the simplest one first."""

    weight: float
    document_weight: float
    place: int  # of what is asked
    samples: int
    tokens: int
    reading: Reading


class _Table:
    """nDCG@10 of every choice on every query [choices, queries], the simplest choice first, and the folds."""

    def __init__(self, choices: Sequence[_Choice], values: Floats, queries: Sequence[Query]) -> None:
        order = sorted(range(len(choices)), key=lambda row: choices[row])
        self.choices, self.values = [choices[row] for row in order], values[order]
        # queries of one text are in one fold, and all folds are as large
        lots = sorted({same_query(query) for query in queries}, key=lambda text: draw(f"fold {text}"))
        place = {text: number for number, text in enumerate(lots)}
        self.folds = np.array([place[same_query(query)] % FOLDS for query in queries])

    def best(self, rows: Sequence[int]) -> _Choice:
        """Return the best choice on all queries; the simplest wins ties."""
        return self.choices[rows[int(self.values[list(rows)].mean(axis=1).argmax())]]

    def by_fold(self, rows: Sequence[int]) -> Iterator[tuple[_Choice, list[int], int]]:
        """Yield for each fold the choice that is best on the others, the queries of the fold, and its row."""
        for fold in np.unique(self.folds):
            there = self.values[list(rows)][:, self.folds != fold].mean(axis=1)
            row = rows[int(there.argmax())]
            yield self.choices[row], np.flatnonzero(self.folds == fold).tolist(), row

    def held_out(self, rows: Sequence[int]) -> Floats:
        """Return each query's value under the choice that is best on the other folds."""
        found = np.zeros(self.values.shape[1])
        for _, places, row in self.by_fold(rows):
            found[places] = self.values[row, places]
        return found


def _calibrated(
    corpus: Corpus,
    judged: Judged,
    asked: Sequence[Asked],
    found: AskedThoughts,
    *,
    weights: Sequence[float],
    document_weights: Sequence[float],
    search: Search,
    split_identifiers: bool,
    model: EmbeddingModel | None,
    budget: float | None,
    by_query: bool,
    progress: bool,
) -> tuple[Calibration, Confirmation | None]:
    variants = list(_variants(asked, corpus.readings))
    texts = {
        (place, samples, tokens): texts_of(asked[place], found.of(asked[place]), samples, tokens)
        for place, samples, tokens, _ in variants
    }
    choices = [
        _Choice(weight, b, *variant)
        for b in document_weights
        for variant in variants
        for weight in weights
        if weight or variant == variants[0]
    ]
    values, margins = _values(corpus, judged, choices, texts, progress=progress)
    table = _Table(choices, values, judged.queries)
    rows = range(len(choices))
    kinds = {"queries": [row for row in rows if not table.choices[row].document_weight]}
    alone = [row for row in rows if not table.choices[row].weight]  # documents think, queries do not
    if len(document_weights) > 1:
        kinds |= {"documents": alone, "both": list(rows)}
    base = table.values[0]  # neither has a thought
    held_out = {kind: table.held_out(own) for kind, own in kinds.items()}
    controls: dict[str, Floats] = {}
    about_documents = ""
    if len(document_weights) > 1:
        controls["other document"] = _other_documents(corpus, judged, table, alone)
        about_documents = _refused(table.held_out(alone), {"no thought": base, **controls})
    why = "no weight is better than 0"
    if table.best(kinds["queries"]).weight:
        of_queries = _controls(corpus, judged, table, kinds["queries"], texts)
        why = _refused(held_out["queries"], {"no thought": base, **of_queries})
        controls |= of_queries
    documents_think = len(document_weights) > 1 and not about_documents
    allowed = [row for row in rows if bool(table.choices[row].document_weight) == documents_think]
    alone = [row for row in allowed if not table.choices[row].weight]
    choice = table.best(allowed)
    thoughts, documents = table.held_out(allowed), table.held_out(alone)
    if not why and not (choice.weight and thoughts.mean() > documents.mean()):
        why = f"held out, they gain {thoughts.mean() - documents.mean():+.4f} where documents think: no more"
    used = table.best(alone) if why else choice
    gains = {
        query.query_id: float(gain) for query, gain in zip(judged.queries, thoughts - documents, strict=True)
    }
    signals = [
        Signal(query_id=query.query_id, margin=float(margin))
        for query, margin in zip(judged.queries, margins[used.document_weight], strict=True)
    ]
    shares = [
        Share(share=point.budget, gate=point.held_out, random=point.random)
        for point in curve(signals, gains, sorted({*SHARES, *([] if budget is None else [budget])}))
    ]
    better = any(each.share == budget and each.gate > each.random for each in shares)
    reasons = [why or "thoughts gain on queries that chose nothing, and more than every control"]
    if about_documents:
        reasons.append(f"documents: {about_documents}")
    if budget is not None and used.weight and not better:
        reasons.append(f"no gate is better than chance for a share of {budget:g}, so every query thinks")
    chosen = asked[choice.place]
    thinking = replace(chosen.thinking, samples=choice.samples, max_tokens=choice.tokens)
    ms_thinking, ms_embedding = _latency(model, chosen.thinker, thinking, judged.queries)
    own = found.of(chosen)
    calibration = Calibration(
        embedder="bm25" if model is None else model.name,
        embedder_digest="" if model is None else digest_of(model.fingerprint),
        thinker=chosen.thinker.name,
        thinker_digest=digest_of(chosen.thinker.fingerprint),
        search=search,
        split_identifiers=split_identifiers,
        style=chosen.style,
        thinking=thinking,
        mixture=Mixture(weight=used.weight, reading=choice.reading),
        document_weight=used.document_weight,
        gate=calibrate_gate(signals, gains, budget) if better and used.weight and budget else None,
        collection=judged.name,
        split=judged.split,
        queries=len(judged.queries),
        documents=len(judged.documents),
        base=float(base.mean()),
        gains={kind: gain_of(values - base) for kind, values in held_out.items()},
        controls={name: gain_of(values - base) for name, values in controls.items()},
        by_weight={
            str(each.weight): float((values - base).mean())
            for each, values in zip(table.choices, table.values, strict=True)
            if each[1:] == choice[1:] or (not each.weight and each.document_weight == choice.document_weight)
        },
        shares=shares,
        tokens=tokens_of(chosen, own, choice.samples, choice.tokens),
        ms_thinking=ms_thinking,
        ms_embedding=ms_embedding,
        why="; ".join(reasons),
    )
    if not by_query:
        return calibration, None
    systems = {_ROWS[kind]: values for kind, values in held_out.items()}
    others = {_ROWS.get(name, f"{name} thoughts"): values for name, values in controls.items()}
    confirmation = Confirmation(
        embedder=calibration.embedder,
        thinker=calibration.thinker,
        search=search,
        mixture=calibration.mixture,
        document_weight=calibration.document_weight,
        calibrated_on=f"{judged.name}/{judged.split}",
        collection=judged.name,
        split=judged.split,
        documents=len(judged.documents),
        query_ids=[query.query_id for query in judged.queries],
        rows=[
            row_of("no thought", "baseline", base, base),
            *(row_of(name, "system", values, base) for name, values in systems.items()),
            *(row_of(name, "control", values, base) for name, values in others.items()),
        ],
        tokens=calibration.tokens,
        queries=told(
            judged,
            texts[choice.place, choice.samples, choice.tokens],
            [tokens_of(chosen, [each], choice.samples, choice.tokens) for each in own],
            {},
        ),
        held_out=True,
    )
    return calibration, confirmation


def _variants(asked: Sequence[Asked], readings: Sequence[Reading]) -> Iterator[tuple[int, int, int, Reading]]:
    """Yield what is asked, samples, tokens and reading, cheaper ones first."""
    for place, each in enumerate(asked):
        most, longest = each.thinking.samples, each.thinking.max_tokens
        samples = [n for n in (2**power for power in range(20)) if n < most] + [most]
        # only here is it known what a shorter thought would have been
        cut = isinstance(each.thinker, Instruct | VLLMInstruct) and longest >= 16
        lengths = sorted({longest // 4, longest // 2, longest}) if cut else [longest]
        for count, tokens, reading in itertools.product(samples, lengths, readings):
            yield place, count, tokens, reading


def _values(
    corpus: Corpus,
    judged: Judged,
    choices: Sequence[_Choice],
    texts: Mapping[tuple[int, int, int], Texts],
    *,
    progress: bool,
) -> tuple[Floats, dict[float, Floats]]:
    """Return nDCG@10 of every choice on every query, and the margin between the query's two best scores."""
    table = np.zeros((len(choices), len(judged.queries)))
    margins: dict[float, Floats] = {}
    groups: dict[tuple[float, int, int, int, Reading], list[int]] = {}
    for row, choice in enumerate(choices):
        groups.setdefault(choice[1:], []).append(row)
    blocks = list(judged.blocks(range(len(judged.queries))))
    bar = tqdm(total=len(groups) * len(blocks), unit="block", desc="weigh", disable=not progress)
    # documents' weights outermost: each needs another matrix of documents
    for b, of_b in itertools.groupby(groups, key=lambda group: group[0]):
        own_groups = list(of_b)
        for block in blocks:
            part = slice(block[0], block[-1] + 1)
            asked = judged.queries[part]
            plain = corpus.of_queries(asked, b)
            best = np.partition(judged.without_itself(plain, block), -2, axis=1)[:, -2:]
            margins.setdefault(b, np.zeros(len(judged.queries)))[part] = best[:, 1] - best[:, 0]
            for group in own_groups:
                _, place, samples, tokens, reading = group
                thoughts = texts[place, samples, tokens][part]
                rows = groups[group]
                theirs = None
                if any(choices[row].weight for row in rows):
                    theirs = corpus.of_thoughts(asked, thoughts, reading, b)
                for row in rows:
                    scores = mixed(plain, theirs, choices[row].weight)
                    table[row, part] = judged.ndcg(scores, block)
                bar.update()
    bar.close()
    return table, margins


def _controls(
    corpus: Corpus,
    judged: Judged,
    table: _Table,
    rows: Sequence[int],
    texts: Mapping[tuple[int, int, int], Texts],
) -> dict[str, Floats]:
    """Return each query's value with what should not help, under the choice of the other folds."""
    names = ["empty", "other", "filler", "copy"]
    values = {name: np.zeros(len(judged.queries)) for name in names}
    for choice, places, row in table.by_fold(rows):
        made = control_texts(judged.queries, texts[choice.place, choice.samples, choice.tokens])
        for block in judged.blocks(places):
            asked = [judged.queries[place] for place in block]
            plain = corpus.of_queries(asked, choice.document_weight) if choice.weight else None
            for name in names:
                if plain is None:
                    values[name][block] = table.values[row, block]
                    continue
                own = [made[name][place] for place in block]
                theirs = corpus.of_thoughts(asked, own, choice.reading, choice.document_weight)
                values[name][block] = judged.ndcg(mixed(plain, theirs, choice.weight), block)
    return values


def _other_documents(corpus: Corpus, judged: Judged, table: _Table, rows: Sequence[int]) -> Floats:
    """Return each query's value where documents have the thoughts of others, as `_controls` does."""
    other = corpus.with_others_thoughts()
    values = np.zeros(len(judged.queries))
    for choice, places, _ in table.by_fold(rows):
        for block in judged.blocks(places):
            asked = [judged.queries[place] for place in block]
            values[block] = judged.ndcg(other.of_queries(asked, choice.document_weight), block)
    return values


def _refused(values: Floats, others: Mapping[str, Floats]) -> str:
    """Return why thoughts are not to be used, "" if they surely gain over each of the others."""
    for name, theirs in others.items():
        gain = gain_of(values - theirs)
        if gain.low <= 0:
            interval = f"{gain.low:+.4f} to {gain.high:+.4f}"
            return f"held out, they gain {gain.mean:+.4f} over {name} ({interval}): not surely above 0"
    return ""


def _latency(
    model: EmbeddingModel | None, thinker: Thinker, thinking: Thinking, queries: Sequence[Query]
) -> tuple[float, float]:
    """Return milliseconds of a query by itself, for thinking and for embedding."""
    timed = queries[: TIMED + 1]
    spent = []
    for work in (
        lambda query: thinker.think([query], thinking),
        (lambda query: None) if model is None else (lambda query: model.queries([query])),
    ):
        work(timed[0])  # start-up is not counted
        began = time.perf_counter()
        for query in timed[1:]:
            work(query)
        spent.append(1000 * (time.perf_counter() - began) / (len(timed) - 1))
    return spent[0], spent[1]
