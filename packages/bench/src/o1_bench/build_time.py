"""How long building took, kept beside what was built: a build that was stopped goes on in another process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Stopwatch:
    """Adds up seconds in a file, a line for each stretch of work.

    A stretch that fails is counted; one whose process was killed is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time one stretch of work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="ascii") as file:
                file.write(f"{time.perf_counter() - began}\n")

    @property
    def seconds(self) -> float | None:
        """All stretches together; None when none was timed or the file is damaged."""
        try:
            return sum(map(float, self.path.read_text("ascii").split()))
        except (FileNotFoundError, ValueError):
            return None
