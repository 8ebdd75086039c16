"""LangChain's embeddings, with queries that think (`[langchain]`)."""

from __future__ import annotations

from o1_model.embedder import Embedder
from o1_model.integrations.adapter import Adapter
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.thinking.settings import Thinking
from o1_records import MissingExtraError

try:
    from langchain_core.embeddings import Embeddings
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-model", "langchain", "A model for LangChain") from error


class ThinkingEmbeddings(Embeddings):
    """A model of this package wherever LangChain takes embeddings: queries think, documents do not.

    The vectors are those of the model's own `encode_query` and `encode_document`. The async methods run them
    in LangChain's threads, one after another.

    Args:
        model: a `ThinkingRetriever`, which thinks as it was set up, or an `Embedder`.
        think: how an `Embedder` thinks about queries; by default it does not.
        with_query: with `think`, average with the vector of the query alone.
        instruction: for every query.

    Raises:
        InputError: settings without effect on this model, a checkpoint that cannot think, a gate, which needs
            hits, or a file of thoughts that was opened without its queries.
    """

    def __init__(
        self,
        model: ThinkingRetriever | Embedder,
        *,
        think: Thinking | None = None,
        with_query: bool = False,
        instruction: str = "",
    ) -> None:
        self._adapter = Adapter(model, think=think, with_query=with_query, instruction=instruction)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        return self._adapter.query(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents."""
        return self._adapter.documents(texts)
