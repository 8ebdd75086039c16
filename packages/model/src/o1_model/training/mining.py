"""Hard negatives that are mined anew while training, with the model as it is then (ANCE, Xiong et al. 2021).

Every so many steps all documents and queries are embedded and searched exactly. A negative is among the best
documents of a query that are neither known positives nor the query itself, and scores clearly below the
lowest of its own positives. As `o1-vote mine` has it, but for near-copies of positives, which the limit keeps
out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from o1_model.embedder import Embedder
from o1_model.encoding.encode import Vectors
from o1_model.training.data import Drawn, Examples, JointBatch, JointCollator, document_key
from o1_model.training.step import every, process, world_size
from o1_records import Document, Example

logger = logging.getLogger(__name__)

NEGATIVES_FILE = "o1_negatives.safetensors"
_BLOCK = 1 << 25  # scores in memory at a time

Rows = NDArray[np.int32]


class Miner:
    """Mines before every step whose number is a multiple of `steps`, and makes batches with what it found.

    Batches come as lists of `Drawn`, so that what was mined last is in the next one even where a loader is
    ahead. A checkpoint keeps what was mined: a resumed training goes on with it.

    Args:
        embedder: the model in training. Its parameters must be whole on this process (no FSDP).
        examples: what is trained on.
        collator: makes the batches, and knows what is no negative of a query.
        corpus: where to look, beside the documents of the examples.
        steps: how often.
        range_max: how many of the best documents are looked at.
        relative_margin: how far below the lowest positive a negative must score, as a share of that score.
    """

    def __init__(
        self,
        embedder: Embedder,
        examples: Examples,
        collator: JointCollator,
        corpus: Sequence[Document] = (),
        *,
        steps: int,
        range_max: int = 100,
        relative_margin: float = 0.05,
    ) -> None:
        self._embedder, self._examples, self._collator = embedder, examples, collator
        self._steps, self._range_max, self._relative_margin = steps, range_max, relative_margin
        own = (d for e in examples.records for d in (*e.positives, *e.negatives))
        self.documents = list({document_key(d): d for d in (*corpus, *own)}.values())
        self._row_of = {document_key(document): row for row, document in enumerate(self.documents)}
        self._mined: Rows | None = None
        self._mined_at = 0
        self._source: Iterator[Sequence[Drawn]] | None = None
        self._made: Iterator[dict[str, JointBatch]] = iter(())

    def ahead(self, drawn: Iterator[Any], *, step: int) -> Iterator[dict[str, JointBatch]]:
        """Return the coming batches; call it before each optimiser step, with the number of those done."""
        if step and step % self._steps == 0 and step != self._mined_at:
            self._mined_at, self._mined = step, self.mine()
            self._tell(step)
        if drawn is not self._source:
            self._source, self._made = drawn, (self._batch(items) for items in drawn)
        return self._made

    def mine(self) -> Rows:
        """Return the rows of the documents that are negatives of each example, best first, then -1."""
        backbone = self._embedder.backbone
        training = backbone.training
        backbone.eval()
        examples = self._examples.records
        try:
            with self._embedder.counting():  # cut texts were told before the first step
                documents = _shared(self.documents, self._embedder.encode_document)
                queries = _shared([example.query for example in examples], self._embedder.encode_query)
        finally:
            backbone.train(training)
        own = range(process(), len(examples), world_size())
        found = np.full((len(own), self._range_max), -1, dtype=np.int32)
        size = max(1, _BLOCK // len(documents))
        for start in range(0, len(own), size):
            places = own[start : start + size]
            for row, (place, scores) in enumerate(
                zip(places, queries[list(places)] @ documents.T, strict=True), start
            ):
                kept = self._safe(examples[place], scores)
                found[row, : len(kept)] = kept
        return _woven(every(found), len(examples))

    def save(self, folder: str | Path) -> None:
        """Write what was mined last, if anything was."""
        if self._mined is not None:
            save_file({"rows": self._mined}, Path(folder) / NEGATIVES_FILE)

    def load(self, folder: str | Path) -> None:
        """Take what was mined last from a checkpoint; before the first time there is nothing."""
        path = Path(folder) / NEGATIVES_FILE
        self._mined = load_file(path)["rows"] if path.exists() else None

    def _safe(self, example: Example, scores: NDArray[np.float32]) -> list[int]:
        own = [self._row(document) for document in example.positives]
        excluded = {self._row_of[key] for key in self._collator.excluded.of(example) & self._row_of.keys()}
        # as many more as are no negatives: known positives, and the query itself
        most = min(len(scores), self._range_max + len(excluded))
        best = np.argpartition(-scores, most - 1)[:most]
        best = best[np.lexsort((best, -scores[best]))]
        lowest = float(scores[own].min())
        # abs, because a share of a negative score would be above that score
        limit = lowest - self._relative_margin * abs(lowest)
        free = [row for row in best.tolist() if row not in excluded]
        return [row for row in free[: self._range_max] if scores[row] <= limit]

    def _batch(self, items: Sequence[Drawn]) -> dict[str, JointBatch]:
        return self._collator([self._with_mined(item) for item in items])

    def _with_mined(self, item: Drawn) -> Drawn:
        if self._mined is None or item.visit is None:
            return item
        example = self._examples.records[item.visit.number]
        mined = [self.documents[row] for row in self._mined[item.visit.number].tolist() if row >= 0]
        if len(mined) < self._wanted(example):
            keys = set(map(document_key, mined))
            mined += [document for document in example.negatives if document_key(document) not in keys]
        return self._examples.drawn(item.visit, negatives=mined)

    def _wanted(self, example: Example) -> int:
        return (example.group_size or self._collator.negatives + 1) - 1

    def _row(self, document: Document) -> int:
        return self._row_of[document_key(document)]

    def _tell(self, step: int) -> None:
        assert self._mined is not None
        counts = (self._mined >= 0).sum(axis=1)
        wanted = [self._wanted(example) for example in self._examples.records]
        short = int((counts < wanted).sum())
        logger.info(
            "step %d: mined %.1f negatives an example among %s documents; %s examples have fewer than a "
            "batch takes, and keep their own beside them",
            step, counts.mean(), f"{len(self.documents):,}", f"{short:,}",
        )  # fmt: skip


def _shared(items: Sequence[Any], encode: Any) -> Vectors:
    """Return the vectors of all items, of which every process makes its share."""
    own = list(items[process() :: world_size()])
    vectors = encode(own) if own else np.zeros((0, 1), dtype=np.float32)
    return _woven(every(vectors), len(items))


def _woven(parts: Sequence[NDArray[Any]], count: int) -> NDArray[Any]:
    """Return the rows of every process, which has each `len(parts)`-th of them, in their order."""
    rows = np.empty((count, *parts[0].shape[1:]), dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        rows[number :: len(parts)] = part
    return rows
