"""The protocol for engines beyond one machine: what a vector database has to do here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from o1_index.hits import Hits
from o1_index.vectors import Vectors


class VectorStore(Protocol):
    """Vectors under ids, searched by inner product or cosine. `Index` is the first implementation."""

    def upsert(self, vectors: Vectors, ids: Sequence[str]) -> None:
        """Replace the documents that are there and add the others; all of them or none."""
        ...

    def search(self, query_vectors: Vectors, query_ids: Sequence[str], *, k: int) -> Hits:
        """Return the k best documents of each query, best first; ties go to the larger doc_id."""
        ...

    def count(self) -> int:
        """Return how many documents can be found."""
        ...
