"""`ThinkingRetriever`: the embedding model that one has, and anything that thinks, as one model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from o1_model.embedder import AnyDocuments, AnyQueries, as_documents, as_queries
from o1_model.retriever.calibration import Calibration, load_calibration
from o1_model.retriever.embedders import (
    EmbeddingModel,
    Vectors,
    encoder_of,
    open_embedder,
    readings_of,
    usual_mixture,
)
from o1_model.retriever.thinker import Thinker
from o1_model.retriever.thinkers import open_thinker
from o1_model.thinking.gate import Signal
from o1_model.thinking.settings import Thinking
from o1_records import Document, DocumentThought, InputError, Query, Thought
from o1_records.mixture import Mixture, Reading, mix_vectors, read_thoughts
from o1_records.styles import Style
from o1_records.vectors import Encoder

if TYPE_CHECKING:
    from o1_model.embedder import Embedder

Texts = Sequence[Sequence[str]]


@dataclass
class Cost:
    """What thinking has cost so far: queries asked about, thoughts, their tokens, and seconds."""

    queries: int = 0
    thoughts: int = 0
    tokens: int = 0
    seconds: float = 0.0


class ThinkingRetriever:
    """Embed queries with thoughts mixed in, and documents; nothing has to be trained.

    ```python
    retriever = ThinkingRetriever("all-MiniLM-L6-v2", "Qwen/Qwen2.5-Coder-1.5B-Instruct", style="snippet")
    documents = retriever.encode_document(["with zipfile.ZipFile(path) as archive: ...", "os.rename(a, b)"])
    queries = retriever.encode_query(["open a zip file"])
    print(queries @ documents.T)
    ```
    A query's vector is `unit((1 - weight) * v_q + weight * mean(u))` (`o1_records.mixture`). `cost` adds up
    what thinking took.

    Args:
        embedder: anything that `open_embedder` takes: a sentence-transformers model, a checkpoint of this
            package, a server of embeddings, or one that is open.
        thinker: anything that `open_thinker` takes: an instruct model, a `.gguf` file, a chat server, a
            checkpoint that thinks, a file of thoughts, or one that is open. With none it never thinks.
        style: what an instruct model is asked for; one of `o1_records.styles.QUERY_STYLES`, or a Style.
        thinking: how to think, or some of its settings; the others are as the calibration says, else as
            suits the thinker.
        mixture: how thoughts enter a query; by default as the calibration says, else as the checkpoint was
            trained (`mixture_weight` of a training), else with a weight of 0.2.
        document_weight: the share of thoughts in documents that have some; by default as the calibration
            says, else 0.2.
        calibration: what `calibrate` found, or its file.
        device: where both run, if they run here; by default on a GPU if there is one.

    Raises:
        InputError: there is no such model or thinker, a calibration of other ones, or a reading that the
            embedder does not have.
    """

    def __init__(
        self,
        embedder: str | Path | Embedder | EmbeddingModel,
        thinker: str | Path | Embedder | Thinker | None = None,
        *,
        style: str | Style | None = None,
        thinking: Thinking | Mapping[str, Any] | None = None,
        mixture: Mixture | None = None,
        document_weight: float | None = None,
        calibration: Calibration | str | Path | None = None,
        device: str | None = None,
    ) -> None:
        if isinstance(calibration, str | Path):
            calibration = load_calibration(calibration)
        here = device if isinstance(embedder, str | Path) else None
        self.embedder: EmbeddingModel = open_embedder(embedder, device=here)
        if calibration is not None and style is None and isinstance(thinker, str | Path):
            style = calibration.style
        there = device if isinstance(thinker, str | Path) else None
        self.thinker: Thinker | None = None
        if thinker is not None:
            self.thinker = open_thinker(thinker, style, device=there)
        elif style is not None or thinking:
            raise InputError("style and thinking are for a thinker; give one")
        if calibration is not None:
            calibration.refuse_others(self.embedder, self.thinker)
        self.calibration = calibration
        self.mixture = mixture or (
            usual_mixture(self.embedder) if calibration is None else calibration.mixture
        )
        if calibration is not None and calibration.search != "dense":
            raise InputError(
                f"the calibration is for {calibration.search} search; calibrate for dense search"
            )
        if document_weight is None:
            document_weight = Mixture().weight if calibration is None else calibration.document_weight
        self.document_weight = Mixture(weight=document_weight).weight  # refuses what is no share
        if self.mixture.reading not in readings_of(self.embedder):
            raise InputError(
                f"{self.embedder.name} has no reading {self.mixture.reading!r}; "
                f"choose one of {', '.join(readings_of(self.embedder))}"
            )
        self.thinking = None if self.thinker is None else self.thinker.usual
        if self.thinking is not None and calibration is not None:
            self.thinking = calibration.thinking
        if isinstance(thinking, Thinking):
            self.thinking = thinking
        elif self.thinking is not None:
            self.thinking = replace(self.thinking, **(thinking or {}))
        self.gate = None if calibration is None else calibration.gate
        self.cost = Cost()

    @property
    def name(self) -> str:
        """The embedder's name, and the thinker's."""
        thinker = self.thinker if self.thinks else None
        return self.embedder.name + ("" if thinker is None else f" + {thinker.name}")

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.embedder.dim

    @property
    def thinks(self) -> bool:
        """Whether thoughts can change a query's vector."""
        return self.thinker is not None and self.mixture.weight > 0

    def refuse_gate(self) -> None:
        """Raise InputError where a gate decides by hits, for callers that search nothing."""
        if self.gate is not None:
            raise InputError(
                "a gate that needs margins cannot serve: nothing is searched here; calibrate without --budget"
            )

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that changes a vector, in values that JSON can hold."""
        made: dict[str, Any] = {"embedder": dict(self.embedder.fingerprint)}
        if self.thinker is not None and self.thinks:
            made |= {
                "thinker": dict(self.thinker.fingerprint),
                "thinking": dict(vars(self.thinking)),
                "mixture": {"weight": self.mixture.weight, "reading": self.mixture.reading},
            }
            if self.gate is not None:
                made["gate"] = msgspec.to_builtins(self.gate)
        return made

    def encoder(self, *, role: str = "") -> Encoder:
        """Return what makes the vectors, for the manifest of a folder of them."""
        own = {name: value for name, value in self.fingerprint.items() if name != "embedder"}
        thinks = role == "query" and self.thinks
        return encoder_of(
            self.embedder, role=role, thoughts=msgspec.json.encode(own).decode() if thinks else ""
        )

    def think(self, queries: AnyQueries) -> list[list[Thought]]:
        """Return the thoughts about each query; blank ones are left out.

        Raises InputError without a thinker.
        """
        if self.thinker is None or self.thinking is None:
            raise InputError(f"{self.embedder.name} has no thinker; give one")
        asked = as_queries(queries)
        began = time.perf_counter()
        found = self.thinker.think(asked, self.thinking)
        self.cost.seconds += time.perf_counter() - began
        self.cost.queries += len(asked)
        for own in found:
            self.cost.thoughts += len(own)
            self.cost.tokens += sum(each.source.completion_tokens or len(each.token_ids) for each in own)
        return found

    def encode_query(
        self,
        queries: AnyQueries,
        *,
        thoughts: Sequence[Sequence[str | Thought]] | None = None,
        margins: Mapping[str, float] | None = None,
    ) -> Vectors:
        """Return vectors of queries [queries, dim], of unit length; of a single query [dim].

        Args:
            queries: texts or records.
            thoughts: each query's thoughts, instead of the thinker's; for a single query its list.
            margins: with a calibrated gate, the difference between v_q's two best scores, by query_id.

        Raises:
            InputError: thoughts that are not one list for each query, or a gate without margins.
        """
        one = isinstance(queries, str | Query | Mapping)
        asked = as_queries(queries)
        v_q = self.embedder.queries(asked)
        if thoughts is not None:
            given: Any = [thoughts] if one else thoughts
            opened = self._opened(asked, margins)
            texts = [
                [_text(each) for each in own] if place in opened else [] for place, own in enumerate(given)
            ]
        elif not self.thinks:
            texts = [[] for _ in asked]
        else:
            texts = self._texts(asked, margins)
        vectors = self.mix(asked, v_q, texts)
        return vectors[0] if one else vectors

    def encode_document(
        self,
        documents: AnyDocuments,
        *,
        thoughts: Sequence[Sequence[str | DocumentThought]] | None = None,
        weight: float | None = None,
    ) -> Vectors:
        """Return vectors of documents [documents, dim], of unit length; of a single document [dim].

        Args:
            documents: texts or records.
            thoughts: each document's thoughts, mixed in as they are into queries; for a single document its
                list.
            weight: their share; by default `document_weight`.

        Raises:
            InputError: thoughts that are not one list for each document, or a weight without thoughts.
        """
        one = isinstance(documents, str | Document | Mapping)
        read = [
            each if isinstance(each, Document) else Document(doc_id=str(n), text=each)
            for n, each in enumerate(as_documents(documents))
        ]
        vectors = self.embedder.documents(read)
        if thoughts is None:
            if weight is not None:
                raise InputError("a weight is for the thoughts of documents; give them too")
            return vectors[0] if one else vectors
        given: Any = [thoughts] if one else thoughts
        weight = self.document_weight if weight is None else weight
        texts = [[_text(each) for each in own] for own in given]
        mixed = mix_vectors(vectors, self.read_as_documents(texts), weight)
        return mixed[0] if one else mixed

    def mix(self, queries: Sequence[Query], v_q: Vectors, thoughts: Texts) -> Vectors:
        """Return the vectors of queries with these thoughts mixed in [queries, dim]."""
        return mix_vectors(v_q, self.read(queries, thoughts, self.mixture.reading), self.mixture.weight)

    def read(self, queries: Sequence[Query], thoughts: Texts, reading: Reading) -> list[Vectors]:
        """Return for each query the vectors of its thoughts [k, dim], read in one of the three ways.

        Raises InputError for thoughts that are not one list for each query, or a reading that the embedder
        does not have.
        """
        if reading not in readings_of(self.embedder):
            raise InputError(f"{self.embedder.name} does not read a query and a thought in one row")
        return read_thoughts(self.embedder, queries, thoughts, reading)

    def read_as_documents(self, thoughts: Texts) -> list[Vectors]:
        """Return for each list of thoughts their vectors [k, dim], read as documents are."""
        about = [Query(query_id=str(n), text="") for n in range(len(thoughts))]
        return read_thoughts(self.embedder, about, thoughts, "document")

    def _texts(self, queries: Sequence[Query], margins: Mapping[str, float] | None) -> list[list[str]]:
        """Return the thoughts about the queries that the gate opens for."""
        places = sorted(self._opened(queries, margins))
        found: list[list[str]] = [[] for _ in queries]
        for place, own in zip(places, self.think([queries[place] for place in places]), strict=True):
            found[place] = [thought.text for thought in own]
        return found

    def _opened(self, queries: Sequence[Query], margins: Mapping[str, float] | None) -> set[int]:
        """Return the places of the queries that the gate opens for; all without one."""
        if self.gate is None:
            if margins is not None:
                raise InputError("margins are for a calibrated gate, and there is none; leave them out")
            return set(range(len(queries)))
        known = margins or {}
        signals = [Signal(query_id=query.query_id, margin=known.get(query.query_id)) for query in queries]
        return {place for place, signal in enumerate(signals) if self.gate(signal)}


def _text(thought: str | Thought | DocumentThought) -> str:
    return thought if isinstance(thought, str) else thought.text
