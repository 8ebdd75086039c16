"""Models behind an OpenAI-compatible server: POST /embeddings, as `--model http://HOST/v1#NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from o1_bench.running.encoder import Role, TextEncoder
from o1_bench.running.pipeline import Vectors
from o1_records.kit.http import Address, address, embeddings
from o1_records.mixture import unit_rows


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
            self._encode(["o1-bench"], "query", None)
        return {"endpoint": self._url, "model": self.model, "served": self._served, "similarity": "cosine"}

    def _encode(self, texts: Sequence[str], role: Role, prompt: str | None) -> Vectors:
        sent = [self._read(text, role, prompt) for text in texts]
        rows, self._served = embeddings(Address(self._url, self.model), sent, batch=self._batch)
        return unit_rows(np.array(rows, dtype=np.float32))

    def _read(self, text: str, role: Role, prompt: str | None) -> str:
        return f"{prompt or ''}{text}"
