"""An expert behind any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted one.

One request per (query, sample), with a seed of its own. What is worth another attempt is tried
again with growing pauses; what is not becomes a typed NoThought.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from o1_records import InputError, Query, Source, quoted
from o1_synth.expert import NoThought, Reason, Reply, sample_seed
from o1_synth.prompt import Prompt
from o1_synth.wire import KEY_NAMES, model_root, parse_answer, said

if TYPE_CHECKING:
    import httpx2

_LONGEST_PAUSE = 60.0
_ASK_AGAIN = frozenset({408, 409, 425, 429})  # and all of 5xx
# No sample can succeed after these: the key, the model or the address is wrong.
_HOPELESS = frozenset({401, 403, 404})


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the model draws: temperature, nucleus, tokens at most, and the seed of all seeds."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Each attempt has `timeout` seconds, body included; pauses begin at `pause` and double."""

    timeout: float = 300.0
    attempts: int = 5
    pause: float = 0.5


class ChatExpert:
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
        prompt: Prompt | None = None,
        sampling: Sampling | None = None,
        retry: Retry | None = None,
        api_key: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.prompt = prompt or Prompt()
        self.sampling = sampling or Sampling()
        self.retry = retry or Retry()
        self._headers = _headers(api_key)
        self._client: httpx2.AsyncClient | None = None
        self._source = Source(
            model=model,
            revision=model_root(self.base_url, model, self._headers),
            prompt_digest=self.prompt.digest,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_tokens,
            seed=self.sampling.seed,
        )

    @property
    def source(self) -> Source:
        """Model, revision, prompt digest and sampling; `seed` is the seed of all seeds."""
        return self._source

    async def think(self, query: Query, sample: int) -> Reply:
        """Ask for one thought; the reply's `seed` is the one that was sent.

        Raises NoThought with the last attempt's reason, InputError when no request can succeed.
        """
        seed = sample_seed(self.sampling.seed, query.query_id, sample)
        body = msgspec.json.encode(self._request(query, seed))
        for attempt in range(1, self.retry.attempts + 1):
            try:
                return self._reply(await self._post(body), seed)
            except _TryAgain as again:
                if attempt == self.retry.attempts:
                    detail = f"{again.detail} (attempt {attempt} of {attempt})"
                    raise NoThought(again.reason, detail) from again
                await asyncio.sleep(self._pause(attempt, again.wait))
        raise InputError(f"attempts is {self.retry.attempts}; it must be 1 or more")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _request(self, query: Query, seed: int) -> dict[str, Any]:
        return {
            "model": self._source.model,
            "messages": self.prompt.messages(query),
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_tokens,
            "seed": seed,
        }

    async def _post(self, body: bytes) -> bytes:
        """The body of a 200; everything else raises."""
        import httpx2

        try:
            async with asyncio.timeout(self.retry.timeout):
                response = await self._open().post(f"{self.base_url}/chat/completions", content=body)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _TryAgain(Reason.TIMEOUT, f"no answer in {self.retry.timeout:g} s") from error
        except httpx2.TransportError as error:
            raise _TryAgain(Reason.UNREACHABLE, said(error)) from error
        except httpx2.RequestError as error:
            raise _TryAgain(Reason.MALFORMED, said(error)) from error
        if response.status_code != 200:
            raise self._refusal(response)
        return response.content

    def _refusal(self, response: httpx2.Response) -> Exception:
        """What a status other than 200 ends: this attempt, this sample or the whole job."""
        status = response.status_code
        detail = f"{status}: {quoted(response.text, 200)}"
        if status in _ASK_AGAIN or status >= 500:
            wait = _seconds(response.headers.get("retry-after", ""))
            return _TryAgain(Reason.HTTP_STATUS, detail, wait)
        if status in _HOPELESS:
            return InputError(f"{self.base_url} refuses model {self._source.model!r}: {detail}")
        return NoThought(Reason.HTTP_STATUS, detail)

    def _reply(self, body: bytes, seed: int) -> Reply:
        try:
            answer = parse_answer(body)
        except ValueError as error:
            raise _TryAgain(Reason.MALFORMED, f"{error}; in {quoted(body, 200)}") from error
        if not answer.text:
            # The same seed would write the same nothing again.
            raise NoThought(Reason.EMPTY, f"finish_reason {answer.finish_reason!r}")
        source = msgspec.structs.replace(
            self._source,
            seed=seed,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        return Reply(text=answer.text, source=source)

    def _pause(self, attempt: int, wait: float) -> float:
        """Seconds before the next attempt: doubling, with jitter, never less than was asked for."""
        grown = self.retry.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return float(min(max(grown, wait), _LONGEST_PAUSE))

    def _open(self) -> httpx2.AsyncClient:
        import httpx2

        if self._client is None:
            # The scheduler bounds the connections; the deadline of `_post` covers every phase.
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            headers = {**self._headers, "content-type": "application/json"}
            self._client = httpx2.AsyncClient(headers=headers, limits=limits, timeout=None)
        return self._client


class _TryAgain(Exception):  # noqa: N818
    """An attempt failed in a way that another may not; `wait` is what the server asked for."""

    def __init__(self, reason: Reason, detail: str, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.wait = reason, detail, wait


def _headers(api_key: str | None) -> dict[str, str]:
    given = (api_key, *(os.environ.get(name) for name in KEY_NAMES))
    key = next((key.strip() for key in given if key and key.strip()), "")
    if not key.isascii() or not (key.isprintable()):
        raise InputError(f"the key in {' or '.join(KEY_NAMES)} has characters that no header can hold")
    return {"authorization": f"Bearer {key}"} if key else {}


def _seconds(retry_after: str) -> float:
    """Seconds of a Retry-After header; a date or nonsense counts as none."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0
