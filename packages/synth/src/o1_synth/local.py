"""An expert in this process: a small model run by transformers (`[transformers]`), no server.

One request at a time, all its samples in one batch, so that equal requests give equal texts on one
machine. For more than a small model take vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from o1_records import InputError, MissingExtraError, Query
from o1_synth.asking import ModelExpert, Prompting, Sampling
from o1_synth.checkpoint import ChatTokens, weights_revision
from o1_synth.expert import NoThought, Reply, sample_seed
from o1_synth.wire import Answer, separated


class LocalExpert(ModelExpert):
    """Asks a causal model of a folder or of the hub.

    A request that runs when the time is over still ends before the run does. Raises InputError
    when there is no such model, MissingExtraError without transformers.
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
            import torch  # noqa: F401  transformers imports without it and fails later
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise MissingExtraError("o1-synth", "transformers", "a model in this process") from error

        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise InputError(f"no causal model can be loaded from {model!r}: {error}") from error
        self._model = loaded.to(device).eval()
        self._tokens = ChatTokens(model)
        self._one_at_a_time = asyncio.Lock()
        super().__init__(model, weights_revision(model), prompt, sampling)

    async def think_together(
        self, query: Query, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Write several thoughts in one batch, whose seed is that of the first sample."""
        seed = sample_seed(self.sampling.seed, query.query_id, samples[0], draw)
        prompt = self._tokens.encode(self.prompt.messages(query))
        async with self._one_at_a_time:
            written = await asyncio.to_thread(self._generate, prompt, seed, len(samples))
        return [self._reply(self._answer(ids, len(prompt)), seed) for ids in written]

    async def close(self) -> None:
        """Nothing is open; the next run may have another event loop."""
        self._one_at_a_time = asyncio.Lock()

    def _generate(self, prompt: list[int], seed: int, count: int) -> list[list[int]]:
        import torch

        torch.manual_seed(seed)
        draws = self.sampling.temperature > 0
        how = {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p, "top_k": 0}
        inputs = torch.tensor([prompt] * count, device=self._model.device)
        with torch.inference_mode():
            output = self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=self.sampling.max_tokens,
                do_sample=draws,
                pad_token_id=self._tokens.tokenizer.pad_token_id or 0,
                **(how if draws else {}),
            )
        return [self._until_end(row) for row in output[:, len(prompt) :].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        """The ids up to the first end, and that; beyond it stands padding."""
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        place = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return ids[: place + 1]

    def _answer(self, ids: list[int], prompt_tokens: int) -> Answer:
        text, reasoning = separated(self._tokens.tokenizer.decode(ids, skip_special_tokens=True))
        return Answer(
            text=text,
            reasoning=reasoning,
            finish_reason="length" if len(ids) == self.sampling.max_tokens else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
        )
