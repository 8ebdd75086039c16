"""Exact inner-product search in numpy, for collections that fit in memory; o1-index does larger ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from o1_bench.pipeline import Vectors
from o1_records import Hit, InputError, rank

_BLOCK = 2**24  # scores that are held at a time: 64 MB


class ExactSearch:
    """Search document vectors [documents, dim]; ties go to the larger doc_id, as everywhere.

    `excluded` maps a query_id to documents that never come back for it.
    """

    def __init__(
        self,
        vectors: Vectors,
        doc_ids: Sequence[str],
        *,
        excluded: Mapping[str, Set[str]] | None = None,
    ) -> None:
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._doc_ids = list(doc_ids)
        self._excluded = excluded or {}
        self._rows = {doc_id: row for row, doc_id in enumerate(self._doc_ids)}
        if len(self._rows) != len(self._vectors) or len(self._doc_ids) != len(self._vectors):
            raise InputError(f"{len(self._rows)} different doc_ids for {len(self._vectors)} vectors")

    @property
    def nbytes(self) -> int:
        """The size of the vectors in bytes."""
        return int(self._vectors.nbytes)

    def __call__(self, vectors: Vectors, query_ids: Sequence[str], *, k: int) -> Iterator[Hit]:
        """Yield the k best documents of each query, best first."""
        step = max(1, _BLOCK // max(1, len(self._doc_ids)))
        for start in range(0, len(query_ids), step):
            block = np.asarray(vectors[start : start + step], dtype=np.float32)
            scores = block @ self._vectors.T
            for query_id, row in zip(query_ids[start : start + step], scores, strict=True):
                yield from self._best(query_id, row, k)

    def _best(self, query_id: str, scores: NDArray[np.float32], k: int) -> list[Hit]:
        left_out = self._excluded.get(query_id, frozenset())
        for doc_id in left_out & self._rows.keys():
            scores[self._rows[doc_id]] = -np.inf
        # every document that ties with the k-th takes part, so that doc_id decides
        least = np.partition(scores, -k)[-k] if 0 < k < len(scores) else -np.inf
        rows = np.flatnonzero((scores >= least) & (scores > -np.inf))
        return rank(query_id, {self._doc_ids[row]: float(scores[row]) for row in rows}, k)
