"""Models behind an OpenAI-compatible server: POST /embeddings, as `--model http://HOST/v1#NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from o1_bench.running.encoder import Role, TextEncoder
from o1_bench.running.pipeline import Vectors
from o1_records import InputError
from o1_records.kit.http import address, post


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Embedding]
    model: str = ""


class EndpointEncoder(TextEncoder):
    """A model behind an OpenAI-compatible server, by `http://HOST/v1#NAME`.

    Vectors are scaled to unit length. The server decides what is cut; it is asked again where it is busy.

    Args:
        model: the address of the server, with `#` and the name of the model there.
        batch: texts per request.
        **prompts: name and prompts, as `TextEncoder` takes them.

    Raises:
        InputError: the address has no name of a model, or (when it is asked) the server refuses or cannot be
            reached.
    """

    layout = "openai"

    def __init__(self, model: str, *, batch: int = 32, **prompts: Any) -> None:
        self._url, served = address(model)
        super().__init__(served, **prompts)
        self._batch = batch
        self._served = ""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The address, the model's name, and what the server calls it."""
        if not self._served:
            self._ask(["o1-bench"])
        return {"endpoint": self._url, "model": self.model, "served": self._served, "similarity": "cosine"}

    def _encode(self, texts: Sequence[str], role: Role, prompt: str | None) -> Vectors:
        # servers refuse an empty text
        sent = [self._read(text, role, prompt) or " " for text in texts]
        parts = [self._ask(sent[start : start + self._batch]) for start in range(0, len(sent), self._batch)]
        vectors = np.concatenate(parts)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)

    def _read(self, text: str, role: Role, prompt: str | None) -> str:
        return f"{prompt or ''}{text}"

    def _ask(self, texts: Sequence[str]) -> Vectors:
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        answer = post(f"{self._url}/embeddings", body, _Answer)
        rows = [each.embedding for each in sorted(answer.data, key=lambda each: each.index)]
        if len(rows) != len(texts) or len({len(row) for row in rows}) != 1:
            raise InputError(
                f"{self._url}: {len(rows)} vectors for {len(texts)} texts, or of several lengths"
            )
        vectors = np.array(rows, dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise InputError(f"{self._url}: a vector that is not finite")
        self._served = answer.model or self.model
        return vectors
