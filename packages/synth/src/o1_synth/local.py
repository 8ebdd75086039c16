"""An expert in this process: a small model that transformers runs (`[transformers]`), without a server.

One request at a time, all its samples in one batch, so that equal requests give equal texts on one machine.
For anything larger take vLLM (`o1_synth.engine`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from o1_records import InputError, MissingExtraError
from o1_records.kit.models import cached_folder, loading, model_digest, model_folder
from o1_synth.expert import Answer, ModelExpert, NoThought, Sampling, split_reasoning
from o1_synth.prompt import Message, Prompting

_CONTENT = "\ue000content\ue000"  # stands for the user's text while the chat template is rendered


class LocalExpert(ModelExpert):
    """Asks a causal language model, given as a folder or as an id of the hub.

    A request that is running at the deadline of a run still finishes before the run ends. Raises InputError
    where there is no such model, MissingExtraError without transformers.
    """

    def __init__(
        self,
        model: str,
        *,
        prompt: Prompting | None = None,
        sampling: Sampling | None = None,
        device: str = "cpu",
    ) -> None:
        try:
            import torch  # noqa: F401  transformers can be imported without it, and fails later
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise MissingExtraError("o1-synth", "transformers", "a model in this process") from error

        folder = model_folder(model)
        with loading(model, "a causal language model"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
        self._model = loaded.to(device).eval()
        self._tokens = ChatTokens(str(folder))
        self._one_at_a_time = asyncio.Lock()
        super().__init__(model, model_revision(model), prompt, sampling)

    async def close(self) -> None:
        """Forget the event loop; the next run may have another."""
        self._one_at_a_time = asyncio.Lock()

    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        prompt = self._tokens.encode(messages)
        async with self._one_at_a_time:
            written = await asyncio.to_thread(self._generate, prompt, seed, count)
        return [self._answer(ids, len(prompt)) for ids in written]

    def _generate(self, prompt: list[int], seed: int, count: int) -> list[list[int]]:
        import torch

        torch.manual_seed(seed)
        greedy = self.sampling.temperature == 0
        how = {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p, "top_k": 0}
        inputs = torch.tensor([prompt] * count, device=self._model.device)
        with torch.inference_mode():
            output = self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=self.sampling.max_tokens,
                do_sample=not greedy,
                pad_token_id=self._tokens.tokenizer.pad_token_id or 0,
                **({} if greedy else how),
            )
        return [self._until_end(row) for row in output[:, len(prompt) :].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        """Return the ids up to and including the first end of text; the rest is padding."""
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        place = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return ids[: place + 1]

    def _answer(self, ids: list[int], prompt_tokens: int) -> Answer:
        text, reasoning = split_reasoning(self._tokens.tokenizer.decode(ids, skip_special_tokens=True))
        return Answer(
            text=text,
            reasoning=reasoning,
            finish_reason="length" if len(ids) == self.sampling.max_tokens else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
        )


class ChatTokens:
    """Turns messages into token ids, with the tokenizer and the chat template of a model.

    No text becomes a control token: the parts of the template and the text are tokenised separately.
    `options` go to transformers' AutoTokenizer. Raises InputError where the model has no tokenizer.
    """

    def __init__(self, model: str, **options: Any) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, **options)
        except (OSError, ValueError) as error:
            raise InputError(f"no tokenizer can be loaded from {model!r}: {error}") from error

    def encode(self, messages: list[Message]) -> list[int]:
        """Return the token ids of a prompt of one message."""
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


def model_revision(model: str, revision: str | None = None) -> str:
    """Return which model this is: the digest of a folder, or the commit of a model of the hub, else ""."""
    if Path(model).is_dir():
        return model_digest(model)[:16]
    cached = cached_folder(model, revision)  # a snapshot, which is named by its commit
    return cached.name if cached else ""
