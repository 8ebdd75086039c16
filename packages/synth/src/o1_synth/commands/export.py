"""`o1-synth export`: the thoughts that a job has so far, while it runs or after."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from o1_records import InputError, refuse_overwriting, write_jsonl
from o1_synth.ledger import Ledger


def declare(command: argparse.ArgumentParser) -> None:
    """Of which job, and where to."""
    command.add_argument("job", type=Path, help="the --out of o1-synth think")
    command.add_argument("--out", required=True, type=Path, help="JSONL of Thought records (.gz, .zst)")


def run(args: argparse.Namespace) -> int:
    """Write them, ordered by query_id and sample; the job is not disturbed."""
    with Ledger(args.job) as ledger:
        own = {"journal": ledger.folder / "journal.sqlite", "output": ledger.folder.with_suffix("")}
        refuse_overwriting({f"the job's {name}": path for name, path in own.items()}, {"--out": args.out})
        if ledger.note("publishes") == "something else":
            raise InputError(
                f"{ledger.folder}: holds answers that are no thoughts; its own command publishes them"
            )
        samples = int(ledger.note("samples") or 0)
        count = write_jsonl(args.out, ledger.thoughts(samples))
        total = ledger.queries() * samples
    if not total:
        raise InputError(f"{ledger.folder}: nothing was asked for yet")
    print(f"{args.out}: {count} of {total} thoughts", file=sys.stderr)
    return 0
