"""The names under which BEIR and FlagEmbedding call a model: `encode_queries` and `encode_corpus`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from o1_model.aggregate import Vectors
from o1_records import Document, InputError

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
        self,
        corpus: str | Sequence[str | Mapping[str, str]] | Mapping[str, Sequence[str]],
        *,
        convert_to_tensor: bool = False,
        **how: Any,
    ) -> Vectors | Tensor:
        """Vectors of documents: strings, or mappings with text and title, joined by a space.

        BEIR also gives one mapping with a list of texts and one of titles.
        """
        texts = corpus if isinstance(corpus, str) else [_text(each) for each in _documents(corpus)]
        vectors = self.encode_document(texts, **_without_batching(how))
        return torch.from_numpy(vectors) if convert_to_tensor else vectors


def _without_batching(how: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in how.items() if name not in _BATCHING}


def _documents(corpus: Any) -> Any:
    if not isinstance(corpus, Mapping):
        return corpus
    if any(isinstance(column, str) for column in corpus.values()):
        raise InputError("one document is no corpus; give a list of documents, or lists of texts and titles")
    return [dict(zip(corpus, row, strict=True)) for row in zip(*corpus.values(), strict=True)]


def _text(document: str | Mapping[str, str]) -> str:
    if isinstance(document, str):
        return document
    if "text" not in document:
        raise InputError(f"a document has {', '.join(document) or 'nothing'}, but no text")
    return Document(doc_id="-", text=document["text"], title=document.get("title", "")).full_text
