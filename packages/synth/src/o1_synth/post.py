"""One request to a chat server: the choices of a whole answer, or what its failure is worth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from o1_records import InputError, quoted
from o1_synth.expert import NoThought, Reason
from o1_synth.stream import StreamedAnswers
from o1_synth.wire import Answer, parse_answers, said

if TYPE_CHECKING:
    import ssl

    import httpx2

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
    """Posts to `base_url`/chat/completions; a client of one connection for each request in flight."""

    def __init__(self, base_url: str, model: str, headers: Mapping[str, str], retry: Retry) -> None:
        self._base_url, self._model, self._headers, self._retry = base_url, model, headers, retry
        self._idle: list[httpx2.AsyncClient] = []

    async def post(self, body: bytes) -> list[Answer]:
        """The choices of a completion; TryAgain, NoThought or InputError for everything but a whole one."""
        import httpx2

        client = self._idle.pop() if self._idle else self._connect()
        try:
            async with (
                asyncio.timeout(self._retry.timeout),
                client.stream("POST", f"{self._base_url}/chat/completions", content=body) as response,
            ):
                if response.status_code != 200:
                    await response.aread()
                    raise self._refusal(response)
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    return await self._streamed(response)
                return _checked(parse_answers, await response.aread())
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise TryAgain(Reason.TIMEOUT, f"no whole answer in {self._retry.timeout:g} s") from error
        except httpx2.TransportError as error:
            raise TryAgain(Reason.UNREACHABLE, said(error)) from error
        except httpx2.RequestError as error:
            raise TryAgain(Reason.MALFORMED, said(error)) from error
        finally:
            self._idle.append(client)

    async def _streamed(self, response: httpx2.Response) -> list[Answer]:
        """Read events to the end; once tokens came, a silence of `stall` seconds ends it."""
        answers, loop = StreamedAnswers(), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as silence:
                async for received in response.aiter_bytes():
                    if _checked(answers.feed, received):
                        silence.reschedule(loop.time() + self._retry.stall)
        except TimeoutError as error:
            if not silence.expired():
                raise
            raise TryAgain(Reason.STALLED, f"no token for {self._retry.stall:g} s") from error
        return _checked(StreamedAnswers.answers, answers)

    def _refusal(self, response: httpx2.Response) -> Exception:
        """What a status other than 200 ends: this attempt, this sample or the whole job."""
        status = response.status_code
        detail = f"{status}: {quoted(response.text, 200)}"
        if status in _ASK_AGAIN or status >= 500:
            wait = _seconds(response.headers.get("retry-after", ""))
            return TryAgain(Reason.HTTP_STATUS, detail, wait, slow_down=status in _SLOW_DOWN)
        if status in _HOPELESS:
            return InputError(f"{self._base_url} refuses model {self._model!r}: {detail}")
        return NoThought(Reason.HTTP_STATUS, detail)

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            await self._idle.pop().aclose()

    def _connect(self) -> httpx2.AsyncClient:
        """A client of one connection: a shared pool looks at all its connections for each request."""
        import httpx2

        # The throttle bounds the requests; the deadline of `_post` covers every phase.
        headers = {**self._headers, "content-type": "application/json"}
        return httpx2.AsyncClient(headers=headers, timeout=None, verify=_certificates())


def _checked(parse: Callable[[T], U], received: T) -> U:
    """What arrived, parsed; another attempt where it is not what was asked for."""
    try:
        return parse(received)
    except ValueError as error:
        shown = f"; in {quoted(received, 200)}" if isinstance(received, bytes) else ""
        raise TryAgain(Reason.MALFORMED, f"{error}{shown}") from error


@cache
def _certificates() -> ssl.SSLContext:
    import httpx2

    return httpx2.create_ssl_context()


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
