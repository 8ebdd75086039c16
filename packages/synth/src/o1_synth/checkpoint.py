"""What is read of a model that runs in this process: its chat template, which weights it has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from o1_records import InputError, sha256_file
from o1_synth.prompt import Message

_CONTENT = "\ue000content\ue000"  # stands for the user's text while the chat template is rendered


class ChatTokens:
    """Turns messages into token ids with the tokenizer and the chat template of a model.

    What a text says never becomes a control token of the model: the template's own parts and the
    text are tokenised apart. `options` go to transformers' AutoTokenizer. Raises InputError when
    the model has no tokenizer.
    """

    def __init__(self, model: str, **options: Any) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, **options)
        except (OSError, ValueError) as error:
            raise InputError(f"no tokenizer can be loaded from {model!r}: {error}") from error

    def encode(self, messages: list[Message]) -> list[int]:
        """The token ids of a prompt of one message."""
        (message,) = messages
        if not self.tokenizer.chat_template:
            return self._ids(message["content"], split_special_tokens=True)
        asked = [{"role": message["role"], "content": _CONTENT}]
        rendered = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        before, _, after = rendered.partition(_CONTENT)
        parts = [(before, False), (message["content"], True), (after, False)]
        return [
            token
            for text, plain in parts
            for token in self._ids(text, add_special_tokens=False, split_special_tokens=plain)
        ]

    def _ids(self, text: str, **options: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, **options)["input_ids"]
        return ids


def weights_revision(model: str, revision: str | None = None) -> str:
    """A digest of a folder's weights, or the commit that the hub's `revision` is; "" for neither."""
    if Path(model).is_dir():
        files = sorted(Path(model).glob("*.safetensors"))
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()[:16] if files else ""
    from transformers.utils.hub import cached_file, extract_commit_hash

    return extract_commit_hash(cached_file(model, "config.json", revision=revision), None) or ""
