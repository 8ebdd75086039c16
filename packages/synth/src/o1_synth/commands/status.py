"""`o1-synth status`: how a job stands, from another shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from o1_synth.expert import Reason
from o1_synth.ledger import Ledger
from o1_synth.lock import owner


def declare(command: argparse.ArgumentParser) -> None:
    """Of which job."""
    command.add_argument("job", type=Path, help="the --out of o1-synth think")
    command.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print it; the job is not disturbed."""
    state = status(args.job)
    if args.json:
        print(msgspec.json.encode(state).decode())
        return 0
    for name, value in state.items():
        print(f"{name}: {_shown(value)}")
    return 0


def status(path: Path) -> dict[str, Any]:
    """What the journal counts, and what the run that is going on (or was the last) said of itself."""
    with Ledger(path) as ledger:
        samples = int(ledger.note("samples") or 0)
        counts, queries = ledger.counts(samples), ledger.queries()
        said = msgspec.json.decode(ledger.note("status") or "{}")
        holder = owner(ledger.folder / "lock")
    thoughts, exhausted = counts.pop("", 0), counts.pop(Reason.EXHAUSTED, 0)
    total = queries * samples
    return {
        "job": str(ledger.folder),
        "running": holder or "no",
        "queries": queries,
        "samples": total,
        "thoughts": thoughts,
        "exhausted": exhausted,
        "failed": counts,
        "not asked": total - thoughts - exhausted - sum(counts.values()),
        "last run": {name: said[name] for name in said if name not in ("done", "failed", "total")},
    }


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
