"""Static word embeddings (wordllama, 256 dimensions) as a member. Needs the extra `static`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o1_records import MissingExtraError
from o1_vote.batches import by_length
from o1_vote.cosine import CosineMember
from o1_vote.retriever import Documents
from o1_vote.vector_cache import VectorCache

DIM = 256
_BATCH_CHARACTERS = 65_536


class StaticMember(CosineMember):
    """Compare texts and documents by the cosine of their mean word vectors.

    The model comes with the package: nothing is downloaded and nothing is written. A text without
    a known token has similarity 0.
    """

    def __init__(
        self, documents: Documents, *, name: str = "wordllama", cache: VectorCache | None = None
    ) -> None:
        model = _load()

        def encode(texts: list[str]) -> NDArray[np.float32]:
            vectors = np.zeros((len(texts), DIM), dtype=np.float32)
            for places in by_length([len(text) for text in texts], _BATCH_CHARACTERS):
                vectors[places] = model.embed([texts[place] for place in places])
            return vectors

        fingerprint = f"wordllama {importlib.metadata.version('wordllama')} {DIM}"
        super().__init__(name, encode, documents, cache=cache, fingerprint=fingerprint)


def _load() -> Any:
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
