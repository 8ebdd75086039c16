"""`o1-bench fetch`: build or download a collection, or those of a suite."""

from __future__ import annotations

import argparse
from pathlib import Path

from o1_bench.commands import _shared
from o1_bench.datasets.suites import fetch
from o1_records.kit.command import new_job, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("name", help="stdlib, a collection or a suite, such as bright/biology or bright")
    writes(
        command, "--out", folder=True, required=True, metavar="DIR",
        help="the folder of stdlib; else the folder of all data",
    )  # fmt: skip
    new_job(command)


def run(args: argparse.Namespace) -> int:
    """Fetch one after the other; those that fail are listed."""
    with _shared.partly() as outcome:
        ready = fetch(args.name, args.out, new_job=args.new_job, tell=_tell)
        if args.name == "stdlib":
            _tell(args.name, ready[args.name])
    return outcome.code


def _tell(name: str, outcome: Path | Exception) -> None:
    _shared.say(f"error: {outcome}" if isinstance(outcome, Exception) else f"{outcome}: ready")
