"""Long work in items, where one that cannot be had does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from o1_bench.commands.options import say
from o1_records import InputError

Value = TypeVar("Value")

PARTLY = 3  # exit code


class Partly:
    """Counts what was done and names what failed; `code` is the exit code."""

    def __init__(self) -> None:
        self.done = 0
        self.failed: list[str] = []

    def attempt(self, name: str, work: Callable[[], Value]) -> Value | None:
        """What `work` gives; None when its input is wrong or missing, which is said at once."""
        try:
            value = work()
        except (InputError, OSError) as error:
            say(f"error: {error}")
            self.failed.append(name)
            return None
        self.done += 1
        return value

    @property
    def code(self) -> int:
        """0 when all was done, 3 when some of it was, 4 when nothing was; says what is left."""
        if not self.failed:
            return 0
        if self.done + len(self.failed) > 1:
            say(f"{self.done} of {self.done + len(self.failed)} done; not done: {', '.join(self.failed)}")
        return PARTLY if self.done else 4
