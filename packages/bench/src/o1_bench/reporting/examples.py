"""Worked examples: single queries, their thoughts, and the documents that these moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ir_measures

from o1_bench.collection import Collection
from o1_bench.score import Measure, by_query, from_dict, score, to_dict
from o1_records import Hit, Thought


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A retrieved document as a reader sees it."""

    rank: int
    doc_id: str
    text: str
    relevant: bool


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A relevant document whose rank changed; None: not retrieved."""

    doc_id: str
    before: int | None
    after: int | None


@dataclass(frozen=True, kw_only=True)
class WorkedExample:
    """A query, its thought, the best documents without and with it, and the metric of each run.

    `moved` are the relevant documents whose rank the thought changed, best ranks first.
    """

    query: str
    thought: str
    measure: str
    value_before: float
    value_after: float
    before: tuple[Shown, ...]
    after: tuple[Shown, ...]
    moved: tuple[Moved, ...] = ()


def worked_examples(
    collection: Collection,
    *,
    before: Iterable[Hit],
    after: Iterable[Hit],
    thoughts: Iterable[Thought],
    count: int = 4,
    top: int = 3,
    measure: Measure = ir_measures.nDCG @ 10,
) -> list[WorkedExample]:
    """Return up to `count` queries with a thought: in turn, those that gained most and those that lost most.

    Each shows its first thought. Ties go to the smaller query_id. The corpus is read once.
    """
    runs = to_dict(before), to_dict(after)
    values, ranked = [], []
    for run in runs:
        metrics = score(collection.qrels, run, measures=[measure], excluded=collection.excluded)
        values.append(by_query(metrics)[str(measure)])
    texts: dict[str, str] = {}
    for thought in thoughts:
        texts.setdefault(thought.query_id, thought.text)
    chosen = _moved_most({q: values[1][q] - values[0][q] for q in values[0] if q in texts}, count)
    for run in runs:
        kept = {}
        for query_id in chosen:
            left_out = collection.excluded.get(query_id, frozenset())
            kept[query_id] = {d: s for d, s in run.get(query_id, {}).items() if d not in left_out}
        ranked.append({query_id: list(from_dict({query_id: scores})) for query_id, scores in kept.items()})
    best = [{query_id: hits[:top] for query_id, hits in run.items()} for run in ranked]
    shown = _shown(best, collection)
    queries = {query.query_id: query.text for query in collection.queries}
    return [
        WorkedExample(
            query=queries[query_id],
            thought=texts[query_id],
            measure=str(measure),
            value_before=values[0][query_id],
            value_after=values[1][query_id],
            before=shown[0][query_id],
            after=shown[1][query_id],
            moved=_moved(query_id, ranked[0][query_id], ranked[1][query_id], collection),
        )
        for query_id in chosen
    ]


def _moved_most(gains: Mapping[str, float], count: int) -> list[str]:
    """Return query ids: the largest gain, the largest loss, the second largest gain and so on."""
    order = sorted(gains, key=lambda query_id: (-gains[query_id], query_id))
    won = [query_id for query_id in order if gains[query_id] > 0]
    lost = [query_id for query_id in reversed(order) if gains[query_id] < 0]
    turns = [side[place] for place in range(len(order)) for side in (won, lost) if place < len(side)]
    return turns[:count]


def _moved(
    query_id: str, before: Iterable[Hit], after: Iterable[Hit], collection: Collection
) -> tuple[Moved, ...]:
    ranks = [{hit.doc_id: hit.rank for hit in hits} for hits in (before, after)]
    relevant = [q.doc_id for q in collection.qrels if q.query_id == query_id and q.relevance > 0]
    every = (Moved(doc_id=d, before=ranks[0].get(d), after=ranks[1].get(d)) for d in relevant)
    moved = [one for one in every if one.before != one.after]
    far = len(ranks[0]) + len(ranks[1]) + 1
    return tuple(sorted(moved, key=lambda one: (min(one.before or far, one.after or far), one.doc_id)))


def _shown(
    runs: Sequence[Mapping[str, Sequence[Hit]]], collection: Collection
) -> list[dict[str, tuple[Shown, ...]]]:
    """Return the hits of each query in each run as a reader sees them, in one pass over the corpus."""
    wanted = {hit.doc_id for run in runs for best in run.values() for hit in best}
    texts = {d.doc_id: d.full_text[:400] for d in collection.documents if d.doc_id in wanted}
    relevant = {qrel.key for qrel in collection.qrels if qrel.relevance > 0}

    def seen(hit: Hit) -> Shown:
        is_relevant = (hit.query_id, hit.doc_id) in relevant
        text = texts.get(hit.doc_id, "")
        return Shown(rank=hit.rank, doc_id=hit.doc_id, text=text, relevant=is_relevant)

    return [{query_id: tuple(map(seen, best)) for query_id, best in run.items()} for run in runs]
