"""What people see of a run: a line on a terminal, JSON lines elsewhere, a note for `o1-synth status`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from o1_synth.expert import NoThought, Reason, Reply
from o1_synth.journal import Outcome

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_EVERY = 10.0  # seconds between JSON lines
_NOTE_EVERY = 1.0


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money for a million tokens, in any currency; 0: not shown."""

    prompt: float = 0.0
    completion: float = 0.0


class Watch:
    """Counts what happens, and shows it on stderr when `shown`."""

    def __init__(self, total: int, settled: int, prices: Prices, *, shown: bool) -> None:
        from tqdm import tqdm

        self.asked = self.failed = self.in_flight = self.settled_now = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._total, self._before, self._prices = total, settled, prices
        self._began = self._said = self._noted = time.monotonic()
        terminal = shown and sys.stderr.isatty()
        self._lines = shown and not terminal
        self._bar: tqdm[None] = tqdm(
            total=total, initial=settled, desc="think", unit="sample", disable=not terminal
        )

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._lines:
            self._say()

    def begin(self, samples: int) -> None:
        """A request about so many samples was sent."""
        self.asked += samples
        self.in_flight += samples

    def spent(self, replies: Iterable[Reply | NoThought]) -> None:
        """Replies of one request came; their prompt counts once."""
        sources = [reply.source for reply in replies if isinstance(reply, Reply)]
        self.prompt_tokens += max((source.prompt_tokens for source in sources), default=0)
        self.completion_tokens += sum(source.completion_tokens for source in sources)

    def end(self, outcomes: Iterable[Outcome]) -> None:
        """Samples were settled, as thoughts or failures."""
        for outcome in outcomes:
            self.in_flight -= 1
            self.settled_now += 1
            self.failed += outcome.reason not in ("", Reason.EXHAUSTED)
            self._bar.update()

    def tick(self) -> dict[str, float | int | str] | None:
        """Show how things stand; returns it when it is time to write it down."""
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._line(), refresh=False)
        if self._lines and now - self._said >= _LINE_EVERY:
            self._said = now
            self._say()
        if now - self._noted < _NOTE_EVERY:
            return None
        self._noted = now
        return self.state()

    def state(self) -> dict[str, float | int | str]:
        """How the run stands; `done` counts earlier runs too, the rest only this one."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        done = self._before + self.settled_now - self.failed
        left = self._total - self._before - self.settled_now
        rate = self.settled_now / seconds
        state: dict[str, float | int | str] = {
            "done": done,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "total": self._total,
            "seconds": round(seconds, 1),
            "samples_per_s": round(rate, 2),
            "tokens_per_s": round(self.completion_tokens / seconds, 1),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "eta_seconds": round(left / rate) if rate else -1,
            "time": round(time.time(), 1),
        }
        if self.cost:
            state["cost"] = round(self.cost, 4)
        return state

    @property
    def cost(self) -> float:
        """What the tokens of this run cost."""
        prices = self._prices
        return (self.prompt_tokens * prices.prompt + self.completion_tokens * prices.completion) / 1e6

    def _say(self) -> None:
        sys.stderr.write(json.dumps(self.state()) + "\n")
        sys.stderr.flush()

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        line = f"{self.failed} failed, {self.in_flight} in flight"
        line += f", {self.completion_tokens / seconds:.0f} tokens/s"
        return f"{line}, cost {self.cost:.2f}" if self.cost else line
