"""A collection that can be searched, and one search as its asker sees it: without and with thoughts.

The vectors of the documents are a folder that `o1-model embed` wrote, which is searched exactly here, or an
index of another package. Packages register what they can open in the entry-point group `o1_model.search`: a
callable `open_search(folder)` that returns an object as `Searches` describes it, or None where the folder is
not one of its own. o1-index does so.

```toml
[project.entry-points."o1_model.search"]
o1-index = "o1_index.search:open_search"
```
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from o1_model.encoding.encode import Vectors
from o1_model.retriever.vectors import refuse_other_maker
from o1_model.serving.answers import AsyncEmbedder, Considered, Heard, Work
from o1_model.serving.mixed import AsyncRetriever
from o1_records import Document, Hit, InputError, InputWarning, Query, open_documents, quoted, rank
from o1_records.mixture import mix_vectors
from o1_records.vectors import Encoder, VectorSet

GROUP = "o1_model.search"
MOST_TEXT = 4_000  # characters of a document that are sent with a hit


class Searches(Protocol):
    """Vectors of documents that can be searched."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def encoder(self) -> Encoder | None:
        """What made the vectors; None if nobody knows."""

    def ids(self) -> Iterable[str]:
        """Return the doc_ids of all vectors."""

    def search(self, vector: Vectors, k: int) -> list[Hit]:
        """Return the k best documents for a unit vector [dim], best first; fewer where there are fewer."""


class ExactSearch:
    """A folder of vectors, all of them compared with each query in memory."""

    def __init__(self, vectors: VectorSet) -> None:
        self.encoder, self._ids = vectors.manifest.encoder, vectors.ids()
        self._vectors: Vectors = vectors.load().astype(np.float32, copy=False)

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self._vectors.shape[1])

    def ids(self) -> list[str]:
        """Return the doc_ids of all vectors."""
        return self._ids

    def search(self, vector: Vectors, k: int) -> list[Hit]:
        """Return the k best documents by inner product, in the one total order of hits."""
        scores = self._vectors @ vector
        last = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
        return rank("", {self._ids[row]: float(scores[row]) for row in np.flatnonzero(scores >= last)}, k)


class Collection:
    """Documents with their vectors, which one model made.

    Args:
        index: a folder of vectors, or of an index that an installed package can open.
        corpus: the documents, as a BEIR folder or a JSONL file of Document records; they are kept in memory.

    Raises:
        InputError: nobody can open the index, it has no documents, or the corpus lacks some of them.
    """

    def __init__(self, index: str | Path, corpus: str | Path) -> None:
        self.index, self.corpus = Path(index), Path(corpus)
        self.vectors = _open_search(self.index)
        wanted = set(self.vectors.ids())
        if not wanted:
            raise InputError(f"{index}: has no documents")
        self._documents: dict[str, Document] = {}
        self.unindexed = 0
        for document in open_documents(corpus):
            if document.doc_id in wanted:
                self._documents[document.doc_id] = document
            else:
                self.unindexed += 1
        if missing := sorted(wanted - self._documents.keys()):
            raise InputError(
                f"{corpus}: lacks {len(missing)} of the {len(wanted)} documents in {index}, the first "
                f"{quoted(missing[:5])}; give the corpus that was embedded"
            )
        if self.unindexed:
            message = f"{corpus}: {self.unindexed} document(s) have no vector in {index} and are not found"
            warnings.warn(message, InputWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def about(self) -> dict[str, Any]:
        """What `/info` says of it."""
        return {
            "index": self.index.name, "documents": len(self), "unindexed": self.unindexed,
        }  # fmt: skip

    def refuse_other_encoder(self, model: str, encoder: Encoder) -> None:
        """Raise InputError unless these are vectors of documents that this encoder made."""
        refuse_other_maker(self.index, self.vectors.encoder, model, encoder, self.corpus)

    def search(self, vector: Vectors, k: int) -> list[dict[str, Any]]:
        """Return the k best documents as they are sent; `left_out` counts characters that are not."""
        return [
            {
                "doc_id": hit.doc_id,
                "score": hit.score,
                "title": document.title,
                "text": document.text[:MOST_TEXT],
                "left_out": max(0, len(document.text) - MOST_TEXT),
            }
            for hit in self.vectors.search(vector, k)
            for document in [self._documents[hit.doc_id]]
        ]


class Event(NamedTuple):
    """What an asker is told: `plain`, `thought` any number of times, and `thinking`."""

    name: str
    data: dict[str, Any]


async def searching(
    model: AsyncEmbedder | AsyncRetriever,
    collection: Collection,
    query: Query,
    work: Work,
    *,
    k: int,
    thoughts: list[str] | None = None,
    weight: float | None = None,
) -> AsyncIterator[Event]:
    """Search without thoughts and, if `work` thinks or `thoughts` are given, with them.

    ```
    plain      hits, milliseconds (embed, search), tokens, cut (whether only the query's beginning was read)
    thought    sample, text: what the sample says so far
    thinking   hits, thoughts, tokens (of each), weight, reading, milliseconds (think, search)
    ```
    Thoughts are mixed in by `weight`, by default the model's.
    """
    clock = _Clock()
    [answer] = await model.answers(Work("query"), [query])
    embedding = clock.lap()
    hits = await asyncio.to_thread(collection.search, answer.vector, k)
    yield Event(
        "plain",
        {
            "hits": hits,
            "milliseconds": {"embed": embedding, "search": clock.lap()},
            "tokens": answer.tokens,
            "cut": answer.cut,
        },
    )
    if work.think is None and thoughts is None:
        return
    found: Considered
    if thoughts is not None:
        found = await model.read(query, thoughts)
    else:
        assert work.think is not None
        heard = Heard()
        thinking = asyncio.ensure_future(model.think_aloud(query, work.think, work.gate, heard))
        async with heard.of(thinking) as said:
            async for sample, text in said:
                yield Event("thought", {"sample": sample, "text": text})
        found = await thinking
    thought = clock.lap()
    share = model.mixture.weight if weight is None else weight
    [vector] = mix_vectors(answer.vector[None], [found.vectors], share)
    hits = await asyncio.to_thread(collection.search, vector, k)
    yield Event(
        "thinking",
        {
            "hits": hits,
            "thoughts": found.thoughts,
            "tokens": found.tokens,
            "weight": share,
            "reading": model.mixture.reading,
            "milliseconds": {"think": thought, "search": clock.lap()},
        },
    )


class _Clock:
    """Milliseconds since it was last looked at."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return round(1000 * passed, 2)


def _open_search(folder: Path) -> Searches:
    """Open a folder of vectors or of an index. Raises InputError for anything else."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; give one that `o1-model embed` or `o1-index build` wrote"
        )
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        opened: Searches | None = entry.load()(folder)
        if opened is not None:
            return opened
    if (folder / "manifest.json").is_file():
        return ExactSearch(VectorSet(folder))
    raise InputError(
        f"{folder}: no folder of vectors, and of no index that an installed package can open "
        "(those of o1-index need: pip install 'o1-index[cpu]')"
    )
