"""The model as an application sees it: think, embed queries with or without thoughts, embed documents."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, cast, overload

import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from o1_model.backbone import Backbone
from o1_model.batch import pad_token_id
from o1_model.checkpoint.card import write_plain_card
from o1_model.checkpoint.certificate import TEXTS, Role
from o1_model.checkpoint.fit import fit
from o1_model.checkpoint.load import Checkpoint, load_checkpoint, new_checkpoint
from o1_model.checkpoint.save import save_checkpoint
from o1_model.encoding.encode import PACE, Pace, Reader, Vectors, refuse_broken
from o1_model.layout import (
    Layout,
    Name,
    Row,
    TextIds,
    changed_layout,
    document_ids,
    document_row,
    prompt_row,
    query_ids,
    query_row,
)
from o1_model.thinking.aggregate import Weigh, aggregate, apart, evenly, stacked, truncated
from o1_model.thinking.decode import Aloud, Decoded, Trace, in_text
from o1_model.thinking.decoder import Decoder
from o1_model.thinking.gate import Opens, Signal
from o1_model.thinking.records import Brought, Thoughts, by_query, record, thought_ids, vocabulary_digest
from o1_model.thinking.settings import Thinking
from o1_model.tokens import TextTokenizer, text_tokenizer
from o1_records import Document, InputError, InputWarning, Query, Source, Thought
from o1_records.mixture import Mixture
from o1_records.vectors import Encoder

Queries = Sequence[str] | Sequence[Query]
AnyQueries = str | Query | Mapping[str, Any] | Queries | Sequence[Mapping[str, Any]]
AnyDocuments = str | Document | Mapping[str, Any] | Sequence[str | Document | Mapping[str, Any]]
Parts = tuple[Vectors, list[list[Trace]]]


class _HowToRead(TypedDict, total=False):
    prompt: str | None
    truncate_dim: int | None
    batch_size: int | None
    show_progress_bar: bool | None


class _HowToAsk(_HowToRead, total=False):
    instruction: str
    thoughts: Thoughts | None
    think: Thinking | None
    gate: Opens | None
    with_query: bool
    weigh: Weigh


class Embedder:
    """A checkpoint that thinks and embeds.

    Vectors are float32, of unit length, in the order of the input: a single text or record gives [dim],
    several give [n, dim]. `texts_read` and `texts_cut` count, by kind ("query", "thought", "document"), the
    texts so far and those of them that were longer than the layout keeps.

    What the methods share: `truncate_dim` keeps the first numbers of a vector, at unit length. `batch_size`
    is the most rows of a forward pass (the budget of tokens holds too), `show_progress_bar` shows one on
    stderr, `convert_to_tensor` gives PyTorch's tensors.
    """

    def __init__(
        self,
        backbone: Backbone,
        layout: Layout,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        digest: str = "",
        mixture: Mixture | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.mixture = mixture
        self.name = name or str(getattr(backbone.config, "name_or_path", "")) or "unnamed"
        self.reader = Reader(backbone.eval(), layout, pad_token_id(tokenizer))
        unused = range(len(tokenizer), int(backbone.config.vocab_size))
        suppress = sorted({*tokenizer.all_special_ids, *unused} - {layout.eos})
        self.decoder = Decoder(self.reader, suppress, digest)
        self.texts_read: Counter[str] = Counter()
        self.texts_cut: Counter[str] = Counter()
        self._told: set[str] = set()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        layout: Name | None = None,
        base: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        attn_implementation: str | None = None,
        device_map: Any = None,
        quantization: Any = None,
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        **layout_settings: Any,
    ) -> Embedder:
        """Load a checkpoint from a folder or the hub. Its rows, prompts and read-outs are those of its files.

        Args:
            name_or_path: a folder or a hub id: a checkpoint of this package, or a model for
                sentence-transformers.
            revision: of a hub id.
            layout: of a model without files that say it: "reference" for checkpoints of the public O1 code,
                "instruct" for embedding models that read their last token.
            base: where an adapter's base model is now.
            device: where it runs; by default on a GPU if there is one.
            dtype: of the weights and the computation, also as a string; "auto" is the checkpoint's own.
            attn_implementation: transformers' ("sdpa", "eager", "flash_attention_2", ...).
            device_map: transformers', for a model on several devices ("auto"); instead of `device`.
            quantization: a transformers quantisation config, such as BitsAndBytesConfig(load_in_4bit=True).
            gguf_file: a file of llama.cpp in the folder that has the weights; they are unpacked to `dtype`.
            trust_remote_code: let the model's own code run.
            **layout_settings: fields of Layout that replace those of the checkpoint, such as
                `document_length` or `instruction`; in "instruct", `eos` is the token that closes a row.

        Raises:
            InputError: something is missing, changed since it was saved, or does not fit together.
        """
        loaded = load_checkpoint(
            name_or_path,
            revision=revision,
            layout=layout,
            base=base,
            gguf_file=gguf_file,
            layout_settings=layout_settings,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantization=quantization,
            trust_remote_code=trust_remote_code,
        )
        return cls._of(loaded, device or ("cuda" if torch.cuda.is_available() else "cpu"), device_map)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        attn_implementation: str | None = None,
        device_map: Any = None,
        quantization: Any = None,
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        **layout_settings: Any,
    ) -> Embedder:
        """Start from a plain model: add control tokens and a layout. Nothing else changes.

        `layout_settings` are those of `layout.new_layout`: `name`, the fields of Layout such as `readout` or
        `document_length`. The other arguments are those of `from_pretrained`, but that the model stays on the
        CPU unless `device` says otherwise.
        """
        made = new_checkpoint(
            name_or_path,
            revision=revision,
            gguf_file=gguf_file,
            layout_settings=layout_settings,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantization=quantization,
            trust_remote_code=trust_remote_code,
        )
        return cls._of(made, device, device_map)

    @classmethod
    def _of(cls, made: Checkpoint, device: str | None, device_map: Any) -> Embedder:
        if device is not None and device_map is None:
            made.backbone.to(device)
        fit(made.backbone, made.layout, made.name)
        return cls(
            made.backbone,
            made.layout,
            made.tokenizer,
            name=made.name,
            digest=made.digest,
            mixture=made.mixture,
        )

    def save_pretrained(self, folder: str | Path, *, certificate: bool = True) -> None:
        """Write weights (safetensors), tokenizer, config, layout, card, and files for sentence-transformers.

        `certificate` also writes the model's vectors of eight fixed texts, for `o1-model verify`.
        """
        vectors: dict[Role, Vectors] | None = None
        training = self.backbone.training
        if certificate:
            self.backbone.eval()  # without dropout
            with self.counting():  # one of the texts is meant to be cut
                vectors = {"query": self.encode_query(TEXTS), "document": self.encode_document(TEXTS)}
            self.backbone.train(training)
        save_checkpoint(
            folder, self.backbone, self.layout, self.tokenizer, vectors=vectors, mixture=self.mixture
        )
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
        latent = f" {self.layout.latent_steps} latent steps" if self.layout.latent_steps else ""
        return Encoder(
            model=self.name,
            digest=self.digest,
            layout=f"{self.layout.name} {self.layout.attention}{latent}",
            pooling=self.layout.readout,
            max_length=length,
            dtype=str(self.backbone.control_rows.dtype).removeprefix("torch."),
            role=role,
            thoughts=thoughts,
        )

    # --- vectors ------------------------------------------------------------------------------------------

    @overload
    def encode_query(
        self, queries: AnyQueries, *, convert_to_tensor: Literal[False] = False, **how: Unpack[_HowToAsk]
    ) -> Vectors: ...
    @overload
    def encode_query(
        self, queries: AnyQueries, *, convert_to_tensor: bool, **how: Unpack[_HowToAsk]
    ) -> Vectors | Tensor: ...
    def encode_query(
        self,
        queries: AnyQueries,
        *,
        instruction: str = "",
        prompt: str | None = None,
        thoughts: Thoughts | None = None,
        think: Thinking | None = None,
        gate: Opens | None = None,
        with_query: bool = False,
        weigh: Weigh = evenly,
        truncate_dim: int | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = False,
    ) -> Vectors | Tensor:
        """Return vectors of queries: v_q, or the normalised mean of v_t over each query's thoughts.

        Args:
            queries: texts, Query records, or mappings with a text (and an instruction).
            instruction: for queries without one of their own, instead of the layout's.
            prompt: the exact text before each query, instead of any instruction.
            thoughts: each query's list of thoughts (none: v_q; an empty string: an empty thought), or Thought
                records of all queries; for a single query its list.
            think: let the model write the thoughts.
            gate: with `think`, think only about the queries that it opens for.
            with_query: add v_q to the mean.
            weigh: how much each thought counts in the mean.
            truncate_dim: see the class, as for the rest.
            batch_size: of a forward pass.
            show_progress_bar: on stderr.
            convert_to_tensor: instead of numpy's arrays.
        """
        one = isinstance(queries, str | Query | Mapping)
        if one and thoughts is not None:
            if isinstance(thoughts, str) or not all(isinstance(each, str | Thought) for each in thoughts):
                raise InputError("give a single query one list of thoughts, not a string or a list of lists")
            thoughts = cast(Thoughts, [thoughts])
        asked = self._asked(queries, instruction, prompt)
        pace = Pace(batch_size, bool(show_progress_bar))
        v_q, traces = self._parts(asked, thoughts, think, gate, with_query=with_query, pace=pace)
        weights = [weigh(row) for row in traces]
        vectors = aggregate(v_q, stacked(traces), with_query=with_query, weights=weights)
        refuse_broken(vectors, asked.names)
        vectors = truncated(vectors, truncate_dim)
        return _given(vectors[0] if one else vectors, convert_to_tensor)

    def encode_query_samples(
        self,
        queries: AnyQueries,
        *,
        instruction: str = "",
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
        listed: Any = [queries] if isinstance(queries, str | Query | Mapping) else list(queries)
        asked = self._asked(listed, instruction)
        v_q, traces = self._parts(asked, thoughts, think, gate, with_query=with_query)
        names = [str(n) if isinstance(q, str) else asked.names[n] for n, q in enumerate(listed)]
        vectors, owners = apart(v_q, stacked(traces), names, with_query=with_query)
        refuse_broken(vectors, owners)
        return truncated(vectors, truncate_dim), owners

    @overload
    def encode_document(
        self, documents: AnyDocuments, *, convert_to_tensor: Literal[False] = False, **how: Unpack[_HowToRead]
    ) -> Vectors: ...
    @overload
    def encode_document(
        self, documents: AnyDocuments, *, convert_to_tensor: bool, **how: Unpack[_HowToRead]
    ) -> Vectors | Tensor: ...
    def encode_document(
        self,
        documents: AnyDocuments,
        *,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = False,
    ) -> Vectors | Tensor:
        """Return vectors of documents: texts, or Document records and mappings of a text and perhaps a title.

        `prompt` is the exact text before each document, instead of the layout's.
        """
        one = isinstance(documents, str | Document | Mapping)
        listed = as_documents(documents)
        rows = self.document_rows(listed, prompt=prompt)
        vectors = self.read(rows, Pace(batch_size, bool(show_progress_bar)))
        refuse_broken(vectors, [str(n) if isinstance(d, str) else d.doc_id for n, d in enumerate(listed)])
        vectors = truncated(vectors, truncate_dim)
        return _given(vectors[0] if one else vectors, convert_to_tensor)

    def encode(
        self,
        sentences: AnyQueries | AnyDocuments,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **how: Any,
    ) -> Vectors | Tensor:
        """Embed as sentence-transformers' `encode` does with a folder that `save_pretrained` wrote.

        `prompt_name` "query" calls `encode_query`, "document" (or "passage") `encode_document`; without any,
        the texts are read as queries, with `prompt` or nothing before them.
        """
        how = _known({**how, **({} if prompt is None else {"prompt": prompt})})
        vectors: Vectors | Tensor
        if prompt_name in ("document", "passage", "corpus"):
            vectors = self.encode_document(cast(AnyDocuments, sentences), **how)
        elif prompt_name in (None, "query"):
            bare = {"prompt": ""} if prompt_name is None else {}
            vectors = self.encode_query(cast(AnyQueries, sentences), **{**bare, **how})
        else:
            raise InputError(f"unknown prompt_name {prompt_name!r}; there are 'query' and 'document'")
        return vectors

    def similarity(self, first: Any, second: Any) -> Tensor:
        """Return the cosine of every pair [n, m] (sentence-transformers' name)."""
        return unit_rows(first) @ unit_rows(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        """Return the cosine of each row of `first` with the same row of `second`: [n]."""
        return (unit_rows(first) * unit_rows(second)).sum(dim=-1)

    def get_embedding_dimension(self) -> int:
        """Return the length of a vector (sentence-transformers' name)."""
        return self.dim

    def read(self, rows: Sequence[Row], pace: Pace = PACE) -> Vectors:
        """Return the vector at the last read-out of rows that `o1_model.layout` builds: [rows, dim]."""
        return self.reader.read(rows, pace)

    def read_thoughts(
        self,
        texts: Sequence[TextIds],
        thoughts: Sequence[Sequence[Sequence[int]]],
        *,
        with_query: bool = False,
        pace: Pace = PACE,
    ) -> Parts:
        """Return v_q (zeros where nobody needs it) and the traces of thoughts, both given as token ids."""
        owners = [number for number, own in enumerate(thoughts) for _ in own]
        ids = [thought for own in thoughts for thought in own]
        plain = [number for number, own in enumerate(thoughts) if with_query or not own]
        rows = [self._query_row(texts[number]) for number in plain]
        rows += [self._query_row(texts[n], thought) for n, thought in zip(owners, ids, strict=True)]
        vectors = self.read(rows, pace)
        v_q = np.zeros((len(texts), self.dim), dtype=np.float32)
        v_q[plain] = vectors[: len(plain)]
        traces: list[list[Trace]] = [[] for _ in texts]
        most = self.layout.thought_length
        for owner, thought, vector in zip(owners, ids, vectors[len(plain) :], strict=True):
            traces[owner].append(Trace(tuple(thought[:most]), True, torch.from_numpy(vector)))
        return v_q, traces

    # --- rows ---------------------------------------------------------------------------------------------

    def query_rows(self, queries: AnyQueries, *, instruction: str = "") -> list[Row]:
        """Return what the model reads of queries without thoughts."""
        return [self._query_row(text) for text in self._asked(queries, instruction).texts]

    def document_rows(self, documents: AnyDocuments, *, prompt: str | None = None) -> list[Row]:
        """Return what the model reads of documents."""
        layout = self.layout if prompt is None else changed_layout(self.layout, document_prompt=prompt)
        texts = document_ids(layout, self.tokenizer, as_documents(documents))
        self._count("document", [text.cut for text in texts])
        return [document_row(layout, text.ids, prompt=text.prompt) for text in texts]

    def row_text(self, row: Row) -> str:
        """Return a row as text, with its control tokens to be seen."""
        return self._words.decode(row.ids, control=True)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count the texts that are cut inside, by kind, for a caller who says so himself."""
        before, told = Counter(self.texts_cut), self._told
        self._told = {"query", "thought", "document"}
        found: Counter[str] = Counter()
        try:
            yield found
        finally:
            self._told = told
            found.update(self.texts_cut - before)

    # --- thoughts -----------------------------------------------------------------------------------------

    def think(self, queries: AnyQueries, thinking: Thinking | None = None) -> list[Thought]:
        """Write thoughts about queries, `samples` each; thoughts whose text is blank are left out."""
        how, asked = thinking or Thinking(), self._asked(queries)
        return self.thoughts(asked.queries, self._split(self._decode(asked, how))[1], how)

    def stream(self, query: str | Query, thinking: Thinking | None = None) -> Iterator[tuple[int, str]]:
        """Yield (sample, piece of text) of thoughts about a query while the model writes them.

        The pieces of a sample, put together, are its thought. If the decoder has a thought cache they are
        kept in it, so that `encode_query` with the same settings costs nothing afterwards.
        """
        thinking, asked = self.capped(thinking or Thinking()), self._asked(query)
        written: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
        left = threading.Event()

        def aloud(sample: int, text: str) -> None:
            if left.is_set():
                raise _ConsumerLeftError
            written.put((sample, text))

        shown = [""] * thinking.samples
        with ThreadPoolExecutor(1, thread_name_prefix="stream") as thread:
            job = thread.submit(self._decode, asked, thinking, aloud=aloud)
            job.add_done_callback(lambda _: written.put(None))
            try:
                while (said := written.get()) is not None:
                    sample, text = said
                    if text.startswith(shown[sample]) and text != shown[sample]:
                        yield sample, text[len(shown[sample]) :]
                        shown[sample] = text
                job.result()  # raises what went wrong
            finally:
                left.set()

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

    def decode(
        self,
        queries: AnyQueries,
        thinking: Thinking,
        *,
        gate: Opens | None = None,
        aloud: Aloud | None = None,
    ) -> Parts:
        """Return v_q [queries, dim] and the decoded thoughts of each query with their v_t.

        Thoughts end at the layout's `thought_length`, whatever `max_tokens` allows: encoded again
        they would be cut there. With `gate` only those queries have thoughts that it opens for. `aloud`
        hears (sample, text so far) of a single query while it is thought about, and every whole thought at
        the end. Raises InputError for several queries with `aloud`.
        """
        asked = self._asked(queries)
        if aloud is not None and len(asked.queries) > 1:
            raise InputError("one query at a time can be listened to; give a single one with aloud")
        return self._split(self._decode(asked, thinking, gate, aloud=aloud))

    def decode_rows(self, prompts: Sequence[Row], thinking: Thinking, gate: Opens | None = None) -> Parts:
        """Do the same for rows of `layout.prompt_row`, about which the gate opens."""
        return self._split(self.decoder(prompts, [""] * len(prompts), self.capped(thinking), gate))

    def signals(self, queries: AnyQueries) -> list[Signal]:
        """Return what a gate looks at, from one short pass without thinking."""
        return [each.signal for each in self._decode(self._asked(queries), Thinking(), lambda _: False)]

    def capped(self, thinking: Thinking) -> Thinking:
        """Return the settings with no more tokens than the layout keeps of a thought."""
        return replace(thinking, max_tokens=min(thinking.max_tokens, self.layout.thought_length))

    def text_of(self, trace: Trace) -> str:
        """Return the text of a decoded thought, without surrounding white space."""
        return self._words.decode(trace.token_ids).strip()

    # --- the names that BEIR and FlagEmbedding call -------------------------------------------------------

    def encode_queries(self, queries: AnyQueries, **how: Any) -> Vectors | Tensor:
        """Call `encode_query`."""
        vectors: Vectors | Tensor = self.encode_query(queries, **_known(how))
        return vectors

    def encode_corpus(
        self, corpus: AnyDocuments | Mapping[str, Sequence[str]], **how: Any
    ) -> Vectors | Tensor:
        """Call `encode_document`.

        A single mapping of lists, one of texts and one of titles, is BEIR's other form of a corpus.
        """
        if isinstance(corpus, Mapping):
            if any(isinstance(column, str) for column in corpus.values()):
                raise InputError(
                    "a single document is not a corpus; give a list of documents, or lists of texts, titles"
                )
            columns: Any = corpus.values()
            corpus = [dict(zip(corpus, row, strict=True)) for row in zip(*columns, strict=True)]
        vectors: Vectors | Tensor = self.encode_document(corpus, **_known(how))
        return vectors

    # --- inside -------------------------------------------------------------------------------------------

    def _asked(self, queries: AnyQueries, instruction: str = "", prompt: str | None = None) -> _Asked:
        """Return queries with their token ids, and count those that are cut."""
        records = as_queries(queries, instruction)
        layout = self.layout
        if prompt is not None:
            if any(query.instruction for query in records):
                raise InputError("a prompt is the exact text before a query; leave out its instruction")
            layout = changed_layout(layout, query_prompt=prompt, instruction="")
        texts = query_ids(layout, self.tokenizer, records)
        self._count("query", [text.cut for text in texts])
        return _Asked(records, texts)

    def _parts(
        self,
        asked: _Asked,
        thoughts: Thoughts | None,
        think: Thinking | None,
        gate: Opens | None,
        *,
        with_query: bool,
        pace: Pace = PACE,
    ) -> Parts:
        """Return v_q and traces of queries that think, bring thoughts or do neither."""
        if thoughts is not None and think is not None:
            raise InputError("give thoughts or think, not both")
        if think is not None:
            return self._split(self._decode(asked, think, gate, pace))
        if gate is not None:
            raise InputError("a gate decides whether to think; give think too")
        brought = [[] for _ in asked.queries] if thoughts is None else by_query(asked.queries, thoughts)
        return self._read_brought(asked, brought, with_query=with_query, pace=pace)

    def _read_brought(
        self, asked: _Asked, brought: Sequence[Sequence[Brought]], *, with_query: bool, pace: Pace
    ) -> Parts:
        most = self.layout.thought_length
        every = [each for row in brought for each in row]
        ids = thought_ids(self.tokenizer, self._vocabulary, every, most)
        self._count("thought", [len(own) > most for own in ids])
        own = iter(ids)
        grouped = [[next(own) for _ in row] for row in brought]
        return self.read_thoughts(asked.texts, grouped, with_query=with_query, pace=pace)

    def _decode(
        self,
        asked: _Asked,
        thinking: Thinking,
        gate: Opens | None = None,
        pace: Pace = PACE,
        aloud: Aloud | None = None,
    ) -> list[Decoded]:
        prompts = [prompt_row(self.layout, text.ids, prompt=text.prompt) for text in asked.texts]
        told = None if aloud is None else in_text(self._words.decode, thinking.samples, aloud)
        decoded = self.decoder(prompts, asked.names, self.capped(thinking), gate, pace, told)
        refuse_broken(np.array([each.v_q.numpy() for each in decoded]), asked.names)
        pairs = [
            (name, trace) for name, each in zip(asked.names, decoded, strict=True) for trace in each.traces
        ]
        refuse_broken(np.array([trace.vector.numpy() for _, trace in pairs]), [name for name, _ in pairs])
        if aloud is not None:  # also what the cache knew, or an engine wrote
            for sample, trace in enumerate(decoded[0].traces):
                aloud(sample, self._words.decode(trace.token_ids))
        return decoded

    def _query_row(self, text: TextIds, thought: Sequence[int] | None = None) -> Row:
        return query_row(self.layout, text.ids, thought, prompt=text.prompt)

    def _split(self, decoded: Sequence[Decoded]) -> Parts:
        v_q = np.zeros((len(decoded), self.dim), dtype=np.float32)
        for number, each in enumerate(decoded):
            v_q[number] = each.v_q.numpy()
        return v_q, [each.traces for each in decoded]

    def _count(self, kind: str, cut: Sequence[bool]) -> None:
        """Count texts and those that are cut; warn of the first."""
        self.texts_read[kind] += len(cut)
        self.texts_cut[kind] += sum(cut)
        if any(cut) and kind not in self._told:
            self._told.add(kind)
            most = getattr(self.layout, f"{kind}_length")
            message = (
                f"{sum(cut)} of {len(cut)} texts have more than the {most} tokens that are read of a {kind}; "
                f"texts_cut counts them, {kind}_length={2 * most} would read more"
            )
            warnings.warn(message, InputWarning, stacklevel=4)

    @property
    def _words(self) -> TextTokenizer:
        return text_tokenizer(self.tokenizer)

    @cached_property
    def _vocabulary(self) -> str:
        return vocabulary_digest(self.tokenizer)


class _ConsumerLeftError(Exception):
    """Nobody listens to a stream any more."""


class _Asked(NamedTuple):
    """Queries and their token ids."""

    queries: list[Query]
    texts: list[TextIds]

    @property
    def names(self) -> list[str]:
        return [query.query_id for query in self.queries]


def as_queries(queries: AnyQueries, instruction: str = "") -> list[Query]:
    """Return queries as records, a single one as a list; equal strings have one query_id.

    `instruction` is for those without one of their own.
    """
    listed: Any = [queries] if isinstance(queries, str | Query | Mapping) else queries
    records = []
    for place, query in enumerate(listed):
        if isinstance(query, Query):
            made = query
        elif isinstance(query, str):
            made = Query(query_id=_name(query), text=query)
        elif isinstance(query, Mapping):
            own = _fields(
                query, f"query {place}", ("text", "instruction"), ("query_id", "_id", "id", "metadata")
            )
            name = next((query[key] for key in ("query_id", "_id", "id") if key in query), _name(own["text"]))
            made = Query(query_id=str(name), **own)
        else:
            raise InputError(f"query {place} is a {type(query).__name__}; give strings or Query records")
        if instruction and not made.instruction:
            made = msgspec.structs.replace(made, instruction=instruction)
        records.append(made)
    return records


def as_documents(documents: AnyDocuments) -> list[str | Document]:
    """Return documents as texts and records, a single one as a list."""
    listed: Any = [documents] if isinstance(documents, str | Document | Mapping) else documents
    made: list[str | Document] = []
    for place, document in enumerate(listed):
        if isinstance(document, Mapping):
            ids = ("doc_id", "_id", "id", "docid")
            own = _fields(document, f"document {place}", ("text", "title"), (*ids, "metadata"))
            name = next((document[key] for key in ids if key in document), place)
            made.append(Document(doc_id=str(name), **own))
        elif isinstance(document, str | Document):
            made.append(document)
        else:
            kind = type(document).__name__
            raise InputError(
                f"document {place} is a {kind}; give strings, Document records or mappings of a text"
            )
    return made


def unit_rows(vectors: Any) -> Tensor:
    """Return vectors [dim] or [n, dim] as a tensor of unit rows [n, dim]."""
    rows = torch.as_tensor(vectors).float()
    rows = rows[None] if rows.dim() == 1 else rows
    return torch.nn.functional.normalize(rows, dim=-1)


def _fields(
    mapping: Mapping[str, Any], place: str, wanted: Sequence[str], others: Sequence[str]
) -> dict[str, str]:
    """Return the wanted texts of a mapping, the first of which it must have."""
    unknown = [key for key in mapping if key not in (*wanted, *others)]
    if wanted[0] not in mapping or unknown:
        has = f"has {', '.join(map(str, mapping)) or 'nothing'}"
        raise InputError(
            f"{place} {has}; it needs {wanted[0]}, and may have {', '.join((*wanted[1:], *others))}"
        )
    own = {key: "" if mapping[key] is None else mapping[key] for key in wanted if key in mapping}
    for key, text in own.items():
        if not isinstance(text, str):
            raise InputError(f"{place}: {key} is a {type(text).__name__}, not a text")
    return own


def _name(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _given(vectors: Vectors, convert_to_tensor: bool) -> Vectors | Tensor:
    return torch.from_numpy(np.ascontiguousarray(vectors)) if convert_to_tensor else vectors


def _known(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those of sentence-transformers that are always so here.

    Raises InputError for one that would ask for something else.
    """
    always = {
        "convert_to_numpy": (True, None),
        "normalize_embeddings": (True, None),
        "precision": ("float32", None),
        "output_value": ("sentence_embedding", None),
    }
    for name, value in how.items():
        if name in always and value not in always[name] and not how.get("convert_to_tensor"):
            raise InputError(f"{name} is always {always[name][0]!r} here, got {value!r}")
    return {name: value for name, value in how.items() if name not in always}
