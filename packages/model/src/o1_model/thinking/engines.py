"""Other engines that write the thoughts: vLLM in this process, or an OpenAI-compatible server.

They get the prompt as token ids and return token ids, so that nothing is tokenised twice; the vectors
are read out here. Causal backbones only: vLLM runs BERT as an encoder.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from o1_model.backbone import DECODERS_OF_ENCODERS
from o1_model.layout import load_layout
from o1_model.thinking.decode import stream_number
from o1_model.thinking.settings import Thinking
from o1_records import InputError, MissingExtraError, quoted
from o1_records.kit.http import headers

BAN = -100.0  # the logit bias that means never, to vLLM and to OpenAI


@dataclass(frozen=True)
class Written:
    """One thought as an engine wrote it: token ids without EOS, and whether EOS ended it."""

    token_ids: tuple[int, ...]
    finished: bool


class Engine(Protocol):
    """Whatever continues prompts."""

    @property
    def name(self) -> str:
        """What the thoughts depend on besides checkpoint and sampling; part of the cache's key."""

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        thinking: Thinking,
        *,
        eos: int,
        banned: Sequence[int],
    ) -> list[list[Written]]:
        """Return `thinking.samples` thoughts a prompt, in order: no banned id, at least one token each."""


class VLLM:
    """vLLM in this process, on a checkpoint of this package; `options` go to `vllm.LLM`.

    The model is loaded when the first thought is asked for. Raises InputError for a backbone or an
    attention that vLLM would run differently.
    """

    def __init__(self, folder: str | Path, **options: Any) -> None:
        refuse_not_causal(folder)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            import vllm
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-model", "vllm", "thinking with vLLM") from error
        self.name = f"vllm {vllm.__version__} {sorted(options.items())}"
        self._folder, self._options = folder, options

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        thinking: Thinking,
        *,
        eos: int,
        banned: Sequence[int],
    ) -> list[list[Written]]:
        """Send one request a sample; vLLM's prefix cache shares the prompt between them."""
        from vllm import SamplingParams

        def params(prompt: Sequence[int], sample: int) -> Any:
            return SamplingParams(
                temperature=thinking.temperature,
                top_p=thinking.top_p,
                max_tokens=thinking.max_tokens,
                min_tokens=1,
                seed=seed_of(thinking, prompt, sample),
                ignore_eos=True,  # the layout's EOS ends a thought, whatever the model's config says
                stop_token_ids=[eos],
                logit_bias=dict.fromkeys(banned, BAN),
                detokenize=False,
            )

        asked = _asked(prompts, thinking.samples)
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt, _ in asked],
            [params(prompt, sample) for prompt, sample in asked],
            use_tqdm=False,
        )
        return _grouped([_written(output.outputs[0].token_ids, eos) for output in outputs], thinking.samples)

    @cached_property
    def _llm(self) -> Any:
        from vllm import LLM

        # its files for sentence-transformers would make vLLM take it for a pooling model
        return LLM(model=str(self._folder), runner="generate", enable_prefix_caching=True, **self._options)


class CompletionServer:
    """An OpenAI-compatible server that has this checkpoint loaded and returns token ids, as vLLM's does.

    Uses `/completions` with token-id prompts and `return_token_ids`; OPENAI_API_KEY is sent if it is set.
    Where a server knows another model or only text, let `o1-synth think` write the thoughts and pass them as
    `thoughts=`.
    """

    def __init__(self, base_url: str, model: str, *, concurrency: int = 32, timeout: float = 300.0) -> None:
        self.name = f"server {model}"
        self._url = f"{base_url.rstrip('/')}/completions"
        self._model, self._concurrency, self._timeout = model, concurrency, timeout

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        thinking: Thinking,
        *,
        eos: int,
        banned: Sequence[int],
    ) -> list[list[Written]]:
        """Send one request a sample. Raises InputError when the server refuses or returns no token ids."""

        def ask(prompt: Sequence[int], sample: int) -> Written:
            body = {
                "model": self._model,
                "prompt": list(prompt),
                "temperature": thinking.temperature,
                "top_p": thinking.top_p,
                "max_tokens": thinking.max_tokens,
                "min_tokens": 1,
                "seed": seed_of(thinking, prompt, sample),
                "ignore_eos": True,
                "stop_token_ids": [eos],
                "logit_bias": {str(token): BAN for token in banned},
                "return_token_ids": True,
            }
            return _written(self._answer(body), eos)

        asked = _asked(prompts, thinking.samples)
        with ThreadPoolExecutor(self._concurrency) as pool:
            return _grouped(list(pool.map(lambda each: ask(*each), asked)), thinking.samples)

    def _answer(self, body: dict[str, Any]) -> list[int]:
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers())
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                choice = json.load(response)["choices"][0]
        except urllib.error.HTTPError as error:
            raise InputError(f"{self._url}: {error.code} {quoted(error.read(300))}") from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{self._url}: {error!r}; is this the address of an OpenAI-compatible server?"
            ) from error
        token_ids = choice.get("token_ids")
        if not isinstance(token_ids, list):
            raise InputError(
                f"{self._url}: the server returns no token_ids; let `o1-synth think` write the thoughts "
                "and pass them as thoughts="
            )
        return token_ids


def refuse_not_causal(folder: str | Path) -> None:
    """Raise InputError for a checkpoint that vLLM would run differently."""
    kind = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind in DECODERS_OF_ENCODERS:
        raise InputError(
            f"{folder}: vLLM ignores is_decoder and runs {kind!r} as an encoder; think without vLLM"
        )
    if load_layout(folder).attention != "causal":
        raise InputError(
            f"{folder}: vLLM reads prompts causally, this layout in both directions; think without vLLM"
        )


def seed_of(thinking: Thinking, prompt: Sequence[int], sample: int) -> int:
    """Return the seed of one request (below 2 ** 31), which depends on the prompt and the sample alone."""
    return stream_number(thinking.seed, prompt, sample) >> 32


def _asked(prompts: Sequence[Sequence[int]], samples: int) -> list[tuple[Sequence[int], int]]:
    """Return prompt and sample of every request; the samples of a prompt are consecutive."""
    return [(prompt, sample) for prompt in prompts for sample in range(samples)]


def _written(token_ids: Sequence[int], eos: int) -> Written:
    finished = len(token_ids) > 0 and token_ids[-1] == eos
    return Written(tuple(token_ids[:-1] if finished else token_ids), finished)


def _grouped(written: Sequence[Written], samples: int) -> list[list[Written]]:
    return [list(written[start : start + samples]) for start in range(0, len(written), samples)]
