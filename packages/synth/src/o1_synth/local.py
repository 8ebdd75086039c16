"""An expert in this process: a small model that transformers runs (`[transformers]`), without a server.

One request at a time, all its samples in one batch, so that equal requests give equal texts on one machine.
For anything larger take vLLM (`o1_synth.engine`).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from o1_records import InputError, MissingExtraError
from o1_records.kit.chat import ChatTokens, until
from o1_records.kit.models import cached_folder, loading, model_digest, model_folder
from o1_synth.answer import Answer, split_reasoning
from o1_synth.expert import ModelExpert, NoThought, Sampling
from o1_synth.prompt import Prompting
from o1_synth.template import Message


class LocalExpert(ModelExpert):
    """Asks a causal language model, given as a folder or as an id of the hub.

    `chat_template_kwargs` go to its chat template. Answers begin with the prefix of the template. A request
    that is running at the deadline of a run still finishes before the run ends. Raises InputError where there
    is no such model, MissingExtraError without transformers.
    """

    def __init__(
        self,
        model: str,
        *,
        prompt: Prompting | None = None,
        sampling: Sampling | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
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
        self._tokenizer = load_tokenizer(str(folder))
        self._chat = ChatTokens(self._tokenizer, name=repr(model), settings=chat_template_kwargs)
        self._one_at_a_time = asyncio.Lock()
        shape = {"chat_template_kwargs": chat_template_kwargs} if chat_template_kwargs else {}
        super().__init__(model, model_revision(model), prompt, sampling, request=shape, continues=True)

    async def close(self) -> None:
        """Forget the event loop; the next run may have another."""
        self._one_at_a_time = asyncio.Lock()

    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        prompt = self._chat.encode(messages, self.prefix)
        async with self._one_at_a_time:
            written = await asyncio.to_thread(self._generate, prompt, seed, count)
        return [self._answer(ids, len(prompt)) for ids in written]

    def _generate(self, prompt: list[int], seed: int, count: int) -> list[list[int]]:
        import torch
        from transformers import StoppingCriteriaList

        def stopped(ids: Any, scores: object, **_: object) -> Any:
            """Return which rows end in a stop; transformers' own `stop_strings` refuse some tokenizers."""
            last = 8 + max(map(len, self.stop))  # a token may be a part of a character
            tails = (self._decoded(row[-last:]) for row in ids[:, len(prompt) :].tolist())
            return torch.tensor([until(tail, self.stop) != tail for tail in tails], device=ids.device)

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
                stopping_criteria=StoppingCriteriaList([stopped] if self.stop else []),
                pad_token_id=self._tokenizer.pad_token_id or 0,
                **({} if greedy else how),
            )
        return [self._until_end(row) for row in output[:, len(prompt) :].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        """Return the ids up to and including the first end of text; the rest is padding."""
        place = next((place for place, token in enumerate(ids) if self._ended(token)), len(ids))
        return ids[: place + 1]

    def _ended(self, token: int) -> bool:
        ends = self._model.generation_config.eos_token_id
        return token == ends if isinstance(ends, int) else token in (ends or ())

    def _answer(self, ids: list[int], prompt_tokens: int) -> Answer:
        def stopped(count: int) -> bool:
            return until(self._decoded(ids[:count]), self.stop) != self._decoded(ids[:count])

        whole = len(ids) < self.sampling.max_tokens or stopped(len(ids))
        if stopped(len(ids)):  # what follows is padding, until the last of the samples has ended
            ids = ids[: bisect_left(range(len(ids)), True, key=stopped)]
        text, reasoning = split_reasoning(until(self._decoded(ids), self.stop))
        return Answer(
            text=text,
            reasoning=reasoning,
            finish_reason="stop" if whole or self._ended(ids[-1]) else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
        )

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def load_tokenizer(model: str, **options: Any) -> Any:
    """Return transformers' tokenizer of a model; `options` go to AutoTokenizer. InputError without one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer can be loaded from {model!r}: {error}") from error


def model_revision(model: str, revision: str | None = None) -> str:
    """Return which model this is: the digest of a folder, or the commit of a model of the hub, else ""."""
    if Path(model).is_dir():
        return model_digest(model)[:16]
    cached = cached_folder(model, revision)  # a snapshot, which is named by its commit
    return cached.name if cached else ""
