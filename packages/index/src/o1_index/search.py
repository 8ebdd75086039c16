"""An index as `o1-model serve` searches it, beside the documents' texts.

`open_search` is registered as the entry point `o1-index` of the group `o1_model.search`, where o1-model finds
it; neither package imports the other.
"""

from __future__ import annotations

from pathlib import Path

from o1_index.index import Index, open_index
from o1_index.store.versions import CURRENT
from o1_index.vectors import Matrix
from o1_records import Hit
from o1_records.vectors import Encoder


def open_search(folder: str | Path) -> SearchedIndex | None:
    """Open a saved index, or return None for any other folder.

    Raises InputError for an index whose files were changed or cut.
    """
    return SearchedIndex(open_index(folder)) if (Path(folder) / CURRENT).is_file() else None


class SearchedIndex:
    """An index that is asked for one query at a time."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._index.dim

    @property
    def encoder(self) -> Encoder | None:
        """What made the vectors; None if nobody knows."""
        return self._index.settings.encoder

    def ids(self) -> list[str]:
        """Return the doc_ids of all documents that can be found."""
        return list(self._index.documents)

    def search(self, vector: Matrix, k: int) -> list[Hit]:
        """Return the k best documents for a vector [dim], best first; fewer where there are fewer."""
        return list(self._index.search(vector[None], ["query"], k=k))
