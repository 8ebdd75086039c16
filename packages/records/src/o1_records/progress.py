"""Progress of a long command: a line on stderr if that is a terminal, else nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_EVERY = 0.2  # seconds


def shown(items: Iterable[T], name: str) -> Iterator[T]:
    """Yield the items and show on stderr how many there were and how many a second."""
    if not sys.stderr.isatty():
        yield from items
        return
    began = said = time.monotonic()
    count = 0
    try:
        for item in items:
            count += 1
            now = time.monotonic()
            if now - said >= _EVERY:
                said = now
                sys.stderr.write(f"\r{name}: {count:,} ({count / (now - began):,.0f}/s) ")
                sys.stderr.flush()
            yield item
    finally:
        sys.stderr.write("\r\x1b[K")
