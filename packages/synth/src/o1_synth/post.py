"""One request to a chat server: the choices of a whole answer, or what its failure is worth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from o1_records import InputError, quoted
from o1_synth.expert import NoThought, Reason
from o1_synth.stream import StreamedAnswers
from o1_synth.wire import Answer, parse_answers, said

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
U = TypeVar("U")

_ASK_AGAIN = frozenset({408, 409, 425, 429})  # and all of 5xx
_SLOW_DOWN = frozenset({429, 503})
# No sample can succeed after these: the key, the model or the address is wrong.
_HOPELESS = frozenset({401, 403, 404})


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Each attempt has `timeout` seconds, body included; pauses begin at `pause` and double.

    A stream that has begun may be silent for `stall` seconds. A server that says that it is
    overloaded (429, 503) is asked again for `patience` seconds, however many attempts that takes.
    """

    timeout: float = 300.0
    attempts: int = 5
    pause: float = 0.5
    stall: float = 60.0
    patience: float = 120.0


class TryAgain(Exception):  # noqa: N818
    """An attempt failed in a way that another may not; `wait` is what the server asked for."""

    def __init__(self, reason: Reason, detail: str, wait: float = 0.0, *, slow_down: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.wait, self.slow_down = reason, detail, wait, slow_down


class Poster:
    """Posts to `base_url`/chat/completions, over as many connections as there are requests in flight."""

    def __init__(self, base_url: str, model: str, headers: Mapping[str, str], retry: Retry) -> None:
        self._base_url, self._model, self._headers, self._retry = base_url, model, headers, retry
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> list[Answer]:
        """The choices of a completion; TryAgain, NoThought or InputError for everything but a whole one."""
        import aiohttp

        session = self._session = self._session or self._connect()
        url = f"{self._base_url}/chat/completions"
        try:
            async with (
                asyncio.timeout(self._retry.timeout),
                session.post(url, data=body, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise self._refusal(response, await response.read())
                if response.content_type == "text/event-stream":
                    return await self._streamed(response)
                return _checked(parse_answers, await response.read())
        except TimeoutError as error:
            raise TryAgain(Reason.TIMEOUT, f"no whole answer in {self._retry.timeout:g} s") from error
        except aiohttp.ClientResponseError as error:  # what came is not HTTP
            raise TryAgain(Reason.MALFORMED, said(error)) from error
        except aiohttp.ClientError as error:
            raise TryAgain(Reason.UNREACHABLE, said(error)) from error

    async def _streamed(self, response: aiohttp.ClientResponse) -> list[Answer]:
        """Read events to the end; once tokens came, a silence of `stall` seconds ends it."""
        answers, loop = StreamedAnswers(), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as silence:
                async for received in response.content.iter_any():
                    if _checked(answers.feed, received):
                        silence.reschedule(loop.time() + self._retry.stall)
        except TimeoutError as error:
            if not silence.expired():
                raise
            raise TryAgain(Reason.STALLED, f"no token for {self._retry.stall:g} s") from error
        return _checked(StreamedAnswers.answers, answers)

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Exception:
        """What a status other than 200 ends: this attempt, this sample or the whole job."""
        status = response.status
        detail = f"{status}: {quoted(body.decode(errors='replace'), 200)}"
        if status in _ASK_AGAIN or status >= 500:
            wait = _seconds(response.headers.get("retry-after", ""))
            return TryAgain(Reason.HTTP_STATUS, detail, wait, slow_down=status in _SLOW_DOWN)
        if 300 <= status < 400:
            place = quoted(response.headers.get("location", "elsewhere"), 200)
            return InputError(f"{self._base_url} redirects to {place} ({status}); give that address")
        if status in _HOPELESS:
            return InputError(f"{self._base_url} refuses model {self._model!r}: {detail}")
        return NoThought(Reason.HTTP_STATUS, detail)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connect(self) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            headers={**self._headers, "content-type": "application/json"},
            # the throttle bounds the requests; the deadline of `post` covers every phase
            # servers close what is idle for some seconds (uvicorn: 5), and a request may meet that
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self._base_url),
        )


def _proxy(url: str) -> str | None:
    """The proxy of the environment for an address; asked once, where `trust_env` asks for each request."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc.rpartition("@")[2]) else getproxies().get(parts.scheme)
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and not proxy.startswith(("http://", "https://")):
        raise InputError(
            f"the proxy {proxy} of the environment is none for HTTP; set no_proxy={parts.hostname}"
        )
    return proxy


def _checked(parse: Callable[[T], U], received: T) -> U:
    """What arrived, parsed; another attempt where it is not what was asked for."""
    try:
        return parse(received)
    except ValueError as error:
        shown = f"; in {quoted(received, 200)}" if isinstance(received, bytes) else ""
        raise TryAgain(Reason.MALFORMED, f"{error}{shown}") from error


def _seconds(retry_after: str) -> float:
    """Seconds of a Retry-After header, a number or a date; nonsense counts as none."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0
