"""How a server serves: its limits, its names and keys, and what it does when a client does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from o1_model.thinking.settings import Thinking

if TYPE_CHECKING:  # imported at run time only where it is used: the command's options need no numpy
    from o1_model.thinking.gate import Gate


@dataclass(frozen=True)
class Serving:
    """Settings of the server. A body beyond `max_body` bytes or `max_inputs` texts is refused (413).

    At most `max_waiting` inputs wait (then 429 with Retry-After); a batch holds `batch_tokens`.
    `default_input_type` is what a text is when the client does not say. Queries think as `think` says unless
    the client says otherwise; the `gate` decides about which. `names` are the model's on this server (by
    default the checkpoint's). With `api_keys`, a client needs one of them. `cors_origins` are the web pages
    that may ask. `token_ids` lets clients send token ids of this checkpoint's tokenizer. At most
    `max_searches` are answered at a time (then 429).
    """

    default_input_type: Literal["query", "document"] = "document"
    batch_tokens: int = 4096
    max_waiting: int = 4096
    max_inputs: int = 2048
    max_body: int = 8 * 1024 * 1024
    think: Thinking | None = None
    gate: Gate | None = None
    names: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    token_ids: bool = False
    max_searches: int = 32
