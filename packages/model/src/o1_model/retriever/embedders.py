"""Any embedding model as a thinking retriever sees it: sentence-transformers', a checkpoint, a server's.

An `EmbeddingModel` has `queries` and `documents`; one that also reads a query and its thought together has
`joint` (`JointModel`). Vectors are float32 of unit length, in the order of the input.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_model.layout import FILE_NAME
from o1_model.retriever.identity import digest_of
from o1_records import Document, InputError, InputWarning, MissingExtraError, Query, Thought, quoted
from o1_records.kit.http import Address, address, embeddings, is_address
from o1_records.kit.models import model_digest, model_folder
from o1_records.kit.prompts import with_instruction
from o1_records.kit.sentences import own_prompt, sentence_model
from o1_records.mixture import READINGS, Mixture, Reading, unit_rows
from o1_records.vectors import Encoder

if TYPE_CHECKING:
    from o1_model.embedder import Embedder

Vectors = NDArray[np.float32]
Made = TypeVar("Made")


class EmbeddingModel(Protocol):
    """A model that embeds queries and documents."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that changes a vector, in values that JSON can hold."""

    def queries(self, queries: Sequence[Query]) -> Vectors:
        """Return vectors of queries [queries, dim]."""

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents [documents, dim]."""


@runtime_checkable
class JointModel(EmbeddingModel, Protocol):
    """A model that reads a query and a thought about it in one row."""

    def joint(self, queries: Sequence[Query], thoughts: Sequence[str | Thought]) -> Vectors:
        """Return a vector of each query with its thought [queries, dim]."""


def readings_of(model: EmbeddingModel) -> tuple[Reading, ...]:
    """Return the ways in which a model can read a thought."""
    return READINGS if isinstance(model, JointModel) else READINGS[1:]


def encoder_of(model: EmbeddingModel, *, role: str = "", thoughts: str = "") -> Encoder:
    """Return what made a model's vectors, for manifests; `thoughts` says how they took part."""
    if isinstance(model, CheckpointModel):
        return model.embedder.fingerprint(role=role, thoughts=thoughts)
    return Encoder(
        model=model.name,
        digest=digest_of(model.fingerprint),
        layout="",
        pooling="",
        max_length=int(model.fingerprint.get("max_length") or 0),
        dtype=str(model.fingerprint.get("dtype", "float32")),
        role=role,
        thoughts=thoughts,
    )


def open_embedder(
    model: str | Path | Embedder | EmbeddingModel, *, device: str | None = None, **how: Any
) -> EmbeddingModel:
    """Return the embedding model that is meant.

    Args:
        model: a folder or hub id of a checkpoint of this package or of a sentence-transformers model, the
            address of an OpenAI-compatible server with the name of the model there (`http://HOST/v1#NAME`),
            or what is opened already.
        device: where it runs; by default on a GPU if there is one.
        **how: arguments of `Embedder.from_pretrained`, `SentenceEmbedder` or `ServedEmbedder`, whichever it
            is; those that are None are left out.

    Raises:
        InputError: there is no such model, or an argument that it does not take.
        MissingExtraError: sentence-transformers is needed and not installed.
    """
    from o1_model.embedder import Embedder

    given = {name: value for name, value in how.items() if value is not None}
    if device is not None:
        given["device"] = device
    if not isinstance(model, str | Path):
        if given:
            raise InputError(f"{', '.join(given)}: the model is loaded already; give its folder or hub id")
        return of_checkpoint(model) if isinstance(model, Embedder) else model
    if is_address(model):
        given.pop("device", None)  # the server has its own
        return _made(ServedEmbedder, str(model), given)
    folder = model_folder(model, given.get("revision"))
    if (folder / FILE_NAME).exists() or "layout" in given:
        return of_checkpoint(_made(Embedder.from_pretrained, model, given))
    return _made(SentenceEmbedder, model, given)


def _made(make: Callable[..., Made], name: str | Path, given: Mapping[str, Any]) -> Made:
    try:
        return make(name, **given)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{name}: {str(error).partition(') ')[2]}; leave it out") from error


# --- a checkpoint of this package ---------------------------------------------------------------------


class CheckpointModel:
    """A checkpoint of this package."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.embedder.name

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.embedder.dim

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of the checkpoint, its layout and dtype."""
        made_by = self.embedder.fingerprint()
        layout = msgspec.to_builtins(self.embedder.layout)
        return {"model": self.name, "digest": made_by.digest, "layout": layout, "dtype": made_by.dtype}

    @property
    def mixture(self) -> Mixture | None:
        """How thoughts were mixed into queries when it was trained, if they were."""
        return self.embedder.mixture

    def queries(self, queries: Sequence[Query]) -> Vectors:
        """Return v_q of queries [queries, dim]."""
        return self.embedder.encode_query(queries)

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents [documents, dim]."""
        return self.embedder.encode_document(documents)


class ThinkingCheckpoint(CheckpointModel):
    """A checkpoint whose layout has a place for thoughts."""

    def joint(self, queries: Sequence[Query], thoughts: Sequence[str | Thought]) -> Vectors:
        """Return v_t of each query with its thought [queries, dim]."""
        return self.embedder.encode_query(queries, thoughts=[[thought] for thought in thoughts])


def usual_mixture(model: EmbeddingModel) -> Mixture:
    """Return how thoughts are mixed into queries unless told: as a checkpoint was trained, else as usual."""
    trained = model.mixture if isinstance(model, CheckpointModel) else None
    return trained or Mixture()


def of_checkpoint(embedder: Embedder) -> CheckpointModel:
    """Return a checkpoint as an embedding model; it reads jointly if its layout thinks."""
    return ThinkingCheckpoint(embedder) if embedder.layout.thinks else CheckpointModel(embedder)


# --- sentence-transformers ----------------------------------------------------------------------------


class Prompts(NamedTuple):
    """What stands before texts; None: what the model itself puts there."""

    query: str | None = None
    document: str | None = None

    def before(self, instruction: str, own: str = "") -> str:
        """Return what stands before a query with this instruction; `own` is the model's prompt.

        Warns where the prompt has no place for an instruction, which is then not read.
        """
        prompt = own if self.query is None else self.query
        placed = with_instruction(prompt, instruction)
        if placed is None and instruction:
            warnings.warn(
                f"the prompt {quoted(prompt)} has no place for an instruction, so {quoted(instruction)} is "
                "not read; give a query_prompt with {instruction} in it",
                InputWarning,
                stacklevel=4,
            )
        return prompt if placed is None else placed


class SentenceEmbedder:
    """A sentence-transformers model: safetensors only, no remote code. Needs `[sentence-transformers]`.

    Args:
        model: its folder or hub id.
        revision: of a hub id.
        device: where it runs; by default on a GPU if there is one.
        dtype: of the weights, as a string or PyTorch's; the model's own by default.
        query_prompt: stands before every query, `{instruction}` in it for its instruction; the model's own by
            default.
        document_prompt: stands before every document; the model's own by default.
        max_length: tokens of a text that are read; as many as the model can by default.
        batch: texts at a time.

    Raises:
        InputError: there is no such model.
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        batch: int = 32,
    ) -> None:
        self._folder = model_folder(model, revision)
        try:
            self._loaded: Any = sentence_model(self._folder, device=device, dtype=dtype)
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "o1-model", "sentence-transformers", "A sentence-transformers model"
            ) from error
        if max_length is not None:
            self._loaded.max_seq_length = max_length
        path = Path(model)
        self._name = path.resolve().name if path.is_dir() else str(model)
        self._prompts, self._batch = Prompts(query_prompt, document_prompt), batch

    @property
    def name(self) -> str:
        """Its hub id, or the name of its folder."""
        return self._name

    @cached_property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self._loaded.get_embedding_dimension())

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of its files, its prompts, length and dtype."""
        return {
            "model": self.name,
            "digest": self._digest,
            "prompts": {"query": self._own("query"), "document": self._own("document"), **self._given()},
            "max_length": self._loaded.max_seq_length,
            "dtype": str(next(self._loaded.parameters()).dtype).removeprefix("torch."),
        }

    def queries(self, queries: Sequence[Query]) -> Vectors:
        """Return vectors of queries [queries, dim]."""
        vectors = np.empty((len(queries), self.dim), dtype=np.float32)
        places: dict[str, list[int]] = {}
        for place, query in enumerate(queries):
            places.setdefault(query.instruction, []).append(place)
        for instruction, own in places.items():
            plain = self._prompts.query is None and not instruction
            prompt = None if plain else self._prompts.before(instruction, self._own("query"))
            texts = [queries[place].text for place in own]
            vectors[own] = self._vectors(self._loaded.encode_query, texts, prompt)
        return vectors

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents, of title and text [documents, dim]."""
        texts = [document.full_text for document in documents]
        return self._vectors(self._loaded.encode_document, texts, self._prompts.document)

    def _vectors(self, encode: Any, texts: list[str], prompt: str | None) -> Vectors:
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        vectors = encode(
            texts,
            batch_size=self._batch,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
            **({} if prompt is None else {"prompt": prompt}),
        )
        return np.asarray(vectors, dtype=np.float32)

    def _own(self, role: str) -> str:
        return own_prompt(self._loaded, role)

    def _given(self) -> dict[str, str]:
        return {role: text for role, text in self._prompts._asdict().items() if text is not None}

    @cached_property
    def _digest(self) -> str:
        return model_digest(self._folder)


# --- a server -----------------------------------------------------------------------------------------


class ServedEmbedder:
    """A model behind an OpenAI-compatible server of embeddings; OPENAI_API_KEY is sent if it is set.

    The server decides what is cut, and gets plain texts: what its model wants before them is given here.

    Args:
        model: `http://HOST/v1#NAME`.
        query_prompt: stands before every query, `{instruction}` in it for its instruction.
        document_prompt: stands before every document.
        batch: texts per request.

    Raises:
        InputError: the address has no name of a model; or, when it is asked, the server refuses or cannot be
            reached.
    """

    def __init__(
        self,
        model: str,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        batch: int = 32,
    ) -> None:
        self._address: Address = address(model)
        self._prompts, self._batch = Prompts(query_prompt or "", document_prompt or ""), batch

    @property
    def name(self) -> str:
        """What the server calls the model."""
        return self._address.model

    @cached_property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self._vectors(["o1-model"]).shape[1])

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The server's address and the prompts; what its model is made of is not known here."""
        return {"endpoint": self._address.url, "model": self.name, "prompts": self._prompts._asdict()}

    def queries(self, queries: Sequence[Query]) -> Vectors:
        """Return vectors of queries [queries, dim]."""
        return self._vectors([self._prompts.before(query.instruction) + query.text for query in queries])

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents, of title and text [documents, dim]."""
        prompt = self._prompts.document or ""
        return self._vectors([prompt + document.full_text for document in documents])

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        rows, _ = embeddings(self._address, texts, batch=self._batch)
        return unit_rows(np.array(rows, dtype=np.float32))
