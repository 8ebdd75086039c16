"""Ctrl-C that loses nothing."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def gentle(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C finish what is in flight, the second end at once."""

    def finish(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        print("finishing what is in flight; Ctrl-C again leaves it", file=sys.stderr)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, finish)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
