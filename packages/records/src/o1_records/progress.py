"""Progress of a long command: a line on stderr if that is a terminal, else nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_EVERY = 0.2  # seconds


def shown(items: Iterable[T], name: str, *, total: int | None = None) -> Iterator[T]:
    """Yield the items and show on stderr how many there were and how many a second; of how many, if known."""
    if not sys.stderr.isatty():
        yield from items
        return
    began = said = time.monotonic()
    whole = "" if total is None else f" of {total:,}"
    count = 0
    try:
        for item in items:
            count += 1
            now = time.monotonic()
            if now - said >= _EVERY or (count == 1 and total is not None):
                said = now
                # the item in hand is not done yet
                rate = f" ({(count - 1) / (now - began):,.3g}/s)" if count > 1 else ""
                sys.stderr.write(f"\r{name}: {count:,}{whole}{rate} ")
                sys.stderr.flush()
            yield item
    finally:
        sys.stderr.write("\r\x1b[K")
