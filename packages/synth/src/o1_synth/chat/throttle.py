"""How fast a server is asked: as fast as it accepts requests, and never faster than agreed.

A refusal (429, 503) halves the number of requests in flight and holds all of them back for as long as the
server asks; every answer adds a little again (AIMD, as in TCP).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

from o1_records import InputError


class Throttle:
    """Bounds the requests in flight, the requests per minute and the tokens per minute."""

    def __init__(self, requests_per_minute: float = math.inf, tokens_per_minute: float = math.inf) -> None:
        for name, value in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if not value > 0:
                raise InputError(f"{name}_per_minute must be above 0, got {value}")
        self.limits = (requests_per_minute, tokens_per_minute)
        self.window = math.inf  # most requests in flight; unbounded until a server refuses one
        self.in_flight = 0
        self._most = 0
        self._open_at = self._narrowed_at = -math.inf
        self._requests, self._tokens = _Meter(requests_per_minute), _Meter(tokens_per_minute)
        self._waiting: list[asyncio.Future[None]] = []

    @contextlib.asynccontextmanager
    async def turn(self, tokens: int) -> AsyncIterator[float]:
        """Wait for the turn of a request that may cost so many tokens; yield the time when it began."""
        while (delay := self._delay()) > 0:
            if delay == math.inf:
                self._waiting.append(asyncio.get_running_loop().create_future())
                await self._waiting[-1]
            else:
                await asyncio.sleep(delay)
        now = time.monotonic()
        self._requests.charge(now, 1)
        self._tokens.charge(now, tokens)
        self.in_flight += 1
        self._most = max(self._most, self.in_flight)
        try:
            yield now
        finally:
            self.in_flight -= 1
            self._wake()

    def refused(self, began: float, wait: float) -> None:
        """Take note of a 429 or 503 for the request that began then; the server asks for `wait` seconds."""
        now = time.monotonic()
        self._open_at = max(self._open_at, now + wait)
        if began > self._narrowed_at:  # requests sent before the last narrowing say nothing new
            self._narrowed_at = now
            self.window = max(1.0, min(self.window, self.in_flight) / 2)

    def answered(self, charged: int, spent: int) -> None:
        """Take note of an answer; the tokens charged in advance are corrected."""
        self._tokens.charge(time.monotonic(), spent - charged)
        if self.window < math.inf:
            self.window += 1 / self.window
            if self.window > self._most:
                self.window = math.inf
            self._wake()

    def _wake(self) -> None:
        """Let all that wait look again, except the cancelled ones."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _delay(self) -> float:
        """Return the seconds until a turn may begin; infinite: when another request ends."""
        if self.in_flight + 1 > self.window:
            return math.inf
        now = time.monotonic()
        return max(self._open_at - now, self._requests.delay(now), self._tokens.delay(now))


class _Meter:
    """A rate per minute, evenly spread."""

    def __init__(self, per_minute: float) -> None:
        self._seconds_each = 60 / per_minute
        self._free_at = 0.0

    def delay(self, now: float) -> float:
        return self._free_at - now

    def charge(self, now: float, amount: float) -> None:
        if self._seconds_each:
            self._free_at = max(self._free_at, now) + amount * self._seconds_each
