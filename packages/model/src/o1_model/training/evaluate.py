"""Retrieval measured while training: nDCG@10 on a BEIR folder, with the model's own thoughts and without."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from o1_model.embedder import Embedder
from o1_model.encoding.encode import Vectors
from o1_model.ndcg import DEPTH, ndcg
from o1_model.retriever.embedders import of_checkpoint
from o1_model.thinking.settings import Thinking
from o1_model.training.arguments import EvalArguments
from o1_records import Document, InputError, Query, open_documents, open_qrels, open_queries, quoted, rank
from o1_records.keys import draw, itself
from o1_records.mixture import Mixture, mix_vectors, read_thoughts

logger = logging.getLogger(__name__)

SHOWN_QUERIES = 3


@dataclass(frozen=True)
class Collection:
    """The part of a BEIR folder that is measured on.

    `judged` maps each query of `queries` to its judgements; `all_queries` and `all_documents` are the
    numbers of queries and documents in the folder.
    """

    name: str
    split: str
    queries: Sequence[Query]
    documents: Sequence[Document]
    judged: Mapping[str, Mapping[str, int]]
    all_queries: int
    all_documents: int

    def __str__(self) -> str:
        """Return one sentence on what the figures are measured on."""
        whole = "" if len(self.documents) == self.all_documents else "; fewer documents make higher figures"
        return (
            f"{len(self.queries):,} of {self.all_queries:,} queries ({self.split}), "
            f"{len(self.documents):,} of {self.all_documents:,} documents of {self.name}{whole}"
        )


def open_collection(arguments: EvalArguments) -> Collection | None:
    """Choose queries and documents; None if no collection is named.

    The choice depends on ids alone, so that every run measures on the same. All relevant documents of
    the chosen queries stay. Raises InputError when nothing can be measured.
    """
    if not arguments.eval_collection:
        return None
    folder, split = Path(arguments.eval_collection), arguments.eval_split
    judged: dict[str, dict[str, int]] = {}
    for qrel in open_qrels(folder, split):
        judged.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    queries = list(open_queries(folder, split))
    chosen = heapq.nsmallest(arguments.eval_queries, queries, key=lambda query: draw(query.query_id))
    relevant = {d for q in chosen for d, value in judged[q.query_id].items() if value > 0}
    documents, count = _documents(folder, relevant, arguments.eval_documents)
    if not chosen or not relevant.intersection(d.doc_id for d in documents):
        raise InputError(
            f"{folder}: {len(chosen)} queries of split {split!r} have no relevant document in the corpus; "
            "choose another eval_split or eval_queries"
        )
    return Collection(
        name=folder.resolve().name,
        split=split,
        queries=chosen,
        documents=documents,
        judged={query.query_id: judged[query.query_id] for query in chosen},
        all_queries=len(queries),
        all_documents=count,
    )


def figures_of(arguments: EvalArguments, *, thinks: bool, mixture: Mixture | None = None) -> list[str]:
    """Return the names of what `measure` will find; none if no collection is named."""
    if not arguments.eval_collection:
        return []
    if not (arguments.eval_samples and thinks):
        return ["nDCG@10"]
    return ["nDCG@10", "nDCG@10_thoughts", *([] if mixture is None else ["nDCG@10_mixture"])]


def measure(
    embedder: Embedder, collection: Collection, *, samples: int, mixture: Mixture | None = None
) -> dict[str, float]:
    """Return nDCG@10 of v_q and, as `nDCG@10_thoughts`, of v_t with the model's own thoughts.

    With a mixture, `nDCG@10_mixture` is that of v_q with the same thoughts mixed in. Some thoughts go to the
    log. Every process of a training computes the same figures, so that all of them keep the same checkpoint.
    """
    queries = collection.queries
    documents, v_q = embedder.encode_document(collection.documents), embedder.encode_query(queries)
    found = {"nDCG@10": mean_ndcg(v_q, documents, collection)}
    if not (samples and embedder.layout.thinks):
        return found
    thinking = Thinking(samples=samples, max_tokens=embedder.layout.thought_length)
    thoughts = embedder.think(queries, thinking)
    v_t = embedder.encode_query(queries, thoughts=thoughts)
    found["nDCG@10_thoughts"] = mean_ndcg(v_t, documents, collection)
    if mixture is not None:
        texts: dict[str, list[str]] = {query.query_id: [] for query in queries}
        for thought in thoughts:
            texts[thought.query_id].append(thought.text)
        read = read_thoughts(of_checkpoint(embedder), queries, list(texts.values()), mixture.reading)
        mixed = mix_vectors(v_q, read, mixture.weight)
        found["nDCG@10_mixture"] = mean_ndcg(mixed, documents, collection)
    shown = {query.query_id: query.text for query in queries[:SHOWN_QUERIES]}
    for thought in thoughts:
        if thought.query_id in shown:
            logger.info(
                "thought about %s: %s", quoted(shown.pop(thought.query_id)), quoted(thought.text, 200)
            )
    return found


def mean_ndcg(queries: Vectors, documents: Vectors, collection: Collection) -> float:
    """Return the mean nDCG@10 over the collection's queries; vectors are in its order."""
    doc_ids = [document.doc_id for document in collection.documents]
    values = []
    for query, vector in zip(collection.queries, queries, strict=True):
        scores = dict(zip(doc_ids, (documents @ vector).tolist(), strict=True))
        for doc_id in itself(query.query_id, collection.judged[query.query_id]):
            scores.pop(doc_id, None)
        found = [hit.doc_id for hit in rank(query.query_id, scores, DEPTH)]
        values.append(ndcg(found, collection.judged[query.query_id]))
    return float(np.mean(values))


def _documents(folder: Path, relevant: set[str], limit: int) -> tuple[list[Document], int]:
    """Return the relevant documents and, up to `limit` in all, others; and how many the folder has."""
    count = 0

    def draws() -> Iterable[tuple[bytes, str, Document]]:
        nonlocal count
        for document in open_documents(folder):
            count += 1
            first = b"" if document.doc_id in relevant else draw(document.doc_id)
            yield first, document.doc_id, document

    chosen = heapq.nsmallest(max(limit, len(relevant)), draws(), key=lambda draw: draw[:2])
    return [document for _, _, document in chosen], count
