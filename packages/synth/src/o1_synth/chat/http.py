"""Requests to a chat server: which models it serves, and one post, with what its failure means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec

from o1_records import InputError, quoted
from o1_synth.answer import Answer
from o1_synth.chat.wire import StreamedAnswers, error_of, parse_answers
from o1_synth.expert import NoThought, Reason

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
U = TypeVar("U")

KEY_NAMES = ("O1_API_KEY", "OPENAI_API_KEY")

_LISTING_TIMEOUT = 30.0
_ASK_AGAIN = frozenset({408, 409, 425, 429})  # and every 5xx
_SLOW_DOWN = frozenset({429, 503})
_AWAY = frozenset({502, 504})  # what a proxy says whose server restarts
_NO_LISTING = frozenset({403, 404, 405, 501})  # of a server that answers, but does not list its models


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How long and how often a request is tried; all but `attempts` are seconds.

    Args:
        timeout: for one attempt, body included.
        attempts: of one request.
        pause: before the second attempt; doubles with each further one.
        stall: the longest silence of a stream once tokens have come.
        patience: how long to go on asking a server that is overloaded (429, 503) or away (no connection, 502,
            504), however many attempts. One that asks for a longer pause, over a minute, ends the run.
    """

    timeout: float = 300.0
    attempts: int = 5
    pause: float = 0.5
    stall: float = 60.0
    patience: float = 120.0

    def __post_init__(self) -> None:
        """Raise InputError for times and counts with which no request can succeed."""
        for name, value, valid, wanted in (
            ("timeout", self.timeout, self.timeout > 0, "above 0"),
            ("attempts", self.attempts, self.attempts >= 1, "1 or more"),
            ("pause", self.pause, self.pause >= 0, "0 or more"),
            ("stall", self.stall, self.stall > 0, "above 0"),
            ("patience", self.patience, self.patience >= 0, "0 or more"),
        ):
            if not valid:
                raise InputError(f"{name} must be {wanted}, got {value}")


class TryAgain(Exception):  # noqa: N818
    """An attempt failed in a way that another may not; the server asks for `wait` seconds of pause.

    `slow_down`: it is overloaded. `away`: it cannot be reached.
    """

    def __init__(
        self, reason: Reason, detail: str, wait: float = 0.0, *, slow_down: bool = False, away: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.wait, self.slow_down, self.away = reason, detail, wait, slow_down, away


def endpoint(base_url: str, path: str) -> str:
    """Return the address of an endpoint below `base_url`; a query (`?api-version=...`) stays at the end."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path))


def model_root(base_url: str, model: str, headers: Mapping[str, str]) -> str:
    """Return what the server says is behind a model's name (`root` of vLLM), "" where it does not say.

    A server that has chat completions but lists no models is believed to have this one; its first answer
    shows. Raises InputError, naming the address and the model, where the server does not answer, has no chat
    completions, or lists models and not this one.
    """
    asked = f"asked for model {model!r}"
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"base_url must begin with http:// or https://, got {base_url!r}; {asked}")
    url = endpoint(base_url, "/models")
    status, body = _ask(url, headers, asked)
    if status in _NO_LISTING:
        # is the address right at all? An empty request is refused by every server that has chat completions
        status, said = _ask(endpoint(base_url, "/chat/completions"), headers, asked, b"{}")
        if status not in (404, 405, 501):
            return ""
        body = said
    try:
        if status != 200:
            raise ValueError(f"status {status}: {quoted(body.decode(errors='replace'), 200)}")
        cards = {card.id: card for card in msgspec.json.decode(body, type=_Cards).data}
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{url} does not list models ({error}), {asked}; the address of an OpenAI-compatible server "
            "mostly ends in /v1"
        ) from error
    if model not in cards:
        named = ", ".join(sorted(cards)[:10]) or "none"
        more = f" and {len(cards) - 10} more" if len(cards) > 10 else ""
        raise InputError(f"{base_url} does not serve model {model!r}; it serves {named}{more}")
    root = cards[model].root or ""
    return "" if root == model else root


def _ask(url: str, headers: Mapping[str, str], asked: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Return status and body of one request; InputError where nobody answers, or the answer is elsewhere."""
    import http.client
    import urllib.error
    import urllib.request

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            """Return None: a redirect is an error, and the key goes to no other host."""

    typed = {"content-type": "application/json"} if body is not None else {}
    try:
        request = urllib.request.Request(url, data=body, headers={**typed, **headers})
        opener = urllib.request.build_opener(NoRedirects)
        with opener.open(request, timeout=_LISTING_TIMEOUT) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise InputError(
                f"{url} answers 401, {asked}; set the environment variable {KEY_NAMES[0]} to the key, or "
                "give --header with what the server wants"
            ) from error
        if elsewhere := error.headers.get("location"):
            raise InputError(
                f"{url} does not list models (status {error.code}, which redirects to {elsewhere}), {asked}; "
                "give that address"
            ) from error
        return error.code, error.read()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"no server answers at {url} ({_said(error)}), {asked}; start it or correct the address"
        ) from error


class _Card(msgspec.Struct):
    id: str
    root: str | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class Poster:
    """Posts to `base_url`/chat/completions, over as many connections as there are requests in flight."""

    def __init__(self, base_url: str, headers: Mapping[str, str], retry: Retry) -> None:
        self.base_url, self._url = base_url, endpoint(base_url, "/chat/completions")
        self._headers, self._retry = headers, retry
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> list[Answer]:
        """Return the choices of a completion; TryAgain, NoThought or InputError where it is not whole."""
        import aiohttp

        session = self._session = self._session or self._connect()
        try:
            async with (
                asyncio.timeout(self._retry.timeout),
                session.post(self._url, data=body, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise self._refusal(response, await response.read())
                return await self._read(response)
        except TimeoutError as error:
            raise TryAgain(Reason.TIMEOUT, f"no complete answer in {self._retry.timeout:g} s") from error
        except aiohttp.ClientResponseError as error:  # what came is not HTTP
            raise TryAgain(Reason.MALFORMED, _said(error)) from error
        except aiohttp.ClientError as error:
            raise TryAgain(Reason.UNREACHABLE, _said(error), away=True) from error

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connect(self) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            headers={"content-type": "application/json", **self._headers},
            # no limit: the throttle bounds the requests, the timeout of `post` covers every phase.
            # Servers close idle connections after some seconds (uvicorn: 5), and a request may meet that.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self.base_url),
        )

    async def _read(self, response: aiohttp.ClientResponse) -> list[Answer]:
        """Read an answer to the end, events or a whole completion, whatever its type is said to be.

        Of events, a silence of `stall` seconds, once tokens came, ends it.
        """
        body, events, loop = bytearray(), None, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as silence:
                async for received in response.content.iter_any():
                    if events is None:
                        body += received
                        if not _are_events(body):
                            continue
                        events, received = StreamedAnswers(), bytes(body)
                    if _parsed(events.feed, received):
                        silence.reschedule(loop.time() + self._retry.stall)
        except TimeoutError as error:
            if not silence.expired():
                raise
            raise TryAgain(Reason.STALLED, f"no token for {self._retry.stall:g} s") from error
        if events is None:
            return _parsed(parse_answers, bytes(body))
        return _parsed(StreamedAnswers.answers, events)

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Exception:
        """Return what a status other than 200 ends: this attempt, this sample, or the whole job."""
        status = response.status
        detail = f"{status}: {error_of(body)}"
        if status in _ASK_AGAIN or status >= 500:
            return TryAgain(
                Reason.HTTP_STATUS,
                detail,
                _pause_asked_for(response.headers),
                slow_down=status in _SLOW_DOWN,
                away=status in _AWAY,
            )
        if 300 <= status < 400:
            place = quoted(response.headers.get("location", "elsewhere"), 200)
            return InputError(f"{self.base_url} redirects to {place} ({status}); give that address")
        return NoThought(Reason.HTTP_STATUS, detail)


_EVENTS = (b"data:", b"event:", b"id:", b"retry:", b":")


def _are_events(body: bytearray) -> bool:
    """Whether a body begins as server-sent events do. Some servers send them as text/plain or as JSON."""
    return bytes(body[:200]).lstrip(b"\xef\xbb\xbf \r\n").startswith(_EVENTS)


def _proxy(url: str) -> str | None:
    """Return the environment's proxy for an address, once; aiohttp's `trust_env` asks for each request."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc.rpartition("@")[2]) else getproxies().get(parts.scheme)
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and not proxy.startswith(("http://", "https://")):
        raise InputError(
            f"the environment names the proxy {proxy}, which is not an HTTP proxy; "
            f"to ask without it, set no_proxy={parts.hostname}"
        )
    return proxy


def _parsed(parse: Callable[[T], U], received: T) -> U:
    """Return what arrived, parsed; TryAgain where it is not what was asked for."""
    try:
        return parse(received)
    except ValueError as error:
        shown = f"; in {quoted(received, 200)}" if isinstance(received, bytes) else ""
        raise TryAgain(Reason.MALFORMED, f"{error}{shown}") from error


def _pause_asked_for(headers: Mapping[str, str]) -> float:
    """Return the seconds that a refusal asks to wait, as a number or a date; 0 where it says neither."""
    for name, unit in (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name, "")
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if 0 < seconds < float("inf"):
            return seconds
    return 0.0


def _said(error: Exception) -> str:
    """Return the type of an error and, where there is one, its message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
