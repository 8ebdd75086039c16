"""LlamaIndex' embedding model, with queries that think (`[llamaindex]`)."""

from __future__ import annotations

import asyncio
from typing import Any

from o1_model.embedder import Embedder
from o1_model.integrations.adapter import Adapter
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.thinking.settings import Thinking
from o1_records import InputError, MissingExtraError

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.embeddings import BaseEmbedding
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-model", "llamaindex", "A model for LlamaIndex") from error


class ThinkingEmbedding(BaseEmbedding):
    """A model of this package wherever LlamaIndex takes an embedding model: queries think, documents do not.

    The vectors are those of the model's own `encode_query` and `encode_document`. The async methods run them
    in other threads, one after another. Caches of an ingestion pipeline are told what the vectors depend on,
    by `digest`.

    Args:
        model: a `ThinkingRetriever`, which thinks as it was set up, or an `Embedder`.
        think: how an `Embedder` thinks about queries; by default it does not.
        with_query: with `think`, average with the vector of the query alone.
        instruction: for every query.
        **fields: those of LlamaIndex' `BaseEmbedding`, such as `embed_batch_size`.

    Raises:
        InputError: settings without effect on this model, a checkpoint that cannot think, a gate, which needs
            hits, a file of thoughts that was opened without its queries, or an `embeddings_cache`: it files
            a vector under its text alone, so that a query would get the vector of a document.
    """

    digest: str = Field(default="", description="What the vectors depend on.")
    _adapter: Adapter = PrivateAttr()

    def __init__(
        self,
        model: ThinkingRetriever | Embedder,
        *,
        think: Thinking | None = None,
        with_query: bool = False,
        instruction: str = "",
        **fields: Any,
    ) -> None:
        if fields.get("embeddings_cache") is not None:
            raise InputError(
                "embeddings_cache files a vector under its text alone, so that a query would get the vector "
                "of a document with the same text; leave it out"
            )
        adapter = Adapter(model, think=think, with_query=with_query, instruction=instruction)
        super().__init__(**{"model_name": adapter.name, **fields, "digest": adapter.digest})
        self._adapter = adapter

    @classmethod
    def class_name(cls) -> str:
        """Return what LlamaIndex calls this class."""
        return "ThinkingEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._adapter.query(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._adapter.documents([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._adapter.documents(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
