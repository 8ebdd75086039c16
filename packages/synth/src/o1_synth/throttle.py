"""How fast a server is asked: as fast as it takes it, and never faster than was agreed.

A refusal (429, 503) halves the number of requests in flight and holds all of them back for as long
as the server wants; every answer adds a little again (AIMD, as TCP does).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

from o1_records import InputError


class Throttle:
    """Bounds requests in flight, requests a minute and tokens a minute."""

    def __init__(self, requests_per_minute: float = math.inf, tokens_per_minute: float = math.inf) -> None:
        for name, value in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if not value > 0:
                raise InputError(f"{name} per minute are {value}; they must be more than 0")
        self.window = math.inf  # in flight at most; unbounded until a server refuses
        self.in_flight = 0
        self._most = 0
        self._open_at = self._narrowed_at = -math.inf
        self._requests, self._tokens = _Meter(requests_per_minute), _Meter(tokens_per_minute)
        self._waiting: list[asyncio.Future[None]] = []

    @contextlib.asynccontextmanager
    async def turn(self, tokens: int) -> AsyncIterator[float]:
        """Wait for a turn to send a request that may cost so many tokens; yields when it began."""
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
        """A request that began then met 429 or 503; the server wants `wait` seconds of peace."""
        now = time.monotonic()
        self._open_at = max(self._open_at, now + wait)
        if began > self._narrowed_at:  # requests sent before the last narrowing say nothing new
            self._narrowed_at = now
            self.window = max(1.0, min(self.window, self.in_flight) / 2)

    def answered(self, charged: int, spent: int) -> None:
        """A request succeeded; what it was charged in advance is corrected."""
        self._tokens.charge(time.monotonic(), spent - charged)
        if self.window < math.inf:
            self.window += 1 / self.window
            if self.window > self._most:
                self.window = math.inf
            self._wake()

    def _wake(self) -> None:
        """Let all who wait look again; who was cancelled does not."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _delay(self) -> float:
        """Seconds until a turn may begin; infinite: when another request ends."""
        if self.in_flight + 1 > self.window:
            return math.inf
        now = time.monotonic()
        return max(self._open_at - now, self._requests.delay(now), self._tokens.delay(now))


class _Meter:
    """So much a minute, evenly spread."""

    def __init__(self, per_minute: float) -> None:
        self._seconds_each = 60 / per_minute
        self._free_at = 0.0

    def delay(self, now: float) -> float:
        return self._free_at - now

    def charge(self, now: float, amount: float) -> None:
        if self._seconds_each:
            self._free_at = max(self._free_at, now) + amount * self._seconds_each
