"""The model as an application sees it: think, embed queries with or without thoughts, embed documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from o1_model.aggregate import Vectors, Weigh, aggregate, apart, evenly, stacked, truncated
from o1_model.backbone import Backbone, grow_vocabulary, load_lm, load_tokenizer
from o1_model.data import pad_token_id
from o1_model.decode import Decoder
from o1_model.encode import encode_rows
from o1_model.export import save_checkpoint
from o1_model.gate import Signal
from o1_model.layout import Layout, Name, Row, document_row, new_layout, text_ids
from o1_model.load import load_checkpoint
from o1_model.other_names import OtherNames
from o1_model.think import Thinking, Trace
from o1_model.thinker import Opens, Parts, Queries, Thinker, as_queries, lists_of_one, split
from o1_model.thoughts import Brought, trace_text
from o1_records import Document, InputError, Query, Thought
from o1_records.vectors import Encoder


class Embedder(OtherNames):
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
        self.batch_tokens: int | None = None  # of a forward pass; by default what suits the device
        self.tokens_read = 0
        self._pad_id = pad_token_id(tokenizer)
        unused = range(len(tokenizer), int(backbone.config.vocab_size))
        suppress = sorted({*tokenizer.all_special_ids, *unused} - {layout.eos})
        self.decoder = Decoder(backbone, layout, self._pad_id, suppress, digest)
        self._thinker = Thinker(self.decoder, tokenizer, self.name)

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
        another `document_length`; `base` says where an adapter's base model is now. Raises InputError
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
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _refuse_longer_than(loaded.backbone.lm, loaded.layout)
        return cls(
            loaded.backbone.to(place),
            loaded.layout,
            loaded.tokenizer,
            name=loaded.name,
            digest=loaded.digest,
        )

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

        `quantization` is transformers' (`lora.four_bits`); `layout_settings` are fields of Layout: `readout`,
        `query_length`, ...
        """
        tokenizer = load_tokenizer(name_or_path, revision=revision)
        lm = load_lm(name_or_path, revision=revision, quantization=quantization)
        layout = new_layout(tokenizer, **layout_settings)
        _refuse_longer_than(lm, layout)
        grow_vocabulary(lm, tokenizer)
        name = Path(name_or_path).name
        return cls(Backbone(lm, layout.control_ids), layout, tokenizer, name=name)

    def save_pretrained(self, folder: str | Path, *, certificate: bool = True) -> None:
        """Write weights (safetensors), tokenizer, config, layout, card, and files for sentence-transformers.

        `certificate` also runs the model on eight texts and writes what it answered, for `o1-model verify`.
        """
        from o1_model.card import write_plain_card  # it needs what training needs

        save_checkpoint(self, folder, certificate=certificate)
        write_plain_card(Path(folder))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.decoder.dim

    def fingerprint(self, *, role: str = "", thoughts: str = "") -> Encoder:
        """What made these vectors, for manifests."""
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

    def encode_query(
        self,
        queries: str | Query | Queries,
        *,
        thoughts: Sequence[Sequence[Brought]] | Sequence[Brought] | None = None,
        think: Thinking | None = None,
        gate: Opens | None = None,
        with_query: bool = False,
        weigh: Weigh = evenly,
        truncate_dim: int | None = None,
    ) -> Vectors:
        """Vectors of queries: v_q, or the normalised mean of v_t over each query's thoughts.

        `thoughts` gives each query its list of thoughts (none: v_q; an empty string: an empty
        thought), or Thought records of all queries; for a single string it is that string's list.
        `think` lets the model write them, about the queries that the `gate` opens for. `with_query`
        adds v_q to the mean, `weigh` says how much each thought counts in it.
        """
        if isinstance(queries, str | Query):
            queries, thoughts = as_queries(queries), lists_of_one(thoughts)
            vector: Vectors = self.encode_query(
                queries, thoughts=thoughts, think=think, gate=gate, with_query=with_query, weigh=weigh,
                truncate_dim=truncate_dim,
            )[0]  # fmt: skip
            return vector
        v_q, traces = self._thinker.parts(
            queries, thoughts, think, gate, self.encode_rows, with_query=with_query
        )
        weights = [weigh(row) for row in traces]
        vectors = aggregate(v_q, stacked(traces), with_query=with_query, weights=weights)
        return truncated(vectors, truncate_dim)

    def encode_query_samples(
        self,
        queries: Queries,
        *,
        thoughts: Sequence[Sequence[Brought]] | Sequence[Brought] | None = None,
        think: Thinking | None = None,
        gate: Opens | None = None,
        with_query: bool = False,
        truncate_dim: int | None = None,
    ) -> tuple[Vectors, list[str]]:
        """Every v_t by itself [rows, dim], and the query_id of each row: for the maximum over samples.

        `o1_index.fusion.search_max(index, vectors, owners, k=k)` takes both. Strings are owned by their
        place in the list. v_q has a row of its own where there is no thought, or with `with_query`.
        """
        listed: Any = [queries] if isinstance(queries, str | Query) else list(queries)
        v_q, traces = self._thinker.parts(
            listed, thoughts, think, gate, self.encode_rows, with_query=with_query
        )
        names = [q.query_id if isinstance(q, Query) else str(n) for n, q in enumerate(listed)]
        vectors, owners = apart(v_q, stacked(traces), names, with_query=with_query)
        return truncated(vectors, truncate_dim), owners

    def encode_document(
        self,
        documents: str | Document | Sequence[str] | Sequence[Document],
        *,
        truncate_dim: int | None = None,
    ) -> Vectors:
        """Vectors of documents (title and text, when they are records)."""
        if isinstance(documents, str | Document):
            one: Any = [documents]
            vector: Vectors = self.encode_document(one, truncate_dim=truncate_dim)[0]
            return vector
        texts = [_document_text(place, document) for place, document in enumerate(documents)]
        rows = [document_row(self.layout, ids) for ids in text_ids(self.tokenizer, texts)]
        return truncated(self.encode_rows(rows), truncate_dim)

    def think(self, queries: Queries, thinking: Thinking | None = None) -> list[Thought]:
        """Write thoughts about queries, `samples` each; thoughts whose text is blank are left out."""
        how, queries = thinking or Thinking(), as_queries(queries)
        return self.thoughts(queries, self.decode(queries, how)[1], how)

    def thoughts(
        self, queries: Queries, traces: Sequence[Sequence[Trace]], thinking: Thinking
    ) -> list[Thought]:
        """Decoded thoughts as records; those whose text is blank are left out."""
        return self._thinker.records(queries, traces, thinking)

    def decode(self, queries: Queries, thinking: Thinking) -> Parts:
        """v_q [queries, dim] and the decoded thoughts of each query with their v_t.

        Thoughts end at the layout's `thought_length`, whatever `max_tokens` allows: encoded again
        they would be cut there.
        """
        return split(self._thinker.decode(queries, thinking), self.dim)

    def decode_rows(self, prompts: Sequence[Row], names: Sequence[str], thinking: Thinking) -> Parts:
        """The same for rows of `layout.prompt_row`; `names` seed the random streams."""
        return split(self.decoder(prompts, names, self.capped(thinking)), self.dim)

    def signals(self, queries: Queries) -> list[Signal]:
        """What a gate looks at, from one short pass without thinking."""
        return [each.signal for each in self._thinker.decode(queries, Thinking(), lambda _: False)]

    def capped(self, thinking: Thinking) -> Thinking:
        """The same with no more tokens than the layout keeps of a thought."""
        return self._thinker.capped(thinking)

    def text_of(self, trace: Trace) -> str:
        """What a decoded thought says."""
        return trace_text(self.tokenizer, trace)

    def encode_rows(self, rows: Sequence[Row]) -> Vectors:
        """Vectors [rows, dim] of rows that `o1_model.layout` builds."""
        self.tokens_read += sum(len(row.ids) for row in rows)
        return encode_rows(
            self.backbone, self.layout, rows, pad_id=self._pad_id, batch_tokens=self.batch_tokens
        )


def _document_text(place: int, document: object) -> str:
    if not isinstance(document, str | Document):
        kind = type(document).__name__
        raise InputError(f"document {place} is a {kind}; give strings or Document records")
    return document if isinstance(document, str) else document.full_text


def _refuse_longer_than(lm: Any, layout: Layout) -> None:
    positions = getattr(lm.config, "max_position_embeddings", None)
    if positions is not None and layout.longest > positions:
        raise InputError(
            f"the layout has rows of up to {layout.longest} tokens, the model takes {positions}; "
            "lower query_length, thought_length or document_length"
        )
