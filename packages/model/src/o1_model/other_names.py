"""The names under which BEIR and FlagEmbedding call a model: `encode_queries` and `encode_corpus`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from o1_model.aggregate import Vectors
from o1_records import Document

# how they cut the work up; here batches follow a budget of tokens
_BATCHING = {"batch_size", "show_progress_bar", "convert_to_numpy"}


class OtherNames:
    """Adds the two names to a class with `encode_query` and `encode_document`.

    They take what those take, and `convert_to_tensor` as BEIR asks for it; `batch_size` is ignored.
    """

    encode_query: Callable[..., Vectors]
    encode_document: Callable[..., Vectors]

    def encode_queries(
        self, queries: str | Sequence[str], *, convert_to_tensor: bool = False, **how: Any
    ) -> Vectors | Tensor:
        """Vectors of queries: numpy, or a torch tensor of the same memory."""
        vectors = self.encode_query(queries, **_without_batching(how))
        return torch.from_numpy(vectors) if convert_to_tensor else vectors

    def encode_corpus(
        self, corpus: str | Sequence[str | Mapping[str, str]], *, convert_to_tensor: bool = False, **how: Any
    ) -> Vectors | Tensor:
        """Vectors of documents: strings, or mappings with text and title, joined by a space."""
        texts = corpus if isinstance(corpus, str) else [_text(each) for each in corpus]
        vectors = self.encode_document(texts, **_without_batching(how))
        return torch.from_numpy(vectors) if convert_to_tensor else vectors


def _without_batching(how: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in how.items() if name not in _BATCHING}


def _text(document: str | Mapping[str, str]) -> str:
    if isinstance(document, str):
        return document
    return Document(doc_id="-", text=document["text"], title=document.get("title", "")).full_text
