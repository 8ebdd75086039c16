"""An Embedder as mteb sees a model: `mteb.evaluate(MtebEncoder(embedder), tasks)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from o1_model.embedder import Embedder
from o1_model.encoding.encode import Vectors
from o1_model.thinking.settings import Thinking
from o1_records import MissingExtraError, Query


class MtebEncoder:
    """mteb's EncoderProtocol (mteb 2): queries go to the query side, all else to the document side.

    With `think` the model thinks about queries first. The `instruct` layout takes the task's prompt
    as its instruction; models with other layouts were not trained with instructions and get none.
    """

    def __init__(
        self, embedder: Embedder, *, think: Thinking | None = None, with_query: bool = False
    ) -> None:
        self.embedder = embedder
        self.think = think
        self.with_query = with_query

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Vectors:
        """Return vectors [texts, dim] of mteb's batches (`{"text": [...], ...}`), in their order."""
        texts = [text for batch in inputs for text in batch["text"]]
        if getattr(prompt_type, "value", prompt_type) == "document":
            return self.embedder.encode_document(texts)
        instruction = _prompt(task_metadata) if self.embedder.layout.name == "instruct" else ""
        queries = [Query(query_id=str(n), text=t, instruction=instruction) for n, t in enumerate(texts)]
        return self.embedder.encode_query(queries, think=self.think, with_query=self.with_query)

    def similarity(self, a: Any, b: Any) -> Tensor:
        """Return the cosine of every pair [a, b]; the vectors have unit length."""
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a: Any, b: Any) -> Tensor:
        """Return the cosine of each row of `a` with the same row of `b`."""
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=-1)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """The name and revision under which mteb files its results: a changed checkpoint is another one."""
        try:
            from mteb.models import ModelMeta
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-model", "mteb", "mteb's results") from error
        thinking = "" if self.think is None else f" {self.think}"
        mean = " with v_q" if self.with_query else ""
        return ModelMeta.create_empty(
            overwrites={
                "name": f"o1-model/{self.embedder.name}",
                "revision": f"{self.embedder.digest}{thinking}{mean}",
                "embed_dim": self.embedder.dim,
                "similarity_fn_name": "cosine",
            }
        )


def _prompt(task_metadata: Any) -> str:
    """Return the instruction of a task for queries."""
    prompt = getattr(task_metadata, "prompt", None) or ""
    return str(prompt.get("query", "")) if isinstance(prompt, Mapping) else str(prompt)
