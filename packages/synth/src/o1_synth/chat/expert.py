"""The expert behind OpenAI-compatible servers: vLLM, SGLang, llama.cpp, or a hosted one.

One request for each (query, sample), with its own seed, or one for several samples of a query. What may
succeed at another attempt is tried again after growing pauses; what cannot becomes a NoThought with a reason.
Answers are streamed, so that a server that stops in the middle is noticed by its missing tokens.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from o1_records import InputError
from o1_synth.answer import Answer
from o1_synth.chat.http import KEY_NAMES, Poster, Retry, TryAgain, model_root
from o1_synth.chat.request import Request
from o1_synth.chat.throttle import Throttle
from o1_synth.expert import ModelExpert, NoThought, Reason, Sampling
from o1_synth.prompt import Prompting
from o1_synth.template import Message

_LONGEST_PAUSE = 60.0  # of our own pauses, and what any server may ask for
_BYTES_PER_TOKEN = 4  # to charge a prompt before the server has counted its tokens
_ROUGHLY = 4  # servers whose requests in flight differ by less are equally busy


class ChatExpert(ModelExpert):
    """Asks a model for thoughts. The constructor asks the servers which models they serve.

    Args:
        base_url: the part of the address before `/chat/completions`; it mostly ends in `/v1`. Of several
            servers of the same model, the least busy one is asked, and a query goes on where it began.
        model: the name of a model that the server lists. If the server says what is behind that name
            (`root` of vLLM), this is the revision of the source.
        prompt: builds the messages; default `Prompt()`.
        sampling: how the model samples.
        retry: timeouts and attempts.
        throttle: bounds on requests and tokens, of each server.
        stream: ask for a stream of tokens; False for servers that cannot.
        request: which fields a request has.
        headers: further headers of every request; an `Authorization`, however it is written, goes in place
            of the key.
        api_key: default: the environment variable O1_API_KEY, else OPENAI_API_KEY. It is never stored.

    Raises InputError where a server does not answer or does not serve the model, and where two of them serve
    different ones.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        *,
        prompt: Prompting | None = None,
        sampling: Sampling | None = None,
        retry: Retry | None = None,
        throttle: Throttle | None = None,
        stream: bool = True,
        request: Request | None = None,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
    ) -> None:
        addresses = [base_url] if isinstance(base_url, str) else list(base_url)
        if not addresses or len(set(addresses)) < len(addresses):
            raise InputError("give one base_url or several different ones")
        self.base_urls = [address.rstrip("/") for address in addresses]
        self.retry = retry or Retry()
        self.throttle = throttle or Throttle()
        self.stream = stream
        self.request = request or Request()
        # names in lower case, so that an `Authorization` of the user's own takes the place of the key's
        sent = {**_key(api_key), **{name.lower(): value for name, value in (headers or {}).items()}}
        throttles = [self.throttle, *(Throttle(*self.throttle.limits) for _ in self.base_urls[1:])]
        self._servers = [
            _Server(Poster(address, sent, self.retry), limits)
            for address, limits in zip(self.base_urls, throttles, strict=True)
        ]
        roots = {address: model_root(address, model, sent) for address in self.base_urls}
        if len(set(roots.values())) > 1:
            told = ", ".join(f"{root or 'nothing'!r} at {address}" for address, root in roots.items())
            raise InputError(f"the servers have different models behind the name {model!r}: {told}")
        super().__init__(
            model,
            roots[self.base_urls[0]],
            prompt,
            sampling,
            request=self.request.shape(),
            continues=self.request.continues,
        )

    def share(self, processes: int) -> None:
        """Keep to a part of the limits of each server, because so many processes ask it."""
        for server in self._servers:
            server.throttle = Throttle(*(limit / processes for limit in server.throttle.limits))

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.poster.close()

    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        request = self.request.body(
            self._source.model,
            messages,
            self.sampling,
            seed,
            count=count,
            stream=self.stream,
            stop=self.stop,
            prefix=self.prefix,
        )
        body = msgspec.json.encode(request)
        home = zlib.crc32(
            msgspec.json.encode(messages[-1])
        )  # of the prompt, whose beginning a server may know
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            server = self._least_busy(home)
            try:
                return [*await self._attempt(server, body, count)]
            except TryAgain as again:
                pause = self._pause(attempt, again.wait)
                if again.wait > max(_LONGEST_PAUSE, self.retry.patience):
                    raise InputError(
                        f"{server.poster.base_url} asks to wait {again.wait:.0f} s, longer than --patience "
                        f"({self.retry.patience:g}): {again.detail}; run the same command again after that"
                    ) from again
                patient = again.slow_down or again.away
                patient = patient and time.monotonic() - began + pause <= self.retry.patience
                if attempt >= self.retry.attempts and not patient:
                    detail = f"{again.detail} (attempt {attempt} of {attempt})"
                    raise NoThought(again.reason, detail) from again
                if again.away:
                    server.away_until = time.monotonic() + pause
                    if self._least_busy(home).away_until <= time.monotonic():
                        continue  # another one can have it at once
                await asyncio.sleep(pause)

    def _least_busy(self, home: int) -> _Server:
        """Return the server to ask: one that is there, not much busier than others, and knows the prompt."""
        now, count = time.monotonic(), len(self._servers)

        def burden(place: int) -> tuple[bool, int, int]:
            server = self._servers[place]
            return server.away_until > now, server.throttle.in_flight // _ROUGHLY, (place - home) % count

        return self._servers[min(range(count), key=burden)]

    async def _attempt(self, server: _Server, body: bytes, count: int) -> list[Answer]:
        """Return the answers of one request, in its turn; raises unless it is a 200 with `count` choices."""
        charged = len(body) // _BYTES_PER_TOKEN + count * self.sampling.max_tokens
        async with server.throttle.turn(charged) as began:
            try:
                answers = await server.poster.post(body)
            except TryAgain as again:
                if again.slow_down:
                    server.throttle.refused(began, again.wait)
                raise
        spent = answers[0].prompt_tokens + sum(answer.completion_tokens for answer in answers)
        server.throttle.answered(charged, spent or charged)
        if len(answers) < count:
            raise NoThought(
                Reason.MALFORMED,
                f"{len(answers)} choices for n = {count}; the server ignores n, leave out --n-per-request",
                prompt_tokens=answers[0].prompt_tokens,
                completion_tokens=sum(answer.completion_tokens for answer in answers),
                counted=answers[0].counted,
            )
        return answers[:count]

    def _pause(self, attempt: int, wait: float) -> float:
        """Return the seconds before the next attempt: doubling, with jitter, and never less than `wait`."""
        grown = self.retry.pause * 2.0 ** min(attempt - 1, 20) * random.uniform(0.5, 1.5)
        return max(min(grown, _LONGEST_PAUSE / 2), wait)


@dataclass
class _Server:
    """One address: its connections, its limits, and until when it is believed to be away."""

    poster: Poster
    throttle: Throttle
    away_until: float = 0.0


def _key(api_key: str | None) -> dict[str, str]:
    given = (api_key, *(os.environ.get(name) for name in KEY_NAMES))
    key = next((key.strip() for key in given if key and key.strip()), "")
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"the key in {' or '.join(KEY_NAMES)} has characters that an HTTP header cannot contain"
        )
    return {"authorization": f"Bearer {key}"} if key else {}
