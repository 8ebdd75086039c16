"""An Embedder for many callers at once: their texts are tokenised in threads and share the model's batches.

`AsyncEmbedder` is what the server stands on, and what an application with an event loop of its own uses. The
model runs on one thread; tokenizing happens on others, so that no long text holds up a short one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec
import numpy as np

from o1_model.embedder import AnyDocuments, AnyQueries, Embedder, as_documents, as_queries
from o1_model.encoding.encode import Vectors, refuse_broken
from o1_model.layout import TextIds, document_ids, document_row, prompt_row, query_ids, query_row, text_ids
from o1_model.serving.batcher import Batcher
from o1_model.thinking.aggregate import aggregate, stacked, truncated
from o1_model.thinking.decode import Aloud, Trace
from o1_model.thinking.gate import Gate
from o1_model.thinking.settings import Thinking
from o1_records import Document, InputError, Query
from o1_records.mixture import Mixture
from o1_records.vectors import Encoder

TOKENIZER_THREADS = max(2, min(8, os.cpu_count() or 2))


@dataclass(frozen=True)
class Work:
    """What the inputs of one batch have in common."""

    role: Literal["query", "document"]
    think: Thinking | None = None
    gate: Gate | None = None
    with_query: bool = False


@dataclass(frozen=True)
class Item:
    """One input: its token ids, and those of the thoughts that came with it."""

    text: TextIds
    thoughts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Answer:
    """The vector of one input, the thoughts behind it, the tokens that both took, and whether it was cut."""

    vector: Vectors
    thoughts: list[str]
    tokens: int
    cut: bool


class ListenerLeftError(Exception):
    """Nobody listens to a thought any more."""


@dataclass(frozen=True)
class Considered:
    """The thoughts about one query, the unit vector of each [thoughts, dim], and the tokens of each."""

    thoughts: list[str]
    vectors: Vectors
    tokens: list[int]


class Heard:
    """What a thread of the model says while it thinks, for those who listen in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        self._left = False

    def __call__(self, sample: int, text: str) -> None:
        """Say something, in the thread. Raises ListenerLeftError when nobody listens any more."""
        if self._left:
            raise ListenerLeftError
        self._loop.call_soon_threadsafe(self._said.put_nowait, (sample, text))

    @asynccontextmanager
    async def of(self, thinking: asyncio.Future[Any]) -> AsyncIterator[AsyncIterator[tuple[int, str]]]:
        """Listen until `thinking` is done; who leaves before ends it."""
        thinking.add_done_callback(lambda _: self._said.put_nowait(None))

        async def said() -> AsyncIterator[tuple[int, str]]:
            while (each := await self._said.get()) is not None:
                yield each

        try:
            yield said()
        finally:
            self._left = True
            if not thinking.done():
                thinking.cancel()


class AsyncEmbedder:
    """Awaitable vectors of one Embedder; calls at the same time share batches.

    While it is open, nobody else should use the Embedder. `batch_tokens` bounds a shared batch, `max_waiting`
    the inputs in the queue: beyond it, QueueFullError.

    ```python
    async with AsyncEmbedder(embedder) as model:
        vectors = await model.encode_query(["open a zip file"], think=Thinking(samples=3))
    ```
    """

    def __init__(self, embedder: Embedder, *, batch_tokens: int = 4096, max_waiting: int = 4096) -> None:
        self.embedder = embedder
        self._tokenizing = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self.batcher: Batcher[Work, Item, Answer] = Batcher(
            self.run, self.cost, batch_tokens=batch_tokens, max_waiting=max_waiting
        )

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.embedder.name

    @property
    def digest(self) -> str:
        """What the vectors depend on."""
        return self.embedder.digest

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.embedder.dim

    @property
    def thinks(self) -> bool:
        """Whether it can think."""
        return self.embedder.layout.thinks

    @property
    def thinking(self) -> Thinking | None:
        """How it thinks unless it is asked to: not at all."""
        return None

    @property
    def encoder(self) -> Encoder:
        """What makes the vectors of its queries."""
        return self.embedder.fingerprint(role="query")

    @property
    def mixture(self) -> Mixture:
        """How thoughts enter a query: their mean takes its place."""
        return Mixture(weight=1, reading="joint")

    @property
    def about(self) -> Mapping[str, Any]:
        """What `/info` says of it."""
        layout = msgspec.to_builtins(self.embedder.layout)
        return {"model_dtype": self.embedder.fingerprint().dtype, "layout": layout}

    def capped(self, thinking: Thinking) -> Thinking:
        """Return how it will think: of no more tokens than the layout keeps."""
        return self.embedder.capped(thinking)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def encode_query(
        self,
        queries: AnyQueries,
        *,
        instruction: str = "",
        thoughts: Sequence[Sequence[str]] | None = None,
        think: Thinking | None = None,
        gate: Gate | None = None,
        with_query: bool = False,
        truncate_dim: int | None = None,
    ) -> Vectors:
        """Return what `Embedder.encode_query` returns; `thoughts` are a list of texts for each query."""
        records = as_queries(queries, instruction)
        if thoughts is not None and think is not None:
            raise InputError("give thoughts or think, not both")
        work = Work("query", think and self.embedder.capped(think), gate, with_query)
        vectors = await self._vectors(work, records, thoughts, truncate_dim)
        single: Vectors = vectors[0] if isinstance(queries, str | Query) else vectors
        return single

    async def encode_document(self, documents: AnyDocuments, *, truncate_dim: int | None = None) -> Vectors:
        """Return what `Embedder.encode_document` returns."""
        vectors = await self._vectors(Work("document"), as_documents(documents), None, truncate_dim)
        single: Vectors = vectors[0] if isinstance(documents, str | Document) else vectors
        return single

    async def stream(
        self, query: str | Query, thinking: Thinking | None = None
    ) -> AsyncIterator[tuple[int, str]]:
        """Yield what `Embedder.stream` yields; meanwhile the model does nothing else."""
        heard = Heard()

        def write() -> None:
            for piece in self.embedder.stream(query, thinking):
                heard(*piece)

        writing = asyncio.ensure_future(self.batcher.alone(write))
        async with heard.of(writing) as pieces:
            async for piece in pieces:
                yield piece
        await writing

    async def think_aloud(
        self, query: Query, thinking: Thinking, gate: Gate | None, aloud: Aloud
    ) -> Considered:
        """Return the thoughts about a query if the gate opens; `aloud` hears them in the model's thread.

        Meanwhile the model does nothing else; what `aloud` raises ends the thinking. Raises QueueFullError.
        """

        def think() -> Considered:
            traces = self.embedder.decode(query, thinking, gate=gate, aloud=aloud)[1]
            return Considered(
                [self.embedder.text_of(trace) for trace in traces[0]],
                stacked(traces)[0],
                [len(trace.token_ids) for trace in traces[0]],
            )

        return await self.batcher.alone(think)

    async def read(self, query: Query, thoughts: Sequence[str]) -> Considered:
        """Return given thoughts about a query with their vectors. Raises QueueFullError."""

        def read() -> Considered:
            vectors, _ = self.embedder.encode_query_samples([query], thoughts=[list(thoughts)])
            most = self.embedder.layout.thought_length
            ids = text_ids(self.embedder.tokenizer, thoughts, most)
            return Considered(list(thoughts), vectors, [min(len(own), most) for own in ids])

        return await self.batcher.alone(read)

    async def answers(
        self,
        work: Work,
        inputs: Sequence[str] | Sequence[Query] | Sequence[str | Document] | Sequence[Sequence[int]],
        thoughts: Sequence[Sequence[str]] | None = None,
    ) -> list[Answer]:
        """Return the answer to each input: texts, records, or token ids without any prompt.

        Raises BrokenVectorsError where one of these inputs has no vector, and QueueFullError.
        """
        loop = asyncio.get_running_loop()
        with self.batcher.room(len(inputs)):  # inputs that wait for the tokenizer count as waiting
            items = await loop.run_in_executor(self._tokenizing, self._items, work, inputs, thoughts)
        answers = await self.batcher.answer(work, items)
        refuse_broken(np.stack([answer.vector for answer in answers]))
        return answers

    async def close(self) -> None:
        """Stop the threads; calls that still wait are cancelled."""
        await self.batcher.close()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    # --- on the tokenizers' threads -----------------------------------------------------------------------

    def _items(
        self,
        work: Work,
        inputs: Sequence[str] | Sequence[Query] | Sequence[str | Document] | Sequence[Sequence[int]],
        thoughts: Sequence[Sequence[str]] | None,
    ) -> list[Item]:
        layout, tokenizer = self.embedder.layout, self.embedder.tokenizer
        texts = [each for each in inputs if isinstance(each, str | Query | Document)]
        if not texts:
            most = layout.query_length if work.role == "query" else layout.document_length
            rows = [[int(token) for token in each] for each in inputs]  # type: ignore[union-attr]
            self._refuse_ids(rows)
            found = [TextIds(row, 0, len(row) > most) for row in rows]
        elif work.role == "query":
            found = query_ids(layout, tokenizer, [each for each in texts if not isinstance(each, Document)])
        else:
            found = document_ids(layout, tokenizer, [each for each in texts if not isinstance(each, Query)])
        if thoughts is None:
            return [Item(text) for text in found]
        if len(thoughts) != len(found):
            raise InputError(f"{len(found)} inputs but thoughts for {len(thoughts)}")
        ids = iter(text_ids(tokenizer, [each for own in thoughts for each in own], layout.thought_length))
        return [
            Item(text, tuple(tuple(next(ids)) for _ in own))
            for text, own in zip(found, thoughts, strict=True)
        ]

    def _refuse_ids(self, rows: Sequence[Sequence[int]]) -> None:
        """Raise InputError for ids that the vocabulary lacks and for control tokens."""
        size, control = len(self.embedder.tokenizer), set(self.embedder.layout.control_ids)
        for number, ids in enumerate(rows):
            for token in ids:
                if token >= size or token in control:
                    what = "a control token" if token in control else f"outside the vocabulary of {size}"
                    raise InputError(f"input[{number}]: token id {token} is {what}")

    # --- on the model's thread ----------------------------------------------------------------------------

    def run(self, work: Work, items: Sequence[Item]) -> list[Answer]:
        """Return the answers to a batch."""
        embedder, layout = self.embedder, self.embedder.layout
        texts = [item.text for item in items]
        if work.role == "document":
            rows = [document_row(layout, text.ids, prompt=text.prompt) for text in texts]
            traces: list[list[Trace]] = [[] for _ in items]
            vectors = embedder.read(rows)
            tokens = [len(row.ids) for row in rows]
        else:
            if work.think is not None:
                prompts = [prompt_row(layout, text.ids, prompt=text.prompt) for text in texts]
                v_q, traces = embedder.decode_rows(prompts, work.think, work.gate)
            else:
                brought = [item.thoughts for item in items]
                v_q, traces = embedder.read_thoughts(texts, brought, with_query=work.with_query)
            vectors = aggregate(v_q, stacked(traces), with_query=work.with_query)
            rows = [query_row(layout, text.ids, prompt=text.prompt) for text in texts]
            tokens = [
                len(row.ids) + sum(len(trace.token_ids) + 3 for trace in own)
                for row, own in zip(rows, traces, strict=True)
            ]
        most = layout.thought_length
        return [
            Answer(
                vector,
                [embedder.text_of(trace) for trace in own],
                count,
                item.text.cut or any(len(thought) > most for thought in item.thoughts),
            )
            for vector, own, count, item in zip(vectors, traces, tokens, items, strict=True)
        ]

    def cost(self, work: Work, item: Item) -> int:
        """Return the number of tokens of an input in a batch, thoughts included."""
        prompt, layout = len(item.text.ids) + 4, self.embedder.layout
        if work.think is not None:
            return work.think.samples * (prompt + min(work.think.max_tokens, layout.thought_length) + 2)
        if not item.thoughts:
            return prompt
        return sum(prompt + min(len(thought), layout.thought_length) + 2 for thought in item.thoughts)

    async def _vectors(
        self,
        work: Work,
        inputs: Sequence[Query] | Sequence[str | Document],
        thoughts: Sequence[Sequence[str]] | None,
        truncate_dim: int | None,
    ) -> Vectors:
        if not inputs:
            return np.empty((0, truncate_dim or self.embedder.dim), dtype=np.float32)
        answers = await self.answers(work, inputs, thoughts)
        return truncated(np.stack([answer.vector for answer in answers]), truncate_dim)
