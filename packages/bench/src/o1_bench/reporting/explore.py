"""The thought explorer: one offline page to look at each query, its thoughts and its documents.

It is drawn in the browser from two results and the trace beside one of them (`o1_bench.results.trace`), or
from what `o1-model confirm` and `calibrate` wrote of each query (`o1_bench.results.confirmed`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from o1_bench.collection import excluded_ids
from o1_bench.reporting.rows import main_measure
from o1_bench.results.confirmed import Confirmed, load_confirmed
from o1_bench.results.result import (
    EXCLUDED,
    QRELS,
    RESULT,
    RUN,
    Result,
    find_results,
    load_result,
    refuse_unlike,
)
from o1_bench.results.trace import TRACE, Trace, TracedQuery, load_trace
from o1_records import Exclusion, InputError, atomic_write, open_documents, quoted, read_jsonl
from o1_records.trec import read_qrels, read_run

_PER_CHUNK = 25  # queries that the browser decodes at a time
_MIXED = re.compile(r"(?P<base>.+), (?P<weight>[\d.e-]+) (?P<what>(?:own )?thought)")
_CONTROLS = ("empty", "shuffled", "filler", "copy")  # in the order in which they run
_CHARACTERS = 1000  # of a document that is shown
_CLOSE = 1e-5  # scores that rounding may tell apart


class Explored(NamedTuple):
    """What a page is about, and what thinking did: the numbers of queries that gained, lost, stayed."""

    result: str
    against: str
    measure: str
    gained: int
    lost: int
    same: int


def explore(
    result: str | Path,
    out: str | Path,
    *,
    against: str | Path | None = None,
    collection: str | Path | None = None,
    title: str = "",
) -> Explored:
    """Write a page on which one sees what thoughts did to each query, and return what it counts.

    Args:
        result: a result of thoughts that were mixed in, or a folder with one such result; `o1_bench.run`
            writes what the page needs beside it. Or a file of `o1-model confirm`, or of `o1-model calibrate
            --values`.
        out: the HTML file; it appears whole or not at all.
        against: what it is compared with, on the same collection; the run of the same system without
            thoughts by default. A file of o1-model is its own comparison.
        collection: with a file of `o1-model confirm`, the BEIR folder that it was measured on, for the texts
            of documents.
        title: the headline.

    Raises:
        InputError: there is no such result, or more than one; it has no trace; the two were not measured
            on the same collection by the same protocol; or an option that has no effect.
    """
    confirmed = load_confirmed(result)
    if confirmed is not None:
        return _explore_confirmed(confirmed, Path(result), out, against, collection, title)
    if collection is not None:
        raise InputError(f"{result}: a result has the texts of its documents; leave out collection")
    folder = _folder_of(result)
    about = load_result(folder)
    trace = load_trace(folder, about.files[RUN])
    if trace is None:
        raise InputError(f"{folder}: has no {TRACE}; run it again, which repeats only what is missing")
    beside = _beside(folder, about)
    base_folder = _only(against) if against is not None else _base(beside, about, folder)
    base = load_result(base_folder)
    refuse_unlike([base, about])
    measure = main_measure(base)
    if measure not in about.metrics:
        raise InputError(f"{quoted(about.name)} has no {measure}, which {quoted(base.name)} is measured by")
    controls = _controls(beside, about, trace)
    page = _page(folder, about, trace, base_folder, base, controls, measure, title)
    with atomic_write(out) as file:
        file.write(page.encode())
    gains = [about.per_query[measure][q] - value for q, value in base.per_query[measure].items()]
    return Explored(
        about.name, base.name, measure, sum(g > 0 for g in gains), sum(g < 0 for g in gains),
        sum(g == 0 for g in gains),
    )  # fmt: skip


# --- which results ------------------------------------------------------------------------------------


def _folder_of(path: str | Path) -> Path:
    """Return the folder of the one result with a trace that is neither control nor left out."""
    folders = [p if p.is_dir() else p.parent for p in find_results([path]).results]
    traced = [f for f in folders if (f / TRACE).is_file()]
    if len(folders) == 1:
        return folders[0]
    fair = [f for f in traced if load_result(f).system.kind != "control"]
    if not fair:
        raise InputError(
            f"{path}: no result in it has a {TRACE}; `o1-bench run` writes one for thoughts that are mixed "
            "in (--thoughts or --think, with --mix); an earlier run repeats only what is missing"
        )
    if len(fair) > 1:
        raise InputError(
            f"{path}: {len(fair)} results have thoughts mixed in; name one of them: "
            f"{', '.join(map(str, fair))}"
        )
    return fair[0]


def _only(path: str | Path) -> Path:
    found = find_results([path]).results
    if len(found) > 1:
        raise InputError(f"{path}: has {len(found)} results; name one of them: {', '.join(map(str, found))}")
    return found[0] if found[0].is_dir() else found[0].parent


def _beside(folder: Path, about: Result) -> dict[Path, Result]:
    """Return the results beside one, of the same collection and seed."""
    paths = [path.parent for path in folder.parent.glob(f"*/{RESULT}")]
    every = {path: load_result(path) for path in sorted(paths)}
    digests, seed = about.collection.digests, about.system.seed
    return {p: r for p, r in every.items() if r.collection.digests == digests and r.system.seed == seed}


def _base(beside: Mapping[Path, Result], about: Result, folder: Path) -> Path:
    named = _MIXED.fullmatch(about.name)
    found = [path for path, result in beside.items() if named and result.name == named["base"]]
    if not found:
        raise InputError(f"{folder}: no result without thoughts is beside it; name one, with --against")
    return found[0]


def _controls(beside: Mapping[Path, Result], about: Result, trace: Trace) -> dict[str, tuple[Result, Trace]]:
    """Return the controls at the same weight, by what they are: empty, shuffled, filler, copy."""
    named, found = _MIXED.fullmatch(about.name), {}
    for path, result in beside.items():
        if named is None or result.system.kind != "control":
            continue
        start, end = f"{named['base']}, {named['weight']} ", f" {named['what']}"
        if not (result.name.startswith(start) and result.name.endswith(end)):
            continue
        theirs = load_trace(path, result.files[RUN])
        if theirs is not None and (theirs.weight, theirs.reading) == (trace.weight, trace.reading):
            found[result.name[len(start) : -len(end)]] = (result, theirs)
    order = sorted(found, key=lambda kind: (_CONTROLS.index(kind) if kind in _CONTROLS else 9, kind))
    return {kind: found[kind] for kind in order}


# --- the page -----------------------------------------------------------------------------------------


def _page(
    folder: Path,
    about: Result,
    trace: Trace,
    base_folder: Path,
    base: Result,
    controls: Mapping[str, tuple[Result, Trace]],
    measure: str,
    title: str,
) -> str:
    """Return the page about a result and its trace."""
    excluded = excluded_ids(read_jsonl(folder / EXCLUDED, Exclusion))
    left, right = (_first(each / RUN, excluded, trace.depth) for each in (base_folder, folder))
    grades: dict[str, dict[str, int]] = {}
    for qrel in read_qrels(folder / QRELS):
        grades.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    texts, cut = dict(trace.documents), dict(trace.cut)
    for _, theirs in controls.values():
        texts |= theirs.documents
        cut |= theirs.cut
    readings = [("thoughts", about, trace), *((name, *each) for name, each in controls.items())]
    by_query = [{query.query_id: query for query in each.queries} for _, _, each in readings]
    means = np.zeros(len(trace.weights))
    chunks: list[dict[str, Any]] = []
    listed, differing = [], 0
    for number, query in enumerate(trace.queries):
        if number % _PER_CHUNK == 0:
            chunks.append({"docs": {}, "queries": []})
        own = grades.get(query.query_id, {})
        of_query = [each.get(query.query_id) for each in by_query]
        curve = _ndcg(query, own, trace.weights, trace.depth)
        means += curve / len(trace.queries)
        differing += _differs(query, trace, right.get(query.query_id, []), folder)
        before = [doc_id for doc_id, _ in left.get(query.query_id, [])]
        chunk = chunks[-1]
        chunk["queries"].append(
            {
                "left": before,
                "grades": {doc_id: grade for doc_id, grade in own.items() if grade > 0},
                "read": [None if each is None else _reading(each) for each in of_query],
            }
        )
        for doc_id in {*before, *own, *(d for each in of_query if each for d in each.doc_ids)}:
            if doc_id in texts:
                chunk["docs"][doc_id] = [texts[doc_id], cut.get(doc_id, 0)]
        listed.append(
            [
                query.query_id,
                query.text,
                base.per_query[measure][query.query_id],
                [each.per_query[measure].get(query.query_id, 0.0) for _, each, _ in readings],
                sum(thought.tokens for thought in query.thoughts),
                len(query.thoughts),
            ]
        )
    unknown = about.system.milliseconds.think is None
    data = {
        "title": title or f"What thinking did: {about.name}",
        "collection": about.collection.name,
        "documents": about.collection.documents,
        "system": about.name,
        "note": about.system.note,
        "against": base.name,
        "plain": not base.thought_words and not base.system.thought_tokens,
        "measure": measure,
        "of": trace.of,
        "reading": trace.reading,
        "weight": trace.weight,
        "weights": trace.weights,
        "depth": trace.depth,
        "why": trace.why,
        "think": None if unknown else about.system.milliseconds.think,
        "models": sorted({str(each.get("model", "")) for each in about.system.sampling.get("thoughts", ())}),
        "before": base.metrics[measure],
        "readings": [
            [name, each.name, each.system.note, each.metrics[measure]] for name, each, _ in readings
        ],
        "ndcg": [round(float(value), 6) for value in means],
        "differing": differing,
        "queries": listed,
        "chunk": _PER_CHUNK,
    }
    return _html(data, chunks)


def _html(data: Mapping[str, Any], chunks: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: the template, its script, and data in pieces, decoded when they are needed."""
    templates = files("o1_bench.reporting") / "templates"
    script = (templates / "explore.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    held = [_json(f"chunk-{number}", chunk) for number, chunk in enumerate(chunks)]
    parts = {
        "COLOURS": (templates / "colours.css").read_text("utf-8"),
        "DIGEST": digest,
        "DATA": "\n".join([_json("data", data), *held]),
        "SCRIPT": script,
    }
    html = (templates / "explore.html").read_text("utf-8")
    return re.sub(r"%([A-Z]+)%", lambda match: parts[match[1]], html)


# --- a file of o1-model -------------------------------------------------------------------------------


def _explore_confirmed(
    confirmed: Confirmed,
    path: Path,
    out: str | Path,
    against: str | Path | None,
    collection: str | Path | None,
    title: str,
) -> Explored:
    if against is not None:
        raise InputError(f"{path}: compares thoughts with no thought by itself; leave out against")
    if collection is not None and confirmed.held_out:
        raise InputError(f"{path}: keeps no rankings, so that no document is shown; leave out collection")
    texts, cut = ({}, {}) if collection is None else _texts(confirmed, path, Path(collection))
    page = _confirmed_page(confirmed, texts, cut, title)
    with atomic_write(out) as file:
        file.write(page.encode())
    base, main = confirmed.rows[0], confirmed.main()
    gains = [after - before for before, after in zip(base.values, main.values, strict=True)]
    return Explored(
        f"{_system(confirmed)}, {main.name}", base.name, confirmed.measure,
        sum(g > 0 for g in gains), sum(g < 0 for g in gains), sum(g == 0 for g in gains),
    )  # fmt: skip


def _texts(confirmed: Confirmed, path: Path, collection: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Return the beginnings of the documents that are shown, and how much of each is left out."""
    shown = {d for query in confirmed.queries for ids in query.found.values() for d in ids}
    shown |= {doc_id for query in confirmed.queries for doc_id in query.relevant}
    found = {each.doc_id: each.full_text for each in open_documents(collection) if each.doc_id in shown}
    if missing := sorted(shown - found.keys()):
        raise InputError(
            f"{collection}: has no document {quoted(missing[0])}, which {path} found; give the collection "
            "that it was measured on"
        )
    cut = {d: len(text) - _CHARACTERS for d, text in found.items() if len(text) > _CHARACTERS}
    return {d: text[:_CHARACTERS] for d, text in found.items()}, cut


def _system(confirmed: Confirmed) -> str:
    return f"{confirmed.embedder} + {confirmed.thinker}"


def _confirmed_page(
    confirmed: Confirmed, texts: Mapping[str, str], cut: Mapping[str, int], title: str
) -> str:
    """Return the page about what was measured of each query: no scores are kept, so that nothing slides."""
    base, main = confirmed.rows[0], confirmed.main()
    rows = [main, *(row for row in confirmed.rows if row.kind == "control")]
    chunks: list[dict[str, Any]] = []
    listed = []
    for number, query in enumerate(confirmed.queries):
        if number % _PER_CHUNK == 0:
            chunks.append({"docs": {}, "queries": []})
        chunk = chunks[-1]
        chunk["queries"].append(
            {
                "left": query.found.get(base.name, []),
                "found": {name: ids for name, ids in query.found.items() if name != base.name},
                "grades": query.relevant,
                # what each thought took is not kept, only what all of a query took
                "read": [{"thoughts": [[text, 0] for text in query.thoughts]}],
            }
        )
        for doc_id in {*query.relevant, *(d for ids in query.found.values() for d in ids)} & texts.keys():
            chunk["docs"][doc_id] = [texts[doc_id], cut.get(doc_id, 0)]
        values = [row.values[number] for row in confirmed.rows]
        after = [row.values[number] for row in rows]
        name = confirmed.query_ids[number]
        listed.append([name, query.text, values[0], after, query.tokens, len(query.thoughts), values])
    weight, reading = confirmed.mixture.weight, confirmed.mixture.reading
    note = f"{confirmed.search}, weight {weight:g}, read {reading}"
    if confirmed.document_weight:
        note += f", thoughts of documents {confirmed.document_weight:g}"
    data = {
        "title": title or f"What thinking did: {_system(confirmed)}",
        "collection": f"{confirmed.collection}/{confirmed.split}",
        "documents": confirmed.documents,
        "system": f"{_system(confirmed)}, {main.name}",
        "note": note,
        "against": base.name,
        "plain": True,
        "measure": confirmed.measure,
        "weight": weight,
        "weights": [],
        "depth": 10,
        "think": None,
        "models": [confirmed.thinker],
        "before": base.mean,
        "readings": [[row.name, row.name, "", row.mean] for row in rows],
        "ndcg": [],
        "differing": 0,
        "rows": [[r.name, r.kind, r.mean, r.gain.mean, r.gain.low, r.gain.high] for r in confirmed.rows],
        "heldOut": confirmed.held_out,
        "calibratedOn": confirmed.calibrated_on,
        "texts": bool(texts),
        "queries": listed,
        "chunk": _PER_CHUNK,
    }
    return _html(data, chunks)


def _reading(query: TracedQuery) -> dict[str, Any]:
    return {
        "thoughts": [[thought.text, thought.tokens] for thought in query.thoughts],
        "ids": query.doc_ids,
        "own": query.own,
        "theirs": query.theirs,
        "zero": query.zero,
        "inner": query.inner,
        "pieces": query.pieces,
        "shares": query.shares,
        "rest": query.rest,
    }


def _json(name: str, value: Any) -> str:
    """Return a block of data in which no text of others can end it."""
    text = msgspec.json.encode(value).decode().replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _first(
    path: Path, excluded: Mapping[str, Iterable[str]], depth: int
) -> dict[str, list[tuple[str, float]]]:
    """Return the first documents of each query in a run, best first, with their scores."""
    found: dict[str, list[tuple[float, str]]] = {}
    for hit in read_run(path):
        if hit.doc_id not in excluded.get(hit.query_id, ()):
            found.setdefault(hit.query_id, []).append((np.float32(hit.score).item(), hit.doc_id))
    return {q: [(d, s) for s, d in sorted(hits, reverse=True)[:depth]] for q, hits in found.items()}


def _differs(query: TracedQuery, trace: Trace, hits: Sequence[tuple[str, float]], folder: Path) -> bool:
    """Return whether rounding changes the order of the first documents at the weight of the run.

    Raises InputError where the scores of the trace are not those of the run.
    """
    (scores,) = query.scores([trace.weight])
    found = dict(zip(query.doc_ids, scores.tolist(), strict=True))
    for doc_id, score in hits:
        if not abs(found.get(doc_id, np.inf) - score) <= _CLOSE * max(1.0, abs(score)):
            raise InputError(
                f"{folder / TRACE}: query {quoted(query.query_id)}, document {quoted(doc_id)}: the score "
                "does not follow from its parts; remove the file and run again"
            )
    return query.first(trace.weight, trace.depth) != [doc_id for doc_id, _ in hits]


def _ndcg(query: TracedQuery, grades: Mapping[str, int], weights: Sequence[float], depth: int) -> Any:
    """Return nDCG at the depth for each weight [weights]."""
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:depth]
    ideal = float(np.dot(best, discounts[: len(best)]))
    scores = query.scores(weights)
    if not ideal or not query.doc_ids:
        return np.zeros(len(weights))
    gains = np.array([max(0, grades.get(doc_id, 0)) for doc_id in query.doc_ids], dtype=np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    found = np.where(np.take_along_axis(scores, order, axis=1) > -np.inf, gains[order], 0.0)
    return found @ discounts[: order.shape[1]] / ideal
