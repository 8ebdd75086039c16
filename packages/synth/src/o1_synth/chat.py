"""An expert behind any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted one.

One request per (query, sample), with a seed of its own, or one for several samples of a query. What
is worth another attempt is tried again with growing pauses; what is not becomes a typed NoThought.
Answers are streamed, so that a server that stops in the middle is noticed by its tokens.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from o1_records import InputError, Query
from o1_synth.asking import ModelExpert, Prompting, Sampling
from o1_synth.expert import NoThought, Reason, Reply, sample_seed
from o1_synth.post import Poster, Retry, TryAgain
from o1_synth.throttle import Throttle
from o1_synth.wire import KEY_NAMES, Answer, model_root

_LONGEST_PAUSE = 60.0
_BYTES_PER_TOKEN = 4  # to charge a prompt before the server has counted it


class ChatExpert(ModelExpert):
    """Asks a model for thoughts. The constructor asks the server which models it serves.

    `base_url` ends in what precedes `/chat/completions`, mostly `/v1`. The key comes from
    `api_key`, else from O1_API_KEY, else from OPENAI_API_KEY; it is never stored. Where the server
    says what stands behind a model's name (vLLM's `root`), it becomes the source's revision.

    Raises InputError when the server does not answer or does not serve the model.
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
        if self.retry.attempts < 1:
            raise InputError(f"attempts is {self.retry.attempts}; it must be 1 or more")
        self.throttle = throttle or Throttle()
        self.stream = stream
        headers = _headers(api_key)
        self._poster = Poster(self.base_url, model, headers, self.retry)
        super().__init__(model, model_root(self.base_url, model, headers), prompt, sampling)

    async def think_together(
        self, query: Query, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Ask for several thoughts in one request, whose seed is that of the first sample."""
        seed = sample_seed(self.sampling.seed, query.query_id, samples[0], draw)
        body = msgspec.json.encode(self._request(query, seed, len(samples)))
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            try:
                answers = await self._attempt(body, len(samples))
                return [self._reply(answer, seed, len(samples)) for answer in answers]
            except TryAgain as again:
                patient = again.slow_down and time.monotonic() - began < self.retry.patience
                if attempt >= self.retry.attempts and not patient:
                    detail = f"{again.detail} (attempt {attempt} of {attempt})"
                    raise NoThought(again.reason, detail) from again
                await asyncio.sleep(self._pause(attempt, again.wait))

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    def _request(self, query: Query, seed: int, count: int) -> dict[str, Any]:
        request = {
            "model": self._source.model,
            "messages": self.prompt.messages(query),
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
        """The answers of one request, in its turn; everything but a 200 of that many choices raises."""
        charged = len(body) // _BYTES_PER_TOKEN + count * self.sampling.max_tokens
        async with self.throttle.turn(charged) as began:
            try:
                answers = await self._poster.post(body)
            except TryAgain as again:
                if again.slow_down:
                    self.throttle.refused(began, min(again.wait, _LONGEST_PAUSE))
                raise
        spent = answers[0].prompt_tokens + answers[0].completion_tokens
        self.throttle.answered(charged, spent or charged)
        if len(answers) < count:
            raise NoThought(Reason.MALFORMED, f"{len(answers)} choices for n = {count}; leave out n")
        return answers[:count]

    def _pause(self, attempt: int, wait: float) -> float:
        """Seconds before the next attempt: doubling, with jitter, never less than was asked for."""
        grown = self.retry.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return float(min(max(grown, wait), _LONGEST_PAUSE))


def _headers(api_key: str | None) -> dict[str, str]:
    given = (api_key, *(os.environ.get(name) for name in KEY_NAMES))
    key = next((key.strip() for key in given if key and key.strip()), "")
    if not key.isascii() or not (key.isprintable()):
        raise InputError(f"the key in {' or '.join(KEY_NAMES)} has characters that no header can hold")
    return {"authorization": f"Bearer {key}"} if key else {}
