"""What a retriever is judged by: queries, a corpus, nDCG@10 of whole rows of scores, gains with intervals."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o1_model.ndcg import ideal, ndcg_rows
from o1_model.retriever.calibration import Gain
from o1_model.retriever.scores import Scores
from o1_records import Document, InputError, Query, open_documents, open_qrels, open_queries
from o1_records.keys import draw, itself

logger = logging.getLogger(__name__)

LEAST_QUERIES = 10  # fewer say nothing
RESAMPLES = 10_000
BLOCK = 1 << 25  # scores in memory at a time
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """What is calibrated on: queries with at least one relevant document in the corpus, and the corpus.

    `relevant` maps rows of documents to their relevance, for each query; `best` is the gain of its ideal
    ranking, of documents that are not in the corpus too; `itself` maps the places of queries that are
    documents too to their rows (`o1_records.keys.itself`): these are never found.
    """

    name: str
    split: str
    queries: Sequence[Query]
    documents: Sequence[Document]
    relevant: Sequence[Mapping[int, int]]
    best: Sequence[float]
    itself: Mapping[int, int] = field(default_factory=dict)

    def ndcg(self, scores: Scores, places: Sequence[int]) -> Floats:
        """Return nDCG@10 of rows of scores that are those of the queries at these places."""
        relevant = [self.relevant[place] for place in places]
        found = self.without_itself(scores, places)
        return ndcg_rows(found, relevant, [self.best[place] for place in places])

    def without_itself(self, scores: Scores, places: Sequence[int]) -> Scores:
        """Return these rows of scores, minus infinity for the document that is the query itself."""
        cells = [(row, self.itself[place]) for row, place in enumerate(places) if place in self.itself]
        if not cells:
            return scores
        found = scores.copy()
        found[tuple(np.array(cells).T)] = -np.inf
        return found

    def blocks(self, places: Sequence[int]) -> Iterator[Sequence[int]]:
        """Yield places of queries, so many at a time that their scores fit into memory."""
        step = max(1, BLOCK // len(self.documents))
        for start in range(0, len(places), step):
            yield places[start : start + step]


def open_judged(folder: str | Path, split: str, *, queries: int | None = None) -> Judged:
    """Read a BEIR folder; with `queries`, only so many of its queries, chosen by their ids.

    Queries without a relevant document in the corpus are left out, and so is for each query a document that
    is the query itself; both are counted in the log. Raises InputError where fewer than `LEAST_QUERIES` are
    left.
    """
    documents = list(open_documents(folder))
    # equal scores go to the larger doc_id, as everywhere
    documents.sort(key=lambda document: document.doc_id, reverse=True)
    row_of = {document.doc_id: row for row, document in enumerate(documents)}
    judged: dict[str, dict[int, int]] = {}
    named: dict[str, set[str]] = {}
    relevances: dict[str, list[int]] = {}
    for qrel in open_qrels(folder, split):
        own = judged.setdefault(qrel.query_id, {})
        named.setdefault(qrel.query_id, set()).add(qrel.doc_id)
        if qrel.relevance > 0:
            relevances.setdefault(qrel.query_id, []).append(qrel.relevance)
            if qrel.doc_id in row_of:
                own[row_of[qrel.doc_id]] = qrel.relevance
    asked = sorted(open_queries(folder, split), key=lambda query: draw(query.query_id))
    kept = [query for query in asked if judged.get(query.query_id)]
    if len(kept) < len(asked):
        logger.warning("%s: %d queries have no relevant document", folder, len(asked) - len(kept))
    kept = kept[:queries]
    if len(kept) < LEAST_QUERIES:
        raise InputError(
            f"{folder}: {len(kept)} judged queries in split {split!r}; at least {LEAST_QUERIES} are needed"
        )
    relevant = [judged[query.query_id] for query in kept]
    best = [ideal(relevances[query.query_id]) for query in kept]
    own = {
        place: row_of[doc_id]
        for place, query in enumerate(kept)
        for doc_id in itself(query.query_id, named[query.query_id])
        if doc_id in row_of
    }
    if own:
        logger.warning(
            "%s: %d queries are documents too, by their ids, and do not find them", folder, len(own)
        )
    return Judged(Path(folder).resolve().name, split, kept, documents, relevant, best, own)


def gain_of(differences: Floats) -> Gain:
    """Return a mean and its 95 % interval (percentiles of a paired bootstrap, seed 0)."""
    random = np.random.default_rng(0)
    means = np.concatenate(
        [
            differences[random.integers(0, len(differences), (1000, len(differences)))].mean(axis=1)
            for _ in range(RESAMPLES // 1000)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Gain(mean=float(differences.mean()), low=float(low), high=float(high))
