"""Work on several items where one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from o1_records import InputError

Value = TypeVar("Value")
Tell = Callable[[str, Any], object]
"""Called with the name of each item as it ends, and with its value or its error."""


class PartlyDoneError(InputError):
    """Some of several items failed; `done` has the values of the others, `failed` the errors, by name."""

    def __init__(self, done: dict[str, Any], failed: dict[str, Exception]) -> None:
        self.done, self.failed = done, failed
        count = len(done) + len(failed)
        super().__init__(f"{len(done)} of {count} done; not done: {', '.join(failed)}")


def attempt_each(work: Mapping[str, Callable[[], Value]], tell: Tell | None = None) -> dict[str, Value]:
    """Do each piece of work and return the values by name.

    Raises the error itself where there is a single item, else PartlyDoneError after the last one.
    """
    done: dict[str, Value] = {}
    failed: dict[str, Exception] = {}
    for name, do in work.items():
        outcome: Value | Exception
        try:
            outcome = done[name] = do()
        except (InputError, OSError) as error:
            if len(work) == 1:
                raise
            outcome = failed[name] = error
        if tell is not None:
            tell(name, outcome)
    if failed:
        raise PartlyDoneError(done, failed)
    return done
