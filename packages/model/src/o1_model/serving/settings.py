"""The limits of the server: the one place of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Serving:
    """Limits of the server. A body beyond `max_body` bytes or `max_inputs` texts is refused (413).

    At most `max_waiting` inputs wait (then 429 with Retry-After); a batch holds `batch_tokens`.
    `default_input_type` is what a text is when the client does not say.
    """

    default_input_type: Literal["query", "document"] = "document"
    batch_tokens: int = 4096
    max_waiting: int = 4096
    max_inputs: int = 2048
    max_body: int = 8 * 1024 * 1024
