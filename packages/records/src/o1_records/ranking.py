"""The one total order of hits: float32 score, then doc_id descending (trec_eval's)."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Mapping

from o1_records.files import InputError, quoted
from o1_records.types import Hit


def rank(query_id: str, scores: Mapping[str, float], k: int | None = None) -> list[Hit]:
    """Return the k best documents of a query as hits, best first (all of them when k is None).

    Scores are rounded to float32 before they are compared; equal scores go to the larger doc_id.

    Raises InputError for a score that is not finite.
    """
    rounded = array("f", scores.values())
    for doc_id, score in zip(scores, rounded, strict=True):
        if not math.isfinite(score):
            raise InputError(f"query {quoted(query_id)}, document {quoted(doc_id)}: score {score}")
    pairs = zip(rounded, scores, strict=True)
    best = sorted(pairs, reverse=True) if k is None else heapq.nlargest(k, pairs)
    return [
        Hit(query_id=query_id, doc_id=doc_id, score=score, rank=rank)
        for rank, (score, doc_id) in enumerate(best, start=1)
    ]
