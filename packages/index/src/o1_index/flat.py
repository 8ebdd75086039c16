"""Exact search in numpy: slow, obvious, and what the indexes are tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o1_index.hits import Excluded, Hits, Names, best
from o1_index.settings import Metric
from o1_index.vectors import checked


def exact_search(
    documents: tuple[Sequence[str], NDArray[Any]],
    queries: tuple[Sequence[str], NDArray[Any]],
    *,
    k: int,
    metric: Metric = "inner_product",
    excluded: Excluded | None = None,
) -> Hits:
    """The k best documents of each query; both sides are (ids, vectors [ids, dim]).

    Scores are float32; ties go to the larger doc_id; fewer than k come back where there are fewer.
    Raises InputError as `o1_index.vectors.checked` does.
    """
    doc_ids, vectors = documents
    query_ids, query_vectors = queries
    names = Names(doc_ids)
    right = checked(doc_ids, vectors, metric, "the documents", vectors.shape[-1])
    left = checked(query_ids, query_vectors, metric, "the queries", vectors.shape[-1])
    scores = left @ right.T
    rows = np.tile(np.arange(len(doc_ids)), (len(query_ids), 1))
    for place, query_id in enumerate(query_ids):
        rows[place, names.excluded_rows(query_id, excluded)] = -1
    return Hits(query_ids, names.ids, *best(names, rows, scores, k))
