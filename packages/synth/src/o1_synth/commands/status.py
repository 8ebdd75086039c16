"""`o1-synth status`: the state of a job, from another shell."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from o1_records.kit.command import EVERYTHING, reads
from o1_synth.job.watch import status


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: which job, and in which form."""
    reads(command, "job", inside=EVERYTHING, help="the --out of the command, such as o1-synth think")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print it; the job is not disturbed."""
    state = status(args.job)
    if args.json:
        print(msgspec.json.encode(state).decode())
        return 0
    for name, value in state.items():
        print(f"{name}: {_shown(value)}")
    return 0


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
