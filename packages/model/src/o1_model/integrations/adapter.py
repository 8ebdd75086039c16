"""What the classes for LangChain and LlamaIndex have in common: queries think, documents do not."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from o1_model.embedder import Embedder, as_queries
from o1_model.retriever.embedders import of_checkpoint
from o1_model.retriever.identity import digest_of
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.retriever.thinkers import GivenThoughts
from o1_model.thinking.settings import Thinking
from o1_records import InputError


class Adapter:
    """A model for callers who have texts only, and say which of them are queries.

    It may be called from several threads; the model answers one call after another.

    Args:
        model: a retriever, which thinks as it was set up, or a checkpoint.
        think: how a checkpoint thinks about queries; by default it does not.
        with_query: with `think`, average with v_q.
        instruction: for every query.

    Raises:
        InputError: settings without effect on this model, a checkpoint without a place for thoughts, or a
            retriever that texts alone do not suffice for.
    """

    def __init__(
        self,
        model: ThinkingRetriever | Embedder,
        *,
        think: Thinking | None = None,
        with_query: bool = False,
        instruction: str = "",
    ) -> None:
        if isinstance(model, ThinkingRetriever):
            if think is not None or with_query:
                raise InputError(
                    "think and with_query are for a checkpoint; a ThinkingRetriever has its own thinking and "
                    "mixture, leave them out"
                )
            model.refuse_gate()
            if isinstance(model.thinker, GivenThoughts) and not model.thinker.by_text:
                raise InputError(
                    f"{model.thinker.name}: its thoughts are found by query_id, and here queries are texts; "
                    "open it with what was asked, open_thinker(FILE, queries=QUERIES)"
                )
        elif not isinstance(model, Embedder):
            raise InputError(
                f"a {type(model).__name__} is no model; give a ThinkingRetriever(...) or an "
                "Embedder.from_pretrained(...)"
            )
        elif think is not None and not model.layout.thinks:
            raise InputError(f"{model.name}: its layout {model.layout.name!r} has no place for a thought")
        elif with_query and think is None:
            raise InputError("with_query has no effect without think; leave it out")
        self.model, self._think, self._with_query = model, think, with_query
        self._instruction, self._turn = instruction, Lock()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def digest(self) -> str:
        """What the vectors depend on; the same for two checkpoints that were never saved."""
        if isinstance(self.model, ThinkingRetriever):
            made = dict(self.model.fingerprint)
        else:
            thinking = None if self._think is None else dict(vars(self._think))
            made = {
                **of_checkpoint(self.model).fingerprint,
                "thinking": thinking,
                "with_query": self._with_query,
            }
        return digest_of({**made, "instruction": self._instruction})

    def query(self, text: str) -> list[float]:
        """Return the vector of a query, of unit length, with its thoughts if the model thinks."""
        asked = as_queries(text, self._instruction)
        with self._turn:
            if isinstance(self.model, ThinkingRetriever):
                vectors = self.model.encode_query(asked)
            else:
                vectors = self.model.encode_query(asked, think=self._think, with_query=self._with_query)
        numbers: list[float] = vectors[0].tolist()
        return numbers

    def documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of documents, of unit length and in their order."""
        with self._turn:
            numbers: list[list[float]] = self.model.encode_document(list(texts)).tolist()
        return numbers
