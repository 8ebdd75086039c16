"""The model as an application sees it: think, embed queries with or without thoughts, embed documents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from o1_model.backbone import Backbone
from o1_model.batch import pad_token_id
from o1_model.checkpoint.card import write_plain_card
from o1_model.checkpoint.certificate import TEXTS, Role
from o1_model.checkpoint.load import Checkpoint, load_checkpoint, new_checkpoint
from o1_model.checkpoint.save import save_checkpoint
from o1_model.encoding.encode import Reader, Vectors
from o1_model.layout import Layout, Name, Row, document_row, prompt_row, query_row, query_text, text_ids
from o1_model.thinking.aggregate import Weigh, aggregate, apart, evenly, stacked, truncated
from o1_model.thinking.decode import Decoded, Trace
from o1_model.thinking.decoder import Decoder
from o1_model.thinking.gate import Opens, Signal
from o1_model.thinking.records import (
    Brought,
    Thoughts,
    by_query,
    record,
    thought_ids,
    trace_text,
    vocabulary_digest,
)
from o1_model.thinking.settings import Thinking
from o1_records import Document, InputError, Query, Source, Thought
from o1_records.vectors import Encoder

Queries = Sequence[str] | Sequence[Query]
Parts = tuple[Vectors, list[list[Trace]]]


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
        self.tokenizer = tokenizer
        self.name = name or str(getattr(backbone.config, "name_or_path", "")) or "unnamed"
        self.reader = Reader(backbone.eval(), layout, pad_token_id(tokenizer))
        unused = range(len(tokenizer), int(backbone.config.vocab_size))
        suppress = sorted({*tokenizer.all_special_ids, *unused} - {layout.eos})
        self.decoder = Decoder(self.reader, suppress, digest)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        layout: Name | None = None,
        base: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        trust_remote_code: bool = False,
        **layout_settings: Any,
    ) -> Embedder:
        """Load a checkpoint from a folder or the hub.

        `layout` names the layout of a checkpoint that was not saved by this package ("reference" for
        those of the public O1 code, "instruct"); `layout_settings` are fields of Layout, such as
        another `document_length`; `base` is where an adapter's base model is now. Raises InputError
        when something is missing, or changed since it was saved.
        """
        loaded = load_checkpoint(
            name_or_path,
            revision=revision,
            layout=layout,
            base=base,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            **layout_settings,
        )
        loaded.backbone.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls._of(loaded)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        quantization: Any = None,
        **layout_settings: Any,
    ) -> Embedder:
        """Start from a plain model: add control tokens and a layout. Nothing else changes.

        `quantization` is transformers' (`lora.four_bits`); `layout_settings` are the layout's `name` and
        fields of Layout: `readout`, `query_length`, ...
        """
        return cls._of(
            new_checkpoint(name_or_path, revision=revision, quantization=quantization, **layout_settings)
        )

    @classmethod
    def _of(cls, made: Checkpoint) -> Embedder:
        return cls(made.backbone, made.layout, made.tokenizer, name=made.name, digest=made.digest)

    def save_pretrained(self, folder: str | Path, *, certificate: bool = True) -> None:
        """Write weights (safetensors), tokenizer, config, layout, card, and files for sentence-transformers.

        `certificate` also writes the model's vectors of eight fixed texts, for `o1-model verify`.
        """
        vectors: dict[Role, Vectors] | None = None
        training = self.backbone.training
        if certificate:
            self.backbone.eval()  # without dropout
            vectors = {"query": self.encode_query(TEXTS), "document": self.encode_document(TEXTS)}
            self.backbone.train(training)
        save_checkpoint(folder, self.backbone, self.layout, self.tokenizer, vectors=vectors)
        write_plain_card(Path(folder))

    @property
    def backbone(self) -> Backbone:
        """The language model."""
        return self.reader.backbone

    @property
    def layout(self) -> Layout:
        """Where the control tokens stand, and how vectors are read out."""
        return self.reader.layout

    @property
    def digest(self) -> str:
        """The digest of everything that changes a vector; "" for a model that was never saved."""
        return self.decoder.digest

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.backbone.dim

    @property
    def batch_tokens(self) -> int | None:
        """The most padded tokens of a forward pass, also when thinking; None: what suits the device."""
        return self.reader.batch_tokens

    @batch_tokens.setter
    def batch_tokens(self, tokens: int | None) -> None:
        self.reader.batch_tokens = tokens

    @property
    def tokens_read(self) -> int:
        """The tokens of all forward passes so far, thoughts included, padding left out."""
        return self.reader.tokens_read

    def fingerprint(self, *, role: str = "", thoughts: str = "") -> Encoder:
        """Return what made these vectors, for manifests."""
        length = self.layout.query_length if role == "query" else self.layout.document_length
        return Encoder(
            model=self.name,
            digest=self.digest,
            layout=f"{self.layout.name} {self.layout.attention}",
            pooling=self.layout.readout,
            max_length=length,
            dtype=str(self.backbone.control_rows.dtype).removeprefix("torch."),
            role=role,
            thoughts=thoughts,
        )

    # --- vectors ------------------------------------------------------------------------------------------

    def encode_query(
        self,
        queries: str | Query | Queries,
        *,
        thoughts: Thoughts | None = None,
        think: Thinking | None = None,
        gate: Opens | None = None,
        with_query: bool = False,
        weigh: Weigh = evenly,
        truncate_dim: int | None = None,
    ) -> Vectors:
        """Return vectors of queries: v_q, or the normalised mean of v_t over each query's thoughts.

        `thoughts` gives each query its list of thoughts (none: v_q; an empty string: an empty
        thought), or Thought records of all queries; for a single string it is that string's list.
        With `think` the model writes them, about the queries that the `gate` opens for. `with_query`
        adds v_q to the mean, `weigh` says how much each thought counts in it.
        """
        if isinstance(queries, str | Query):
            if isinstance(thoughts, str) or not all(
                isinstance(each, str | Thought) for each in thoughts or ()
            ):
                raise InputError("give a single query one list of thoughts, not a string or a list of lists")
            own: Any = None if thoughts is None else [thoughts]
            vector: Vectors = self.encode_query(
                as_queries(queries), thoughts=own, think=think, gate=gate, with_query=with_query,
                weigh=weigh, truncate_dim=truncate_dim,
            )[0]  # fmt: skip
            return vector
        v_q, traces = self._parts(queries, thoughts, think, gate, with_query=with_query)
        weights = [weigh(row) for row in traces]
        vectors = aggregate(v_q, stacked(traces), with_query=with_query, weights=weights)
        return truncated(vectors, truncate_dim)

    def encode_query_samples(
        self,
        queries: Queries,
        *,
        thoughts: Thoughts | None = None,
        think: Thinking | None = None,
        gate: Opens | None = None,
        with_query: bool = False,
        truncate_dim: int | None = None,
    ) -> tuple[Vectors, list[str]]:
        """Return every v_t by itself [rows, dim] and the query_id of each row: for the maximum over samples.

        `o1_index.fusion.search_max(index, vectors, owners, k=k)` takes both. Strings are owned by their
        place in the list. v_q has a row of its own if there is no thought, or with `with_query`.
        """
        listed: Any = [queries] if isinstance(queries, str | Query) else list(queries)
        v_q, traces = self._parts(listed, thoughts, think, gate, with_query=with_query)
        names = [q.query_id if isinstance(q, Query) else str(n) for n, q in enumerate(listed)]
        vectors, owners = apart(v_q, stacked(traces), names, with_query=with_query)
        return truncated(vectors, truncate_dim), owners

    def encode_document(
        self,
        documents: str | Document | Sequence[str] | Sequence[Document],
        *,
        truncate_dim: int | None = None,
    ) -> Vectors:
        """Return vectors of documents (of title and text, if they are records)."""
        if isinstance(documents, str | Document):
            one: Any = [documents]
            vector: Vectors = self.encode_document(one, truncate_dim=truncate_dim)[0]
            return vector
        texts = []
        for place, document in enumerate(documents):
            if not isinstance(document, str | Document):
                kind = type(document).__name__
                raise InputError(f"document {place} is a {kind}; give strings or Document records")
            texts.append(document if isinstance(document, str) else document.full_text)
        rows = [document_row(self.layout, ids) for ids in text_ids(self.tokenizer, texts)]
        return truncated(self.read(rows), truncate_dim)

    def read(self, rows: Sequence[Row]) -> Vectors:
        """Return the vector at the last read-out of rows that `o1_model.layout` builds: [rows, dim]."""
        return self.reader.read(rows)

    # --- thoughts -----------------------------------------------------------------------------------------

    def think(self, queries: str | Query | Queries, thinking: Thinking | None = None) -> list[Thought]:
        """Write thoughts about queries, `samples` each; thoughts whose text is blank are left out."""
        how, queries = thinking or Thinking(), as_queries(queries)
        return self.thoughts(queries, self.decode(queries, how)[1], how)

    def thoughts(
        self, queries: Queries, traces: Sequence[Sequence[Trace]], thinking: Thinking
    ) -> list[Thought]:
        """Return decoded thoughts as records; those whose text is blank are left out."""
        engine = self.decoder.engine
        source = Source(
            model=self.name if engine is None else f"{self.name} in {engine.name}",
            revision=self.digest,
            temperature=thinking.temperature,
            top_p=thinking.top_p,
            max_tokens=self.capped(thinking).max_tokens,
            seed=thinking.seed,
            tokenizer=self._vocabulary,
        )
        return [
            record(query, sample, text, trace, source)
            for query, row in zip(as_queries(queries), traces, strict=True)
            for sample, trace in enumerate(row)
            if (text := self.text_of(trace))
        ]

    def decode(self, queries: str | Query | Queries, thinking: Thinking) -> Parts:
        """Return v_q [queries, dim] and the decoded thoughts of each query with their v_t.

        Thoughts end at the layout's `thought_length`, whatever `max_tokens` allows: encoded again
        they would be cut there.
        """
        return self._split(self._decode(queries, thinking))

    def decode_rows(self, prompts: Sequence[Row], names: Sequence[str], thinking: Thinking) -> Parts:
        """Do the same for rows of `layout.prompt_row`; `names` seed the random streams."""
        return self._split(self.decoder(prompts, names, self.capped(thinking)))

    def signals(self, queries: str | Query | Queries) -> list[Signal]:
        """Return what a gate looks at, from one short pass without thinking."""
        return [each.signal for each in self._decode(queries, Thinking(), lambda _: False)]

    def capped(self, thinking: Thinking) -> Thinking:
        """Return the settings with no more tokens than the layout keeps of a thought."""
        return replace(thinking, max_tokens=min(thinking.max_tokens, self.layout.thought_length))

    def text_of(self, trace: Trace) -> str:
        """Return the text of a decoded thought."""
        return trace_text(self.tokenizer, trace)

    # --- the names that BEIR and FlagEmbedding call -------------------------------------------------------

    def encode_queries(
        self, queries: str | Sequence[str], *, convert_to_tensor: bool = False, **how: Any
    ) -> Vectors | Tensor:
        """Call `encode_query`; `batch_size` and the like are ignored, as batches follow a token budget."""
        vectors = self.encode_query(queries, **_without_batching(how))
        return torch.from_numpy(vectors) if convert_to_tensor else vectors

    def encode_corpus(
        self,
        corpus: str | Sequence[str | Mapping[str, str]] | Mapping[str, Sequence[str]],
        *,
        convert_to_tensor: bool = False,
        **how: Any,
    ) -> Vectors | Tensor:
        """Call `encode_document` with strings, or mappings of text and title, joined by a space.

        A single mapping of lists, one of texts and one of titles, is BEIR's other form of a corpus.
        """
        texts = corpus if isinstance(corpus, str) else [_beir_text(each) for each in _beir_documents(corpus)]
        vectors = self.encode_document(texts, **_without_batching(how))
        return torch.from_numpy(vectors) if convert_to_tensor else vectors

    # --- inside -------------------------------------------------------------------------------------------

    def _parts(
        self,
        queries: Queries,
        thoughts: Thoughts | None,
        think: Thinking | None,
        gate: Opens | None,
        *,
        with_query: bool,
    ) -> Parts:
        """Return v_q and traces of queries that think, bring thoughts or do neither."""
        if thoughts is not None and think is not None:
            raise InputError("give thoughts or think, not both")
        if think is not None:
            return self._split(self._decode(queries, think, gate))
        if gate is not None:
            raise InputError("a gate decides whether to think; give think too")
        records = as_queries(queries)
        brought = [[] for _ in records] if thoughts is None else by_query(records, thoughts)
        return self._read_thoughts(records, brought, with_query=with_query)

    def _read_thoughts(
        self, queries: Sequence[Query], brought: Sequence[Sequence[Brought]], *, with_query: bool
    ) -> Parts:
        """Return v_q (zeros where nobody needs it) and the traces of thoughts that the caller brings."""
        texts = self._text_ids(queries)
        owners = [number for number, row in enumerate(brought) for _ in row]
        ids = thought_ids(self.tokenizer, self._vocabulary, [each for row in brought for each in row])
        plain = [number for number, row in enumerate(brought) if with_query or not row]
        rows = [query_row(self.layout, texts[number]) for number in plain]
        rows += [query_row(self.layout, texts[n], own) for n, own in zip(owners, ids, strict=True)]
        vectors = self.read(rows)
        v_q = np.zeros((len(queries), self.dim), dtype=np.float32)
        v_q[plain] = vectors[: len(plain)]
        traces: list[list[Trace]] = [[] for _ in queries]
        for owner, own, vector in zip(owners, ids, vectors[len(plain) :], strict=True):
            traces[owner].append(Trace(tuple(own), True, torch.from_numpy(vector)))
        return v_q, traces

    def _decode(
        self, queries: str | Query | Queries, thinking: Thinking, gate: Opens | None = None
    ) -> list[Decoded]:
        records = as_queries(queries)
        prompts = [prompt_row(self.layout, ids) for ids in self._text_ids(records)]
        return self.decoder(prompts, [query.query_id for query in records], self.capped(thinking), gate)

    def _split(self, decoded: Sequence[Decoded]) -> Parts:
        v_q = np.zeros((len(decoded), self.dim), dtype=np.float32)
        for number, each in enumerate(decoded):
            v_q[number] = each.v_q.numpy()
        return v_q, [each.traces for each in decoded]

    def _text_ids(self, queries: Sequence[Query]) -> list[list[int]]:
        return text_ids(self.tokenizer, [query_text(self.layout, query) for query in queries])

    @cached_property
    def _vocabulary(self) -> str:
        return vocabulary_digest(self.tokenizer)


def as_queries(queries: str | Query | Queries) -> list[Query]:
    """Return strings as records, a single one as a list; equal strings are one query and think the same."""
    listed = [queries] if isinstance(queries, str | Query) else queries
    records = []
    for place, query in enumerate(listed):
        if isinstance(query, str):
            name = hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            records.append(Query(query_id=name, text=query))
        elif isinstance(query, Query):
            records.append(query)
        else:
            raise InputError(f"query {place} is a {type(query).__name__}; give strings or Query records")
    return records


def _without_batching(how: Mapping[str, Any]) -> dict[str, Any]:
    batching = {"batch_size", "show_progress_bar", "convert_to_numpy"}
    return {name: value for name, value in how.items() if name not in batching}


def _beir_documents(corpus: Any) -> Any:
    if not isinstance(corpus, Mapping):
        return corpus
    if any(isinstance(column, str) for column in corpus.values()):
        raise InputError(
            "a single document is not a corpus; give a list of documents, or lists of texts and titles"
        )
    return [dict(zip(corpus, row, strict=True)) for row in zip(*corpus.values(), strict=True)]


def _beir_text(document: str | Mapping[str, str]) -> str:
    if isinstance(document, str):
        return document
    if "text" not in document:
        raise InputError(f"a document has {', '.join(document) or 'nothing'}, but no text")
    return Document(doc_id="-", text=document["text"], title=document.get("title", "")).full_text
