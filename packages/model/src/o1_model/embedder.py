"""The model as an application sees it: think, embed queries with or without thoughts, embed documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from o1_model.aggregate import Vectors, aggregate, stacked
from o1_model.backbone import Backbone, grow_vocabulary, load_lm, load_tokenizer
from o1_model.batch import Batch, by_length, collate
from o1_model.checkpoint import checkpoint_digest
from o1_model.data import pad_token_id, query_text
from o1_model.layout import (
    Layout,
    Row,
    document_row,
    load_layout,
    new_layout,
    prompt_row,
    query_row,
    text_ids,
)
from o1_model.pooling import READ_OUTS, normalise
from o1_model.think import Thinking, Trace, think_rows
from o1_records import Document, InputError, Query, Source, Thought
from o1_records.vectors import Encoder

BATCH_TOKENS = 4096


class Embedder:
    """A checkpoint that thinks and embeds.

    Vectors are float32, of unit length, in the order of the input: a single string gives [dim], a
    sequence [n, dim].
    """

    def __init__(
        self,
        backbone: Backbone,
        layout: Layout,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        digest: str = "",
    ) -> None:
        self.backbone = backbone.eval()
        self.layout = layout
        self.tokenizer = tokenizer
        self.name = name or str(getattr(backbone.config, "name_or_path", "")) or "unnamed"
        self.digest = digest
        self._pad_id = pad_token_id(tokenizer)
        unused = range(len(tokenizer), int(backbone.config.vocab_size))
        self._suppress = sorted({*tokenizer.all_special_ids, *unused} - {layout.eos})

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | None = None, dtype: torch.dtype = torch.float32
    ) -> Embedder:
        """Load a checkpoint of this package. Raises InputError when the folder holds none."""
        layout = load_layout(folder)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        backbone = Backbone(load_lm(folder, dtype=dtype), layout.control_ids).to(place)
        return cls(
            backbone,
            layout,
            load_tokenizer(folder),
            name=Path(folder).resolve().name,
            digest=checkpoint_digest(folder),
        )

    @classmethod
    def from_backbone(
        cls, name_or_path: str | Path, *, revision: str | None = None, **layout_settings: Any
    ) -> Embedder:
        """Start from a plain model: add control tokens and a layout. Nothing else changes.

        `layout_settings` are fields of Layout: `readout`, `query_length`, ...
        """
        tokenizer = load_tokenizer(name_or_path, revision=revision)
        lm = load_lm(name_or_path, revision=revision)
        layout = new_layout(tokenizer, **layout_settings)
        _refuse_longer_than(lm, layout)
        grow_vocabulary(lm, tokenizer)
        name = Path(name_or_path).name
        return cls(Backbone(lm, layout.control_ids), layout, tokenizer, name=name)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), tokenizer, config and layout."""
        self.backbone.merge_control_rows()
        self.backbone.lm.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.layout.save(folder)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.backbone.config.hidden_size)

    def fingerprint(self, *, role: str = "", thoughts: str = "") -> Encoder:
        """What made these vectors, for manifests."""
        return Encoder(
            model=self.name,
            digest=self.digest,
            layout=f"{self.layout.name} {self.layout.attention}",
            pooling=self.layout.readout,
            max_length=self.layout.document_length,
            dtype=str(self.backbone.control_rows.dtype).removeprefix("torch."),
            role=role,
            thoughts=thoughts,
        )

    def encode_query(
        self,
        queries: str | Sequence[str] | Sequence[Query],
        *,
        thoughts: Sequence[Sequence[str]] | Sequence[str] | None = None,
        think: Thinking | None = None,
        with_query: bool = False,
    ) -> Vectors:
        """Vectors of queries: v_q, or the normalised mean of v_t over each query's thoughts.

        `thoughts` gives each query its list of thoughts (none: v_q; an empty string: an empty
        thought); for a single string it is that list. `think` lets the model write them.
        `with_query` adds v_q to the mean.
        """
        if thoughts is not None and think is not None:
            raise InputError("give thoughts or think, not both")
        if isinstance(thoughts, str):
            raise InputError("give each query a list of thoughts, not a string")
        if isinstance(queries, str):
            own = None if thoughts is None else [[str(text) for text in thoughts]]
            every = self.encode_query([queries], thoughts=own, think=think, with_query=with_query)
            vector: Vectors = every[0]
            return vector
        if think is not None:
            v_q, traces = self.decode(_queries(queries), think)
            return aggregate(v_q, stacked(traces), with_query=with_query)
        if thoughts is None:
            return self._encode(self._query_rows(queries, [None] * len(queries)))
        if len(thoughts) != len(queries):
            raise InputError(f"{len(queries)} queries but thoughts for {len(thoughts)}")
        lists = [list(own) for own in thoughts if not isinstance(own, str)]
        if len(lists) != len(queries):
            raise InputError("give each query a list of thoughts, not a string")
        return self._encode_with_thoughts(queries, lists, with_query)

    def encode_document(self, documents: str | Sequence[str] | Sequence[Document]) -> Vectors:
        """Vectors of documents (title and text, when they are records)."""
        if isinstance(documents, str):
            vector: Vectors = self.encode_document([documents])[0]
            return vector
        texts = [d if isinstance(d, str) else d.full_text for d in documents]
        return self._encode([document_row(self.layout, ids) for ids in text_ids(self.tokenizer, texts)])

    # the names that BEIR and FlagEmbedding call
    encode_queries = encode_query
    encode_corpus = encode_document

    def think(self, queries: Sequence[Query], thinking: Thinking) -> list[Thought]:
        """Write thoughts about queries, `samples` each; thoughts whose text is blank are left out."""
        return self.thoughts(queries, self.decode(queries, thinking)[1], thinking)

    def thoughts(
        self, queries: Sequence[Query], traces: Sequence[Sequence[Trace]], thinking: Thinking
    ) -> list[Thought]:
        """Decoded thoughts as records; those whose text is blank are left out."""
        return [
            thought
            for query, row in zip(queries, traces, strict=True)
            for sample, trace in enumerate(row)
            if (thought := self._thought(query, sample, trace, thinking)) is not None
        ]

    def decode(self, queries: Sequence[Query], thinking: Thinking) -> tuple[Vectors, list[list[Trace]]]:
        """v_q [queries, dim] and the decoded thoughts of each query with their v_t.

        Thoughts end at the layout's `thought_length`, whatever `max_tokens` allows: encoded again
        they would be cut there.
        """
        thinking = self.capped(thinking)
        texts = text_ids(self.tokenizer, [query_text(query) for query in queries])
        prompts = [prompt_row(self.layout, ids) for ids in texts]
        vectors = np.zeros((len(queries), self.dim), dtype=np.float32)
        traces: list[list[Trace]] = [[] for _ in queries]
        lengths = [(len(row.ids) + thinking.max_tokens) * thinking.samples for row in prompts]
        for group in by_length(lengths, 4 * BATCH_TOKENS):
            v_q, decoded = think_rows(
                self.backbone,
                self.layout,
                [prompts[index] for index in group],
                [queries[index].query_id for index in group],
                thinking,
                pad_id=self._pad_id,
                suppress=self._suppress,
            )
            vectors[group] = v_q.cpu().numpy()
            for index, row in zip(group, decoded, strict=True):
                traces[index] = row
        return vectors, traces

    def capped(self, thinking: Thinking) -> Thinking:
        """The same with no more tokens than the layout keeps of a thought."""
        return replace(thinking, max_tokens=min(thinking.max_tokens, self.layout.thought_length))

    def _thought(self, query: Query, sample: int, trace: Trace, thinking: Thinking) -> Thought | None:
        decoded = self.tokenizer.decode(list(trace.token_ids), skip_special_tokens=True)
        text = str(decoded).strip()
        if not text:
            return None
        source = Source(
            model=self.name,
            revision=self.digest,
            temperature=thinking.temperature,
            top_p=thinking.top_p,
            max_tokens=self.capped(thinking).max_tokens,
            seed=thinking.seed,
            finish_reason="stop" if trace.finished else "length",
            completion_tokens=len(trace.token_ids),
        )
        name = f"{query.query_id}#{sample}"
        return Thought(query_id=query.query_id, thought_id=name, text=text, source=source)

    def _encode_with_thoughts(
        self, queries: Sequence[Any], thoughts: Sequence[Sequence[str]], with_query: bool
    ) -> Vectors:
        owners = [index for index, own in enumerate(thoughts) for _ in own]
        flat = [text for own in thoughts for text in own]
        v_t = self._encode(self._query_rows([queries[index] for index in owners], flat))
        needed = [i for i, own in enumerate(thoughts) if with_query or not own]
        v_q = np.zeros((len(queries), self.dim), dtype=np.float32)
        v_q[needed] = self._encode(self._query_rows([queries[i] for i in needed], [None] * len(needed)))
        bounds = np.cumsum([len(own) for own in thoughts])[:-1]
        return aggregate(v_q, np.split(v_t, bounds), with_query=with_query)

    def _query_rows(self, queries: Sequence[Any], thoughts: Sequence[str | None]) -> list[Row]:
        texts = [q if isinstance(q, str) else query_text(q) for q in queries]
        thought_ids = text_ids(self.tokenizer, [text or "" for text in thoughts])
        return [
            query_row(self.layout, ids, None if text is None else own)
            for ids, text, own in zip(text_ids(self.tokenizer, texts), thoughts, thought_ids, strict=True)
        ]

    @torch.inference_mode()
    def _encode(self, rows: Sequence[Row]) -> Vectors:
        # equal rows (an empty thought of each sample, a repeated document) are encoded once
        unique = list({row.ids: row for row in rows}.values())
        place = {row.ids: number for number, row in enumerate(unique)}
        vectors = np.zeros((len(unique), self.dim), dtype=np.float32)
        read_out = READ_OUTS[self.layout.readout]
        for group, batch in self._batches(unique):
            states = self.backbone.encode(batch, self.layout)
            vectors[group] = normalise(read_out(states, batch.mask, batch.last)).cpu().numpy()
        return vectors[np.array([place[row.ids] for row in rows], dtype=np.intp)]

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], Batch]]:
        for group in by_length([len(row.ids) for row in rows], BATCH_TOKENS):
            batch = collate([rows[index] for index in group], self._pad_id)
            yield group, batch.to(self.backbone.device)


def _refuse_longer_than(lm: Any, layout: Layout) -> None:
    positions = getattr(lm.config, "max_position_embeddings", None)
    if positions is not None and layout.longest > positions:
        raise InputError(
            f"the layout has rows of up to {layout.longest} tokens, the model takes {positions}; "
            "lower query_length, thought_length or document_length"
        )


def _queries(queries: Sequence[str] | Sequence[Query]) -> list[Query]:
    return [
        Query(query_id=hashlib.sha256(q.encode()).hexdigest()[:16], text=q) if isinstance(q, str) else q
        for q in queries
    ]
