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

from o1_records import DocumentThought, InputError, Thought, write_jsonl
from o1_records.kit.job import holder
from o1_synth.expert import Reason
from o1_synth.job.draw import Outcome, Spent
from o1_synth.job.journal import SETTLED, JournalReader

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_EVERY = 10.0  # seconds between JSON lines
_NOTE_EVERY = 1.0  # seconds between notes in the journal


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The price of a million tokens, in any currency; at 0 no cost is shown."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, spent: Spent) -> float:
        """Return what the tokens cost."""
        return (spent.prompt_tokens * self.prompt + spent.completion_tokens * self.completion) / 1e6


class Watch:
    """Counts what happens in a run, and shows it on stderr where `shown`; a context manager.

    `before` is what earlier runs of the job spent.
    """

    def __init__(
        self, total: int, settled: int, prices: Prices, before: Spent | None = None, *, shown: bool
    ) -> None:
        from tqdm import tqdm

        self.asked = self.failed = self.in_flight = self.settled_now = 0
        self.spent, self._earlier = Spent(), before or Spent()
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

    def end(self, outcomes: Iterable[Outcome]) -> None:
        """Count the samples of a request as thoughts or failures."""
        for outcome in outcomes:
            self.in_flight -= 1
            self.settled_now += 1
            self.failed += outcome.reason not in SETTLED
            self._bar.update()

    def tick(self) -> dict[str, Any] | None:
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

    def state(self) -> dict[str, Any]:
        """Return the status: `done` and `all_runs` are of all runs so far, the rest is of this one."""
        seconds = max(self.seconds, 1e-9)
        everything = Spent()
        everything.add(self._earlier)
        everything.add(self.spent)
        done = self._before + self.settled_now - self.failed
        left = self._total - self._before - self.settled_now
        rate = self.settled_now / seconds
        state: dict[str, Any] = {
            "done": done,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "total": self._total,
            "seconds": round(seconds, 1),
            "samples_per_s": round(rate, 2),
            "tokens_per_s": round(self.spent.completion_tokens / seconds, 1),
            **tokens_of(self.spent, self._prices),
            "all_runs": tokens_of(everything, self._prices),
            "eta_seconds": round(left / rate) if rate else -1,
            "time": round(time.time(), 1),
        }
        return state

    @property
    def seconds(self) -> float:
        """Return how long this run is at work."""
        return time.monotonic() - self._began

    def _print(self) -> None:
        sys.stderr.write(json.dumps(self.state()) + "\n")
        sys.stderr.flush()

    def _line(self) -> str:
        line = f"{self.failed} failed, {self.in_flight} in flight"
        line += f", {self.spent.completion_tokens / max(self.seconds, 1e-9):.0f} tokens/s"
        cost = self._prices.of(self._earlier) + self._prices.of(self.spent)
        return f"{line}, cost {cost:.2f}" if cost else line


def tokens_of(spent: Spent, prices: Prices) -> dict[str, float | int]:
    """Return what was spent, by name; the cost where prices are known."""
    counts: dict[str, float | int] = {
        "requests": spent.requests,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
    }
    if spent.uncounted:
        counts["answers_without_count"] = spent.uncounted
    if cost := prices.of(spent):
        counts["cost"] = round(cost, 4)
    return counts


def status(path: str | Path) -> dict[str, Any]:
    """Return the counts of a job, what all its runs spent, who is working on it, what the last run noted.

    `path` is the output of the job, or its folder. A job that is running is not disturbed.
    """
    with JournalReader(path) as journal:
        samples = int(journal.note("samples") or 0)
        counts, items = journal.counts(samples), journal.items()
        noted = msgspec.json.decode(journal.note("status") or "{}")
        prices = msgspec.json.decode(journal.note("prices") or "{}", type=Prices)
        spent, seconds, runs = journal.spent()
        running = holder(journal.folder / "lock")
    thoughts = counts.pop("", 0)
    exhausted = counts.pop(Reason.EXHAUSTED, 0) + counts.pop(Reason.DUPLICATE, 0)
    total = items * samples
    last = {name: noted[name] for name in noted if name not in ("done", "failed", "total", "all_runs")}
    return {
        "job": str(journal.folder),
        "running": running or "no",
        "queries": items,
        "samples": total,
        "thoughts": thoughts,
        "exhausted": exhausted,
        "failed": counts,
        "not asked": total - thoughts - exhausted - sum(counts.values()),
        "all runs": {"runs": runs, "seconds": round(seconds, 1), **tokens_of(spent, prices)},
        "last run": last,
    }


def export(path: str | Path, out: str | Path) -> tuple[int, int]:
    """Write the thoughts that a job has so far to `out`, ordered by query_id and sample.

    Returns how many there are, and of how many. A job that is running is not disturbed. Raises InputError
    for a job whose answers are not thoughts, and where nothing was asked for yet.
    """
    with JournalReader(path) as journal:
        command = journal.made_from("command")
        if command not in ("think", "think about documents"):
            raise InputError(
                f"{journal.folder}: the answers of {command} are not thoughts, and cannot be exported; "
                "run its own command to publish them"
            )
        samples = int(journal.note("samples") or 0)
        total = journal.items() * samples
        if not total:
            raise InputError(f"{journal.folder}: nothing was asked for yet")
        thoughts = journal.thoughts(samples)
        if command == "think":
            return write_jsonl(out, thoughts), total
        return write_jsonl(out, map(of_document, thoughts)), total


def of_document(thought: Thought) -> DocumentThought:
    """Return a thought about a document as its record; the journal keeps it under the doc_id."""
    return DocumentThought(
        doc_id=thought.query_id, thought_id=thought.thought_id, text=thought.text, source=thought.source
    )
