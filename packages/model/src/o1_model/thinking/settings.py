"""How to think: the one place of the settings, their defaults and their limits."""

from __future__ import annotations

from dataclasses import dataclass

from o1_records import InputError

HOTTEST = 1e6  # at this temperature all tokens are equally likely already; float32 overflows at 1e38


@dataclass(frozen=True)
class Thinking:
    """How to think.

    Temperature 0 is greedy. Each sample of a query's text has a random stream of its own, whoever asks.
    """

    samples: int = 3
    max_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for settings that nothing can be sampled with."""
        for name, fits, needed in (
            ("samples", self.samples >= 1, "at least 1"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature <= HOTTEST, f"between 0 and {HOTTEST:g}"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not fits:
                raise InputError(f"cannot think: {name} must be {needed}, got {getattr(self, name)}")
