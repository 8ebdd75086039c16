"""Any model2vec model as a member of the committee, without torch. Needs the extra `static`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import MissingExtraError
from o1_vote.cosine import CosineMember
from o1_vote.hub import explained, folder_of
from o1_vote.rerun import digest_of
from o1_vote.retriever import Documents
from o1_vote.vector_cache import VectorCache


class Model2VecMember(CosineMember):
    """Compare texts and documents by the cosine of a model2vec model's mean token vectors.

    `model` is a folder or a hub id; weights are read from safetensors. Texts beyond `max_length` tokens
    (the model's own limit by default) are cut there. A text without a known token has similarity 0.
    Raises InputError when the model cannot be found or loaded.
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
        static_model = _imported()
        folder = folder_of(str(model), revision)
        with explained(str(model), "a model2vec model"):
            _check_tokenizer(folder / "tokenizer.json")
            loaded = static_model.from_pretrained(folder)
        options = {} if max_length is None else {"max_length": max_length}

        def encode(texts: list[str]) -> NDArray[np.float32]:
            return np.asarray(loaded.encode(texts, **options), dtype=np.float32)

        version = importlib.metadata.version("model2vec")
        fingerprint = f"m2v {version} {digest_of([folder])} {max_length}"
        super().__init__(name or str(model), encode, documents, cache=cache, fingerprint=fingerprint)


def _check_tokenizer(path: Path) -> None:
    """Raise ValueError where tokenizers would raise a bare Exception."""
    if "model" not in msgspec.json.decode(path.read_bytes(), type=dict[str, Any]):
        raise ValueError(f"{path} has no model")


def _imported() -> Any:
    try:
        from model2vec import StaticModel
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-vote", "static", "A model2vec member") from error
    return StaticModel
