"""The model as an application sees it: think, embed queries with or without thoughts, embed documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from o1_model.backbone import Backbone, grow_vocabulary, load_lm, load_tokenizer
from o1_model.batch import Batch, by_length, collate
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
from o1_records import Document, InputError, Query, Source, Thought, sha256_file
from o1_records.vectors import Encoder

Vectors = NDArray[np.float32]
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
        thoughts: Sequence[Sequence[str]] | None = None,
        think: Thinking | None = None,
        with_query: bool = False,
    ) -> Vectors:
        """Vectors of queries: v_q, or the normalised mean of v_t over each query's thoughts.

        `thoughts` gives each query its thoughts (none: v_q; an empty string: an empty thought);
        `think` lets the model write them. `with_query` adds v_q to the mean.
        """
        if thoughts is not None and think is not None:
            raise InputError("give thoughts or think, not both")
        if isinstance(queries, str):
            every = self.encode_query([queries], thoughts=thoughts, think=think, with_query=with_query)
            vector: Vectors = every[0]
            return vector
        if think is not None:
            v_q, traces = self.decode(_queries(queries), think)
            stacks = [torch.stack([t.vector for t in row]).cpu().numpy() for row in traces]
            return aggregate(v_q, stacks, with_query=with_query)
        if thoughts is None:
            return self._encode(self._query_rows(queries, [None] * len(queries)))
        if len(thoughts) != len(queries):
            raise InputError(f"{len(queries)} queries but thoughts for {len(thoughts)}")
        return self._encode_with_thoughts(queries, thoughts, with_query)

    def encode_document(self, documents: str | Sequence[str] | Sequence[Document]) -> Vectors:
        """Vectors of documents (title and text, when they are records)."""
        if isinstance(documents, str):
            vector: Vectors = self.encode_document([documents])[0]
            return vector
        texts = [d if isinstance(d, str) else d.full_text for d in documents]
        return self._encode([document_row(self.layout, ids) for ids in text_ids(self.tokenizer, texts)])

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
        """v_q [queries, dim] and the decoded thoughts of each query with their v_t."""
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
            max_tokens=thinking.max_tokens,
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


def aggregate(v_q: Vectors, v_t: Sequence[Vectors], *, with_query: bool = False) -> Vectors:
    """One unit vector a query: the mean of its v_t [samples, dim] (and of v_q), normalised again.

    A query without thoughts keeps v_q.
    """
    means = [
        np.vstack([stack, own[None]] if with_query or not len(stack) else [stack]).mean(axis=0)
        for own, stack in zip(v_q, v_t, strict=True)
    ]
    if not means:
        return v_q
    unit: Tensor = normalise(torch.from_numpy(np.stack(means).astype(np.float32)))
    return unit.numpy()


def checkpoint_digest(folder: str | Path) -> str:
    """Digest of everything that changes a checkpoint's vectors: weights, tokenizer, layout, config."""
    files = sorted(
        path for path in Path(folder).iterdir() if path.suffix in {".safetensors", ".json", ".txt", ".model"}
    )
    lines = "".join(f"{path.name} {sha256_file(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _queries(queries: Sequence[str] | Sequence[Query]) -> list[Query]:
    return [
        Query(query_id=hashlib.sha256(q.encode()).hexdigest()[:16], text=q) if isinstance(q, str) else q
        for q in queries
    ]
