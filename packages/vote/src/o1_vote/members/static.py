"""Static word embeddings as members, without torch: wordllama and model2vec. Needs the extra `static`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import MissingExtraError
from o1_records.kit.models import loading, model_digest, model_folder
from o1_vote.members.batches import by_length
from o1_vote.members.cosine import CosineMember
from o1_vote.members.protocol import Documents
from o1_vote.members.vector_cache import VectorCache

DIM = 256
_BATCH_CHARACTERS = 65_536


class StaticMember(CosineMember):
    """Compare texts and documents by the cosine of wordllama's mean word vectors (256 dimensions).

    The weights come with the package: nothing is downloaded and nothing is written. A text without a known
    token has similarity 0.
    """

    def __init__(
        self, documents: Documents, *, name: str = "wordllama", cache: VectorCache | None = None
    ) -> None:
        model = _load_wordllama()

        def encode(texts: list[str]) -> NDArray[np.float32]:
            vectors = np.zeros((len(texts), DIM), dtype=np.float32)
            for places in by_length([len(text) for text in texts], _BATCH_CHARACTERS):
                vectors[places] = model.embed([texts[place] for place in places])
            return vectors

        fingerprint = f"wordllama {importlib.metadata.version('wordllama')} {DIM}"
        super().__init__(name, encode, documents, cache=cache, fingerprint=fingerprint)


class Model2VecMember(CosineMember):
    """Compare texts and documents by the cosine of a model2vec model's mean token vectors.

    A text without a known token has similarity 0.

    Args:
        model: a folder or a hub id; weights are read from safetensors.
        documents: the corpus.
        name: the name on its ballots; the model's by default.
        cache: where vectors are kept; a temporary file by default.
        max_length: texts are cut after so many tokens; the model's own limit by default.
        revision: of a hub id.

    Raises:
        InputError: the model cannot be found or loaded.
        MissingExtraError: model2vec is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        documents: Documents,
        *,
        name: str = "",
        cache: VectorCache | None = None,
        max_length: int | None = None,
        revision: str | None = None,
    ) -> None:
        try:
            from model2vec import StaticModel
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-vote", "static", "A model2vec member") from error
        folder = model_folder(model, revision)
        with loading(model, "a model2vec model"):
            tokenizer = folder / "tokenizer.json"
            # of a tokenizer without a model, tokenizers would raise a bare Exception
            if "model" not in msgspec.json.decode(tokenizer.read_bytes(), type=dict[str, Any]):
                raise ValueError(f"{tokenizer} has no model")
            loaded = StaticModel.from_pretrained(folder)
        options: dict[str, Any] = {} if max_length is None else {"max_length": max_length}

        def encode(texts: list[str]) -> NDArray[np.float32]:
            return np.asarray(loaded.encode(texts, **options), dtype=np.float32)

        version = importlib.metadata.version("model2vec")
        fingerprint = f"m2v {version} {model_digest(folder)} {max_length}"
        super().__init__(name or str(model), encode, documents, cache=cache, fingerprint=fingerprint)


def _load_wordllama() -> Any:
    try:
        with _root_logger_kept():
            import wordllama
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-vote", "static", "The static member") from error
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(dim=DIM, cache_dir=folder, disable_download=True)


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    # wordllama configures the root logger when it is imported
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
