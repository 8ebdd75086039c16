"""Models that embed: the vectors of a collection's documents on disk, and encoders of plain texts.

Thoughts with a plain encoder are the comparison that a thinking model has to beat at equal cost: the thought
appended to the query (Query2doc, Wang et al. 2023) or embedded as documents are (HyDE, Gao et al. 2023).
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

from o1_bench.collection import Collection
from o1_bench.protocol import Protocol
from o1_bench.running.pipeline import Vectors
from o1_bench.running.retrieve import ExactSearch
from o1_records import Document, MissingExtraError, Query, quoted
from o1_records.kit.job import ChangedJobError, move_aside
from o1_records.kit.models import model_digest, model_folder
from o1_records.kit.sentences import own_prompt, sentence_model
from o1_records.progress import shown

if TYPE_CHECKING:
    from o1_records.vectors import Encoder

Role = Literal["query", "document"]

_SHARD = 2048  # documents whose vectors a crash can lose
_SECONDS = "seconds"
_GENERIC = re.compile(r"(model|final|best|last|latest|output|merged|(checkpoint|epoch|step)[-_]?\d+)", re.I)


class EncodedCollection:
    """A collection whose documents are embedded, ready for exact search.

    The vectors are kept in `folder`, shard by shard: a rerun continues, and vectors of another model, prompt
    or corpus are refused, or with `new_job` moved aside.

    Args:
        collection: its documents are embedded.
        embed: vectors of documents [documents, dim].
        encoder: what identifies `embed`.
        folder: where the vectors are kept.
        new_job: see above.
        progress: show on stderr how far it is.
    """

    def __init__(
        self,
        collection: Collection,
        embed: Callable[[Sequence[Document]], Vectors],
        encoder: Encoder,
        folder: Path,
        *,
        new_job: bool = False,
        progress: bool = False,
    ) -> None:
        from o1_records.vectors import VectorSet, VectorWriter, refuse_other_origin

        source = f"sha256:{collection.digests['documents']}"
        if folder.exists():
            try:
                refuse_other_origin(VectorSet(folder), encoder, source)
            except ChangedJobError:
                if not new_job:
                    raise
                move_aside(folder)
        if not folder.exists():
            with VectorWriter(folder, encoder=encoder, source=source, new_job=new_job) as writer:
                # in the folder of the vectors, so that it is renamed and moved with them
                watch = Stopwatch(folder.with_name(f"{folder.name}.partial") / _SECONDS)
                kept = set(writer.ids)
                missing: Iterator[Document] = (
                    document for document in collection.documents if document.doc_id not in kept
                )
                if progress:
                    missing = shown(missing, "documents", total=len(collection) - len(kept))
                while shard := list(islice(missing, _SHARD)):
                    with watch.running():
                        writer.write([document.doc_id for document in shard], embed(shard))
                writer.close()
        vectors = VectorSet(folder)
        self.seconds = Stopwatch(folder / _SECONDS).seconds
        self.search = ExactSearch(vectors.load(), vectors.ids(), excluded=collection.excluded)


class Stopwatch:
    """Adds up seconds in a file, one line for each stretch of work, over several processes.

    A stretch that fails is counted; one whose process was killed is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time one stretch of work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="ascii") as file:
                file.write(f"{time.perf_counter() - began}\n")

    @property
    def seconds(self) -> float | None:
        """All stretches together; None if none was timed or the file is damaged."""
        try:
            return sum(map(float, self.path.read_text("ascii").split()))
        except (FileNotFoundError, ValueError):
            return None


class Pieces(NamedTuple):
    """The tokens of a text, and a vector of each [tokens, dim]; their sum is the text's unit vector."""

    names: tuple[str, ...]
    vectors: Vectors


class TextEncoder(ABC):
    """An encoder of plain texts, with something before queries and documents.

    Args:
        model: what it is called where it comes from.
        name: what results call it.
        device: where it runs.
        query_prompt: goes before every query; `{instruction}` in it is replaced by the task. The protocol's
            by default, else the model's own.
        document_prompt: goes before every document; the model's own by default.
    """

    layout: str

    def __init__(
        self,
        model: str,
        *,
        name: str = "",
        device: str = "",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        self.model, self.name, self.device = model, name or readable_name(model), device
        self._own_prompt = self._query_prompt = query_prompt
        self._document_prompt = document_prompt

    def adopt(self, protocol: Protocol) -> None:
        """Take the query prompt and the token limit of a protocol, where none were given."""
        if self._own_prompt is None:
            self._query_prompt = protocol.query_prompt or None
        self._limit(protocol.max_length)

    @property
    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the vectors, with `max_length` and `similarity`."""

    @property
    def prompts(self) -> dict[str, str]:
        """What goes before queries and documents."""
        given = {"query": self._query_prompt, "document": self._document_prompt}
        return {role: self._prompt_of_model(role) if text is None else text for role, text in given.items()}

    @property
    def encoder(self) -> Encoder:
        """What identifies the vectors of documents, as their folder holds it."""
        from o1_records.vectors import Encoder

        known = ("model", "max_length", "similarity")
        identity = {name: value for name, value in self.fingerprint.items() if name not in known}
        digest = msgspec.json.encode(identity, order="sorted").decode()
        return Encoder(
            model=self.model,
            digest=f"{digest} {quoted(self.prompts['document'])}",
            layout=self.layout,
            pooling=str(self.fingerprint.get("similarity", "")),
            max_length=self.fingerprint.get("max_length") or 0,
            role="document",
        )

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents [documents, dim]."""
        return self._documents([document.full_text for document in documents])

    def queries(self, queries: Sequence[Query], thoughts: Sequence[Sequence[str]] | None = None) -> Vectors:
        """Return vectors of queries [queries, dim], each with its thoughts appended as lines (Query2doc)."""
        texts, prompt = self._asked(queries, thoughts)
        return self._encode(texts, "query", prompt)

    def hyde(self, queries: Sequence[Query], thoughts: Sequence[Sequence[str]] | None = None) -> Vectors:
        """Return the mean of a query's vector and those of its thoughts, embedded as documents (HyDE)."""
        vectors = self.queries(queries)
        for row, own in enumerate(thoughts or ()):
            if written := [text for text in own if text]:
                every = np.concatenate([vectors[row : row + 1], self._documents(written)])
                mean = every.mean(axis=0)
                vectors[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vectors

    def sample(
        self,
        queries: Sequence[Query],
        documents: Sequence[Document],
        thoughts: Sequence[Sequence[str]] | None = None,
    ) -> tuple[list[str], list[str]]:
        """Return the texts that the model really reads: with prompts, in its tokens, cut as they are cut."""
        texts, prompt = self._asked(queries, thoughts)
        asked = [self._read(text, "query", prompt) for text in texts]
        return asked, [self._read(each.full_text, "document", self._document_prompt) for each in documents]

    def query_pieces(
        self, queries: Sequence[Query], thoughts: Sequence[Sequence[str]] | None = None
    ) -> list[Pieces] | None:
        """Return the tokens of queries, as `queries` reads them; None where vectors are no sums of tokens."""
        texts, prompt = self._asked(queries, thoughts)
        return self._pieces(texts, "query", prompt)

    def document_pieces(self, documents: Sequence[Document]) -> list[Pieces] | None:
        """Return the tokens of documents, as `documents` reads them; None as for `query_pieces`."""
        return self._pieces([each.full_text for each in documents], "document", self._document_prompt)

    def _documents(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, "document", self._document_prompt)

    def _asked(
        self, queries: Sequence[Query], thoughts: Sequence[Sequence[str]] | None
    ) -> tuple[list[str], str | None]:
        """Return texts with their thoughts, and the prompt that is left to put before them."""
        own = thoughts if thoughts is not None else [()] * len(queries)
        texts = [
            "\n".join([query.text, *filter(None, each)]) for query, each in zip(queries, own, strict=True)
        ]
        if self._query_prompt is None:
            return texts, None
        tasks = [self._query_prompt.replace("{instruction}", query.instruction) for query in queries]
        return [task + text for task, text in zip(tasks, texts, strict=True)], ""

    @abstractmethod
    def _encode(self, texts: Sequence[str], role: Role, prompt: str | None) -> Vectors:
        """Return vectors [texts, dim]; prompt None: the model's own."""

    @abstractmethod
    def _read(self, text: str, role: Role, prompt: str | None) -> str:
        """Return the text that the model reads for one."""

    def _pieces(self, texts: Sequence[str], role: Role, prompt: str | None) -> list[Pieces] | None:
        """Return the tokens of texts and their vectors, where a text's vector is their sum."""
        return None

    def _prompt_of_model(self, role: str) -> str:
        return ""

    def _limit(self, tokens: int) -> None:  # noqa: B027  # a server cuts by itself
        """Read at most so many tokens of a text; 0: as many as the model can."""


class SentenceEncoder(TextEncoder):
    """A sentence-transformers model by its folder or hub id; safetensors only, no remote code. Needs `[st]`.

    Args:
        model: folder or hub id.
        device: where it runs.
        batch: texts at a time.
        max_length: tokens of a text that are read; the protocol's or the model's own limit by default.
        **prompts: name and prompts, as `TextEncoder` takes them.

    Raises:
        InputError: there is no such model.
        MissingExtraError: sentence-transformers is not installed.
    """

    layout = "sentence-transformers"

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        batch: int = 32,
        max_length: int | None = None,
        **prompts: Any,
    ) -> None:
        super().__init__(model, device=device, **prompts)
        self._batch, self._max_length = batch, max_length
        try:
            self._folder = model_folder(model)
            self._loaded: Any = sentence_model(self._folder, device=device)
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-bench", "st", "A sentence-transformers model") from error
        self._most: int | None = self._loaded.max_seq_length
        self._limit(0)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The model's name, the digest of its files, length and similarity."""
        return {
            "model": self.model,
            "digest": self._digest,
            "max_length": self._loaded.max_seq_length,
            "similarity": str(self._loaded.similarity_fn_name),
        }

    @cached_property
    def _digest(self) -> str:
        return f"sha256:{model_digest(self._folder)}"

    def _limit(self, tokens: int) -> None:
        if self._max_length is not None:
            self._loaded.max_seq_length = self._max_length
        elif tokens:
            self._loaded.max_seq_length = min(tokens, self._most or tokens)
        elif self._loaded.max_seq_length != self._most:
            self._loaded.max_seq_length = self._most

    def _prompt_of_model(self, role: str) -> str:
        return own_prompt(self._loaded, role)

    def _encode(self, texts: Sequence[str], role: Role, prompt: str | None) -> Vectors:
        encode = self._loaded.encode_query if role == "query" else self._loaded.encode_document
        vectors = encode(
            list(texts),
            batch_size=self._batch,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=self._loaded.similarity_fn_name != "dot",
            **({} if prompt is None else {"prompt": prompt}),
        )
        return np.asarray(vectors, dtype=np.float32)

    def _pieces(self, texts: Sequence[str], role: Role, prompt: str | None) -> list[Pieces] | None:
        """Return the tokens of texts where the model is a transformer and the mean of its states."""
        kinds = [type(module).__name__ for module in self._loaded]
        if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
            return None
        pooling = self._loaded[1]
        if pooling.pooling_mode != "mean" or not pooling.include_prompt:
            return None
        import torch

        own = self._prompt_of_model(role) if prompt is None else prompt
        found = []
        for start in range(0, len(texts), self._batch):
            block = list(texts[start : start + self._batch])
            features = self._loaded.preprocess(block, prompt=own or None, task=role)
            ids = features["input_ids"].tolist()
            with torch.inference_mode():
                moved = {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in features.items()}
                read = self._loaded[0](moved)
            states, masks = (
                read["token_embeddings"].float().cpu().numpy(),
                read["attention_mask"].cpu().numpy(),
            )
            for row, of_row, mask in zip(ids, states, masks.astype(bool), strict=True):
                kept = of_row[mask]
                tokens = [token for token, there in zip(row, mask, strict=True) if there]
                length = max(float(np.linalg.norm(kept.sum(axis=0))), 1e-12)
                names = self._loaded.tokenizer.convert_ids_to_tokens(tokens)
                found.append(Pieces(tuple(names), kept / length))
        return found

    def _read(self, text: str, role: Role, prompt: str | None) -> str:
        own = self._prompt_of_model(role) if prompt is None else prompt
        features = self._loaded.preprocess([text], prompt=own or None, task=role)
        ids = features.get("input_ids")
        if ids is None:  # a model without token ids, such as a bag of words
            return own + text
        return str(self._loaded.tokenizer.decode(ids.flatten().tolist(), skip_special_tokens=False))


def readable_name(model: str) -> str:
    """Return what results call a model by default: the last part of its path or hub id.

    A part that says nothing (`model`, `checkpoint-500`) has the one before it; a snapshot of the hub's cache
    has its repository's name.
    """
    path = Path(model)
    parts = path.resolve().parts if path.exists() else path.parts
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].rpartition("--")[2]
    if len(parts) > 1 and parts[-2] != "/" and _GENERIC.fullmatch(parts[-1]):
        return f"{parts[-2]}/{parts[-1]}"
    return parts[-1]
