"""The expert behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a hosted one.

One request for each (query, sample), with its own seed, or one for several samples of a query. What may
succeed at another attempt is tried again after growing pauses; what cannot becomes a NoThought with a reason.
Answers are streamed, so that a server that stops in the middle is noticed by its missing tokens.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

import msgspec

from o1_records import InputError
from o1_synth.chat.http import KEY_NAMES, Poster, Retry, TryAgain, model_root
from o1_synth.chat.throttle import Throttle
from o1_synth.expert import Answer, ModelExpert, NoThought, Reason, Sampling
from o1_synth.prompt import Message, Prompting

_LONGEST_PAUSE = 60.0
_BYTES_PER_TOKEN = 4  # to charge a prompt before the server has counted its tokens


class ChatExpert(ModelExpert):
    """Asks a model for thoughts. The constructor asks the server which models it serves.

    Args:
        base_url: the part of the address before `/chat/completions`; it mostly ends in `/v1`.
        model: the name of a model that the server lists. If the server says what is behind that name
            (`root` of vLLM), this is the revision of the source.
        prompt: builds the messages; default `Prompt()`.
        sampling: how the model samples.
        retry: timeouts and attempts.
        throttle: bounds on requests and tokens.
        stream: ask for a stream of tokens; False for servers that cannot.
        api_key: default: the environment variable O1_API_KEY, else OPENAI_API_KEY. It is never stored.

    Raises InputError where the server does not answer or does not serve the model.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        prompt: Prompting | None = None,
        sampling: Sampling | None = None,
        retry: Retry | None = None,
        throttle: Throttle | None = None,
        stream: bool = True,
        api_key: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.retry = retry or Retry()
        self.throttle = throttle or Throttle()
        self.stream = stream
        headers = _headers(api_key)
        self._poster = Poster(self.base_url, model, headers, self.retry)
        super().__init__(model, model_root(self.base_url, model, headers), prompt, sampling)

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        body = msgspec.json.encode(self._request(messages, seed, count))
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            try:
                return [*await self._attempt(body, count)]
            except TryAgain as again:
                patient = again.slow_down and time.monotonic() - began < self.retry.patience
                if attempt >= self.retry.attempts and not patient:
                    detail = f"{again.detail} (attempt {attempt} of {attempt})"
                    raise NoThought(again.reason, detail) from again
                await asyncio.sleep(self._pause(attempt, again.wait))

    def _request(self, messages: list[Message], seed: int, count: int) -> dict[str, Any]:
        request = {
            "model": self._source.model,
            "messages": messages,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_tokens,
            "seed": seed,
        }
        if count > 1:
            request["n"] = count
        if self.stream:
            request.update(stream=True, stream_options={"include_usage": True})
        return request

    async def _attempt(self, body: bytes, count: int) -> list[Answer]:
        """Return the answers of one request, in its turn; raises unless it is a 200 with `count` choices."""
        charged = len(body) // _BYTES_PER_TOKEN + count * self.sampling.max_tokens
        async with self.throttle.turn(charged) as began:
            try:
                answers = await self._poster.post(body)
            except TryAgain as again:
                if again.slow_down:
                    self.throttle.refused(began, min(again.wait, _LONGEST_PAUSE))
                raise
        spent = answers[0].prompt_tokens + sum(answer.completion_tokens for answer in answers)
        self.throttle.answered(charged, spent or charged)
        if len(answers) < count:
            raise NoThought(
                Reason.MALFORMED,
                f"{len(answers)} choices for n = {count}; the server ignores n, leave out --n-per-request",
            )
        return answers[:count]

    def _pause(self, attempt: int, wait: float) -> float:
        """Return the seconds before the next attempt: doubling, with jitter, and never less than `wait`."""
        grown = self.retry.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return float(min(max(grown, wait), _LONGEST_PAUSE))


def _headers(api_key: str | None) -> dict[str, str]:
    given = (api_key, *(os.environ.get(name) for name in KEY_NAMES))
    key = next((key.strip() for key in given if key and key.strip()), "")
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"the key in {' or '.join(KEY_NAMES)} has characters that an HTTP header cannot contain"
        )
    return {"authorization": f"Bearer {key}"} if key else {}
