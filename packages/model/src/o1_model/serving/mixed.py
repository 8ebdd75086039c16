"""A ThinkingRetriever for many callers at once: any embedder, any thinker, thoughts mixed into queries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from o1_model.encoding.encode import refuse_broken
from o1_model.retriever.embedders import encoder_of
from o1_model.retriever.identity import digest_of
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.retriever.thinker import ThinksAloud
from o1_model.serving.answers import Answer, Considered, Work
from o1_model.serving.batcher import Batcher
from o1_model.thinking.decode import Aloud
from o1_model.thinking.gate import Gate
from o1_model.thinking.settings import Thinking
from o1_records import Document, InputError, Query
from o1_records.mixture import Mixture
from o1_records.vectors import Encoder

CHARACTERS = 4  # about so many make a token, of whatever tokenizer the models have


@dataclass(frozen=True)
class _Item:
    """One input, and the thoughts that came with it."""

    text: Query | Document
    thoughts: tuple[str, ...] | None = None


class AsyncRetriever:
    """Awaitable vectors of one ThinkingRetriever; calls at the same time share batches.

    It has what the server needs of an `AsyncEmbedder`. Tokens are estimates: what another embedder reads is
    not known here.
    """

    def __init__(self, retriever: ThinkingRetriever, *, batch_tokens: int, max_waiting: int) -> None:
        retriever.refuse_gate()
        self._retriever = retriever
        self.batcher: Batcher[Work, _Item, Answer | InputError] = Batcher(
            self._run, self._cost, batch_tokens=batch_tokens, max_waiting=max_waiting
        )

    @property
    def name(self) -> str:
        """What the model is called."""
        return self._retriever.name

    @property
    def digest(self) -> str:
        """What the vectors depend on."""
        return digest_of(self._retriever.fingerprint)

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._retriever.dim

    @property
    def thinks(self) -> bool:
        """Whether it can think."""
        return self._retriever.thinker is not None

    @property
    def thinking(self) -> Thinking | None:
        """How it thinks unless the client says otherwise; None if it does not."""
        return self._retriever.thinking if self._retriever.thinks else None

    @property
    def encoder(self) -> Encoder:
        """What makes the vectors of its queries, before thoughts are mixed in."""
        return encoder_of(self._retriever.embedder, role="query")

    @property
    def mixture(self) -> Mixture:
        """How thoughts enter a query."""
        return self._retriever.mixture

    @property
    def about(self) -> Mapping[str, Any]:
        """What `/info` says of it."""
        what = self._retriever.fingerprint
        return {"model_dtype": encoder_of(self._retriever.embedder).dtype, "layout": None, **what}

    def capped(self, thinking: Thinking) -> Thinking:
        """Return how it will think: of no more tokens than it was set up for."""
        own = self._retriever.thinking
        return (
            thinking
            if own is None
            else replace(thinking, max_tokens=min(own.max_tokens, thinking.max_tokens))
        )

    async def answers(
        self,
        work: Work,
        inputs: Sequence[Any],
        thoughts: Sequence[Sequence[str]] | None = None,
    ) -> list[Answer]:
        """Return the answer to each input: texts or records.

        Raises BrokenVectorsError where one of these inputs has no vector, and QueueFullError.
        """
        if work.with_query:
            raise InputError("with_query: thoughts are mixed in by a weight here; leave it out")
        kinds: tuple[type, ...] = (str, Query if work.role == "query" else Document)
        if any(not isinstance(each, kinds) for each in inputs):
            raise InputError(f"this server embeds with a model of others; send a {work.role} as text")
        if not inputs:
            return []
        if thoughts is not None and len(thoughts) != len(inputs):
            raise InputError(f"{len(inputs)} inputs but thoughts for {len(thoughts)}")
        given = [None] * len(inputs) if thoughts is None else [tuple(own) for own in thoughts]
        items = [_Item(_record(work, each), own) for each, own in zip(inputs, given, strict=True)]
        answers: list[Answer] = []
        for answer in await self.batcher.answer(work, items):
            if isinstance(answer, InputError):
                raise answer
            answers.append(answer)
        refuse_broken(np.stack([answer.vector for answer in answers]))
        return answers

    async def think_aloud(
        self, query: Query, thinking: Thinking, gate: Gate | None, aloud: Aloud
    ) -> Considered:
        """Return the thoughts about a query; `aloud` hears them in the model's thread.

        A thinker that cannot be listened to (a server, a file, vLLM) is heard when it has finished. What
        `aloud` raises ends the thinking. Raises InputError without a thinker, and QueueFullError.
        """
        if gate is not None:
            raise InputError("a gate is for a checkpoint that thinks by itself; leave it out")
        thinker = self._retriever.thinker
        if thinker is None:
            raise InputError(f"{self.name} does not think")

        def think() -> Considered:
            if isinstance(thinker, ThinksAloud):
                found = thinker.think_aloud(query, thinking, aloud)
            else:
                [found] = thinker.think([query], thinking)
                for sample, thought in enumerate(found):
                    aloud(sample, thought.text)
            tokens = [each.source.completion_tokens or len(each.token_ids) for each in found]
            return self._considered(query, [thought.text for thought in found], tokens)

        return await self.batcher.alone(think)

    async def read(self, query: Query, thoughts: Sequence[str]) -> Considered:
        """Return given thoughts with their vectors; their tokens are estimates. Raises QueueFullError."""
        tokens = [1 + len(text) // CHARACTERS for text in thoughts]
        return await self.batcher.alone(lambda: self._considered(query, list(thoughts), tokens))

    def _considered(self, query: Query, thoughts: list[str], tokens: list[int]) -> Considered:
        [vectors] = self._retriever.read([query], [thoughts], self.mixture.reading)
        return Considered(thoughts, vectors, tokens)

    async def close(self) -> None:
        """Stop the thread; calls that still wait are cancelled."""
        await self.batcher.close()
        await asyncio.sleep(0)

    def _run(self, work: Work, items: Sequence[_Item]) -> list[Answer | InputError]:
        """Return the answers; what one input is refused for does not reach the others."""
        try:
            return [*self._together(work, items)]
        except InputError as error:
            if len(items) == 1:
                return [error]
        return [answer for item in items for answer in self._run(work, [item])]

    def _together(self, work: Work, items: Sequence[_Item]) -> list[Answer]:
        retriever, tokens = self._retriever, [_about(item) for item in items]
        documents = [item.text for item in items if isinstance(item.text, Document)]
        texts: list[list[str]] = [list(item.thoughts or ()) for item in items]
        if documents:
            vectors = retriever.encode_document(documents)
        else:
            queries = [item.text for item in items if isinstance(item.text, Query)]
            if work.think is not None and retriever.thinker is not None:
                found = retriever.thinker.think(queries, work.think)
                texts = [[thought.text for thought in own] for own in found]
                written = [sum(thought.source.completion_tokens for thought in own) for own in found]
                tokens = [count + own for count, own in zip(tokens, written, strict=True)]
            vectors = retriever.mix(queries, retriever.embedder.queries(queries), texts)
        return [
            Answer(vector, own, count, cut=False)
            for vector, own, count in zip(vectors, texts, tokens, strict=True)
        ]

    def _cost(self, work: Work, item: _Item) -> int:
        thinking = 0 if work.think is None else work.think.samples * work.think.max_tokens
        return _about(item) + thinking


def _record(work: Work, text: str | Query | Document) -> Query | Document:
    if not isinstance(text, str):
        return text
    return Query(query_id="-", text=text) if work.role == "query" else Document(doc_id="-", text=text)


def _about(item: _Item) -> int:
    texts = (item.text.text, *(item.thoughts or ()))
    return sum(1 + len(text) // CHARACTERS for text in texts)
