"""Training on what the model itself thinks, so that v_t learns what its own thoughts are worth.

Trained on elected thoughts alone, v_t relies on thoughts that are better than those it will see, the
model's own. So a share of the examples gets a thought sampled from the current model. It counts in the
contrastive terms and is never cloned.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from o1_model.batch import grouped
from o1_model.embedder import Embedder
from o1_model.layout import Row, query_ids, query_row
from o1_model.thinking.settings import Thinking
from o1_model.training.data import JointBatch, with_thoughts
from o1_model.training.objective import Objective
from o1_records import InputError, Query

Inputs = dict[str, JointBatch]


class OwnThoughts:
    """Puts own thoughts into batches on their way to the trainer, many batches in one go.

    Every `own_thoughts_every` steps the batches of the coming steps are taken from the data loader, the
    model thinks about the chosen queries of all of them at once, and the batches are handed out one by
    one. Which queries are chosen and what is sampled depends on seed, step of the refresh and query_id
    alone. Refreshes happen at multiples of `own_thoughts_every` and at the start of an epoch, so that a
    resume from such a step is exact; from a step in between, the thoughts are those of a newer model.

    The parameters must be whole on this process (no FSDP). `thinking.samples` counts as 1.
    Raises InputError for a layout that has no place for a thought.
    """

    def __init__(
        self,
        embedder: Embedder,
        objective: Objective,
        *,
        chunk_tokens: int = 2048,
        seed: int = 0,
        thinking: Thinking | None = None,
    ) -> None:
        if objective.own_thoughts and not embedder.layout.thinks:
            raise InputError(
                f"the layout {embedder.layout.name!r} has no place for a thought; set own_thoughts to 0"
            )
        self._embedder, self._objective, self._chunk_tokens = embedder, objective, chunk_tokens
        self._seed = seed
        length = embedder.layout.thought_length
        self._thinking = replace(thinking or Thinking(max_tokens=length), samples=1)
        self._source: Iterator[Inputs] | None = None
        self._ready: deque[Inputs] = deque()

    def ahead(self, batches: Iterator[Inputs], *, step: int, accumulation: int = 1) -> Iterator[Inputs]:
        """Return the coming batches with own thoughts in them, or `batches` itself before the first of them.

        Call it in the trainer's `get_batch_samples` with the epoch's iterator and the number of optimiser
        steps done; take at most one step's `accumulation` batches from what it returns.
        """
        objective = self._objective
        if objective.own_thoughts == 0 or step < objective.own_thoughts_from:
            return batches
        if batches is not self._source:
            self._source = batches
            self._ready.clear()
        if not self._ready:
            every = objective.own_thoughts_every
            block = list(islice(batches, (every - step % every) * accumulation))
            self._ready.extend(self.insert(block, step))
        return self._hand_out()

    def insert(self, batches: Sequence[Inputs], step: int) -> list[Inputs]:
        """Return the batches with thoughts of the model at this `step` in the chosen share of examples."""
        # the whole record: two data sets may use one query_id
        asked = {query for inputs in batches for query in inputs["batch"].asked}
        label, most = f"{self._seed}\0{step}", self._objective.own_thoughts * 2**63
        chosen = [
            query
            for query in sorted(asked, key=lambda query: (query.query_id, query.text, query.instruction))
            if _number(f"{label}\0{query.query_id}".encode()) < most
        ]
        own = self._thoughts(chosen, step)
        return [{**inputs, "batch": self._with(inputs["batch"], own)} for inputs in batches]

    def _hand_out(self) -> Iterator[Inputs]:
        while self._ready:
            yield self._ready.popleft()

    def _thoughts(self, queries: Sequence[Query], step: int) -> dict[Query, tuple[Row, str]]:
        """Return for each query a row with a new thought and without labels, and the thought's text."""
        if not queries:
            return {}
        backbone, layout, tokenizer = self._embedder.backbone, self._embedder.layout, self._embedder.tokenizer
        thinking = replace(self._thinking, seed=_number(f"{self._seed}\0{step}".encode()))
        training = backbone.training
        backbone.eval()
        try:
            _, traces = self._embedder.decode(queries, thinking)
        finally:
            backbone.train(training)
        found = {}
        texts = query_ids(layout, tokenizer, queries)
        for query, text, own in zip(queries, texts, traces, strict=True):
            row = query_row(layout, text.ids, own[0].token_ids, prompt=text.prompt)
            written = self._embedder.thoughts([query], [own], thinking)
            found[query] = (replace(row, labels=range(0)), written[0].text if written else "")
        return found

    def _with(self, batch: JointBatch, own: dict[Query, tuple[Row, str]]) -> JointBatch:
        both = [
            own.get(query, (row, text))
            for query, row, text in zip(batch.asked, batch.query_rows, batch.texts, strict=True)
        ]
        rows, texts = [row for row, _ in both], [text for _, text in both]
        queries, order = grouped(rows, self._embedder.reader.pad_id, tokens=self._chunk_tokens)
        thoughts = torch.tensor([row.first != row.last for row in rows])
        batch = replace(
            batch,
            queries=queries,
            query_order=order,
            query_rows=rows,
            texts=texts,
            judgements=replace(batch.judgements, has_thought=thoughts),
        )
        mixture = self._objective.mixture
        if mixture is None:
            return batch
        layout, tokenizer = self._embedder.layout, self._embedder.tokenizer
        return with_thoughts(batch, mixture.reading, layout, tokenizer, tokens=self._chunk_tokens)


def _number(label: bytes) -> int:
    """Return a number below 2 ** 63 that depends on the label alone."""
    return int.from_bytes(hashlib.sha256(label).digest()[:8], "big") >> 1
