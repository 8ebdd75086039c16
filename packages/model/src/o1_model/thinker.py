"""What happens to queries before they are vectors: prompts, thoughts and the vectors read beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from o1_model.aggregate import Vectors
from o1_model.decode import Decoder
from o1_model.gate import Signal
from o1_model.layout import Row, prompt_row, query_row, query_text, text_ids
from o1_model.think import Decoded, Thinking, Trace
from o1_model.thoughts import Brought, by_query, record, thought_ids, trace_text, vocabulary_digest
from o1_records import InputError, Query, Source, Thought

Queries = Sequence[str] | Sequence[Query]
Opens = Callable[[Signal], bool]
EncodeRows = Callable[[Sequence[Row]], Vectors]
Parts = tuple[Vectors, list[list[Trace]]]


class Thinker:
    """The query side of an Embedder: v_q and the traces of queries, thoughts as records."""

    def __init__(self, decoder: Decoder, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.decoder = decoder
        self.layout = decoder.layout
        self.tokenizer = tokenizer
        self.name = name

    def capped(self, thinking: Thinking) -> Thinking:
        """The same with no more tokens than the layout keeps of a thought."""
        return replace(thinking, max_tokens=min(thinking.max_tokens, self.layout.thought_length))

    def parts(
        self,
        queries: Queries,
        thoughts: Sequence[Sequence[Brought]] | Sequence[Brought] | None,
        think: Thinking | None,
        gate: Opens | None,
        encode_rows: EncodeRows,
        *,
        with_query: bool,
    ) -> Parts:
        """v_q and traces of queries that think, bring thoughts or do neither."""
        queries = as_queries(queries)
        if thoughts is not None and think is not None:
            raise InputError("give thoughts or think, not both")
        if think is not None:
            return split(self.decode(queries, think, gate), self.decoder.dim)
        if gate is not None:
            raise InputError("a gate decides whether to think; give think too")
        brought = [[] for _ in queries] if thoughts is None else thoughts
        return self.read(queries, brought, encode_rows, with_query=with_query)

    def decode(self, queries: Queries, thinking: Thinking, gate: Opens | None = None) -> list[Decoded]:
        """What came of each query."""
        records = as_queries(queries)
        prompts = [prompt_row(self.layout, ids) for ids in self._text_ids(records)]
        return self.decoder(prompts, [query.query_id for query in records], self.capped(thinking), gate)

    def read(
        self,
        queries: Queries,
        thoughts: Sequence[Sequence[Brought]] | Sequence[Brought],
        encode_rows: EncodeRows,
        *,
        with_query: bool,
    ) -> Parts:
        """v_q (zeros where nobody needs it) and the traces of thoughts that the caller brings."""
        records = as_queries(queries)
        texts, brought = self._text_ids(records), by_query(records, thoughts)
        flat = [thought for row in brought for thought in row]
        owners = [number for number, row in enumerate(brought) for _ in row]
        ids = thought_ids(self.tokenizer, self._vocabulary, flat)
        plain = [number for number, row in enumerate(brought) if with_query or not row]
        rows = [query_row(self.layout, texts[number]) for number in plain]
        rows += [query_row(self.layout, texts[n], own) for n, own in zip(owners, ids, strict=True)]
        vectors = encode_rows(rows)
        v_q = np.zeros((len(records), vectors.shape[1]), dtype=np.float32)
        v_q[plain] = vectors[: len(plain)]
        traces: list[list[Trace]] = [[] for _ in records]
        for owner, own, vector in zip(owners, ids, vectors[len(plain) :], strict=True):
            traces[owner].append(Trace(tuple(own), True, torch.from_numpy(vector)))
        return v_q, traces

    def records(
        self, queries: Queries, traces: Sequence[Sequence[Trace]], thinking: Thinking
    ) -> list[Thought]:
        """Decoded thoughts as records; those whose text is blank are left out."""
        source = self._source(thinking)
        return [
            record(query, sample, text, trace, source)
            for query, row in zip(as_queries(queries), traces, strict=True)
            for sample, trace in enumerate(row)
            if (text := trace_text(self.tokenizer, trace))
        ]

    def _source(self, thinking: Thinking) -> Source:
        engine = self.decoder.engine
        return Source(
            model=self.name if engine is None else f"{self.name} in {engine.name}",
            revision=self.decoder.digest,
            temperature=thinking.temperature,
            top_p=thinking.top_p,
            max_tokens=self.capped(thinking).max_tokens,
            seed=thinking.seed,
            tokenizer=self._vocabulary,
        )

    def _text_ids(self, queries: Sequence[Query]) -> list[list[int]]:
        return text_ids(self.tokenizer, [query_text(self.layout, query) for query in queries])

    @cached_property
    def _vocabulary(self) -> str:
        return vocabulary_digest(self.tokenizer)


def split(decoded: Sequence[Decoded], dim: int) -> Parts:
    """v_q [n, dim] and the traces of each prompt."""
    v_q = np.zeros((len(decoded), dim), dtype=np.float32)
    for number, each in enumerate(decoded):
        v_q[number] = each.v_q.numpy()
    return v_q, [each.traces for each in decoded]


def as_queries(queries: Query | Queries) -> list[Query]:
    """Strings as records: equal strings are one query and think the same. A single one is a list of one."""
    listed = [queries] if isinstance(queries, str | Query) else queries
    return [_as_query(place, query) for place, query in enumerate(listed)]


def _as_query(place: int, query: object) -> Query:
    if isinstance(query, Query):
        return query
    if not isinstance(query, str):
        raise InputError(f"query {place} is a {type(query).__name__}; give strings or Query records")
    return Query(query_id=hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()[:16], text=query)


def lists_of_one(
    thoughts: Sequence[Sequence[Brought]] | Sequence[Brought] | None,
) -> list[list[Brought]] | None:
    """The thoughts of a single string: its list."""
    if thoughts is None:
        return None
    if isinstance(thoughts, str) or not all(isinstance(each, str | Thought) for each in thoughts):
        raise InputError("give each query a list of thoughts, not a string; a single query has one list")
    return [[each for each in thoughts if isinstance(each, str | Thought)]]
