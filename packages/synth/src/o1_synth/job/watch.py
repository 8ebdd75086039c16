"""What people see of a job: progress on the terminal, else as JSON lines; its status; its thoughts so far."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from o1_records import InputError, write_jsonl
from o1_records.kit.job import holder
from o1_synth.expert import Reason
from o1_synth.job.draw import Outcome
from o1_synth.job.journal import JournalReader

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_EVERY = 10.0  # seconds between JSON lines
_NOTE_EVERY = 1.0  # seconds between notes in the journal


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The price of a million tokens, in any currency; at 0 no cost is shown."""

    prompt: float = 0.0
    completion: float = 0.0


class Watch:
    """Counts what happens in a run, and shows it on stderr where `shown`; a context manager."""

    def __init__(self, total: int, settled: int, prices: Prices, *, shown: bool) -> None:
        from tqdm import tqdm

        self.asked = self.failed = self.in_flight = self.settled_now = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._total, self._before, self._prices = total, settled, prices
        self._began = self._printed = self._noted = time.monotonic()
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
            self._print()

    def begin(self, samples: int) -> None:
        """Count a request for so many samples."""
        self.asked += samples
        self.in_flight += samples

    def spent(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the tokens of a request."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def end(self, outcomes: Iterable[Outcome]) -> None:
        """Count the samples of a request as thoughts or failures."""
        for outcome in outcomes:
            self.in_flight -= 1
            self.settled_now += 1
            self.failed += outcome.reason not in ("", Reason.EXHAUSTED)
            self._bar.update()

    def tick(self) -> dict[str, float | int | str] | None:
        """Update what is shown; return the status when it is time to note it in the journal."""
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._line(), refresh=False)
        if self._lines and now - self._printed >= _LINE_EVERY:
            self._printed = now
            self._print()
        if now - self._noted < _NOTE_EVERY:
            return None
        self._noted = now
        return self.state()

    def state(self) -> dict[str, float | int | str]:
        """Return the status; `done` counts earlier runs as well, everything else only this one."""
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
        """Return the price of the tokens of this run."""
        prices = self._prices
        return (self.prompt_tokens * prices.prompt + self.completion_tokens * prices.completion) / 1e6

    def _print(self) -> None:
        sys.stderr.write(json.dumps(self.state()) + "\n")
        sys.stderr.flush()

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        line = f"{self.failed} failed, {self.in_flight} in flight"
        line += f", {self.completion_tokens / seconds:.0f} tokens/s"
        return f"{line}, cost {self.cost:.2f}" if self.cost else line


def status(path: str | Path) -> dict[str, Any]:
    """Return the counts of a job, who is working on it, and what its last run noted about itself.

    `path` is the output of the job, or its folder. A job that is running is not disturbed.
    """
    with JournalReader(path) as journal:
        samples = int(journal.note("samples") or 0)
        counts, items = journal.counts(samples), journal.items()
        noted = msgspec.json.decode(journal.note("status") or "{}")
        running = holder(journal.folder / "lock")
    thoughts, exhausted = counts.pop("", 0), counts.pop(Reason.EXHAUSTED, 0)
    total = items * samples
    return {
        "job": str(journal.folder),
        "running": running or "no",
        "queries": items,
        "samples": total,
        "thoughts": thoughts,
        "exhausted": exhausted,
        "failed": counts,
        "not asked": total - thoughts - exhausted - sum(counts.values()),
        "last run": {name: noted[name] for name in noted if name not in ("done", "failed", "total")},
    }


def export(path: str | Path, out: str | Path) -> tuple[int, int]:
    """Write the thoughts that a job has so far to `out`, ordered by query_id and sample.

    Returns how many there are, and of how many. A job that is running is not disturbed. Raises InputError
    for a job whose answers are not thoughts, and where nothing was asked for yet.
    """
    with JournalReader(path) as journal:
        command = journal.made_from("command")
        if command != "think":
            raise InputError(
                f"{journal.folder}: the answers of {command} are not thoughts, and cannot be exported; "
                "run its own command to publish them"
            )
        samples = int(journal.note("samples") or 0)
        total = journal.items() * samples
        if not total:
            raise InputError(f"{journal.folder}: nothing was asked for yet")
        return write_jsonl(out, journal.thoughts(samples)), total
