"""How the server answers one batch: from token ids to vectors and thoughts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from o1_model.aggregate import Vectors, aggregate, stacked
from o1_model.embedder import Embedder
from o1_model.layout import document_row, prompt_row, query_row
from o1_model.serving.wire import ThinkOptions
from o1_records import InputError


@dataclass(frozen=True)
class Work:
    """What inputs of one batch have in common."""

    role: Literal["query", "document"]
    think: ThinkOptions | None = None


@dataclass(frozen=True)
class Answer:
    """The vector of one input, the thoughts behind it, and the tokens that both took."""

    vector: Vectors
    thoughts: list[str]
    tokens: int


class ModelAnswers:
    """Answers batches with an Embedder. Only one thread may call it."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def __call__(self, work: Work, items: Sequence[tuple[int, ...]]) -> list[Answer]:
        """Vectors of texts given as token ids; a query's thoughts depend on its own ids alone."""
        embedder, layout = self.embedder, self.embedder.layout
        if work.think is not None:
            return self._think(work.think, items)
        build = query_row if work.role == "query" else document_row
        rows = [build(layout, ids) for ids in items]
        vectors = embedder.encode_rows(rows)
        return [Answer(vector, [], len(row.ids)) for vector, row in zip(vectors, rows, strict=True)]

    def cost(self, work: Work, ids: tuple[int, ...]) -> int:
        """Tokens that an input takes in a batch, thoughts included."""
        layout = self.embedder.layout
        if work.role == "document":
            return min(len(ids), layout.document_length) + 3
        prompt = min(len(ids), layout.query_length) + 4
        if work.think is None:
            return prompt
        kept = min(work.think.max_tokens, layout.thought_length)
        return work.think.samples * (prompt + kept + 2)

    def check_ids(self, items: Sequence[Sequence[int]]) -> None:
        """Raises InputError for ids that the vocabulary lacks and for control tokens."""
        size = len(self.embedder.tokenizer)
        control = set(self.embedder.layout.control_ids)
        for number, ids in enumerate(items):
            for token in ids:
                if token >= size or token in control:
                    what = "a control token" if token in control else f"outside the vocabulary of {size}"
                    raise InputError(f"input[{number}]: token id {token} is {what}")

    def _think(self, options: ThinkOptions, items: Sequence[tuple[int, ...]]) -> list[Answer]:
        embedder = self.embedder
        prompts = [prompt_row(embedder.layout, ids) for ids in items]
        names = [hashlib.sha256(repr(ids).encode()).hexdigest()[:16] for ids in items]
        v_q, traces = embedder.decode_rows(prompts, names, options.thinking())
        vectors = aggregate(v_q, stacked(traces), with_query=options.with_query)
        return [
            Answer(
                vector,
                [embedder.text_of(trace) for trace in row],
                len(prompt.ids) + sum(len(trace.token_ids) + 2 for trace in row),
            )
            for vector, prompt, row in zip(vectors, prompts, traces, strict=True)
        ]
