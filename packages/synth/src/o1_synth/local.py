"""An expert in this process: a small model run by transformers (`[transformers]`), no server.

One request at a time, all its samples in one batch, so that equal requests give equal texts on one
machine. For more than a small model start a server.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from o1_records import InputError, MissingExtraError, Query, Source, sha256_file
from o1_synth.chat import Prompting, Sampling
from o1_synth.expert import NoThought, Reason, Reply, sample_seed
from o1_synth.prompt import Prompt
from o1_synth.wire import separated

_CONTENT = "\ue000content\ue000"  # stands for the user's text while the chat template is rendered


class LocalExpert:
    """Asks a causal model of a folder or of the hub.

    What a text says never becomes a control token of the model: the template's own parts and the
    text are tokenised apart. A request that runs when the time is over still ends before the run
    does. Raises InputError when there is no such model, MissingExtraError without transformers.
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
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("o1-synth", "transformers", "a model in this process") from error

        self.prompt, self.sampling = prompt or Prompt(), sampling or Sampling()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise InputError(f"no causal model can be loaded from {model!r}: {error}") from error
        self._model = loaded.to(device).eval()
        self._one_at_a_time = asyncio.Lock()
        self._source = Source(
            model=model,
            revision=_revision(model, self._model),
            prompt_digest=self.prompt.digest,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_tokens,
            seed=self.sampling.seed,
        )

    @property
    def source(self) -> Source:
        """The model and a digest of its weights, prompt and sampling."""
        return self._source

    async def think(self, query: Query, sample: int, draw: int = 0) -> Reply:
        """Write one thought; raises NoThought(EMPTY) when the model writes nothing."""
        (reply,) = await self.think_together(query, (sample,), draw)
        if isinstance(reply, NoThought):
            raise reply
        return reply

    async def think_together(
        self, query: Query, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Write several thoughts in one batch, whose seed is that of the first sample."""
        seed = sample_seed(self.sampling.seed, query.query_id, samples[0], draw)
        prompt = self.encode(query)
        async with self._one_at_a_time:
            written = await asyncio.to_thread(self._generate, prompt, seed, len(samples))
        return [self._reply(ids, seed, len(prompt)) for ids in written]

    async def close(self) -> None:
        """Nothing is open; the next run may have another event loop."""
        self._one_at_a_time = asyncio.Lock()

    def encode(self, query: Query) -> list[int]:
        """The token ids of the prompt."""
        tokenizer = self._tokenizer
        (message,) = self.prompt.messages(query)
        if not tokenizer.chat_template:
            ids: list[int] = tokenizer(message["content"], split_special_tokens=True)["input_ids"]
            return ids
        asked = [{"role": message["role"], "content": _CONTENT}]
        rendered = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        before, _, after = rendered.partition(_CONTENT)
        parts = [(before, False), (message["content"], True), (after, False)]
        return [
            token
            for text, plain in parts
            for token in tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]
        ]

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
                pad_token_id=self._tokenizer.pad_token_id or 0,
                **(how if draws else {}),
            )
        return [self._until_end(row) for row in output[:, len(prompt) :].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        """The ids up to the first end, and that; beyond it stands padding."""
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        place = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return ids[: place + 1]

    def _reply(self, ids: list[int], seed: int, prompt_tokens: int) -> Reply | NoThought:
        finish = "length" if len(ids) == self.sampling.max_tokens else "stop"
        text, _ = separated(self._tokenizer.decode(ids, skip_special_tokens=True))
        if not text:
            return NoThought(Reason.EMPTY, f"finish_reason {finish!r}")
        source = msgspec.structs.replace(
            self._source,
            seed=seed,
            finish_reason=finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
        )
        return Reply(text=text, source=source)


def _revision(name: str, model: Any) -> str:
    """A digest of a folder's weights, else the hub's commit."""
    files = sorted(Path(name).glob("*.safetensors"))
    if files:
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()[:16]
    return str(getattr(model.config, "_commit_hash", None) or "")
