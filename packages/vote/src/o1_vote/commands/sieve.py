"""What `dedup` and `decontaminate` have in common on the command line."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from o1_records.kit.command import reads, writes
from o1_vote.curation.sieve import KINDS, Sieved


def declare(command: ArgumentParser) -> None:
    """Add the files, what they hold, and where the records go."""
    reads(command, "files", nargs="+", once=True, help="JSONL; an earlier file's records come first")
    command.add_argument(
        "--type",
        required=True,
        choices=KINDS,
        help="what the files hold; examples are compared by their queries",
    )
    writes(command, "--out", required=True, help="JSONL of what is kept")
    writes(command, "--reasons", required=True, help="JSONL of what is removed, and why")


def tell(args: Namespace, sieved: Sieved) -> int:
    """Print how much was kept and removed; returns the exit code."""
    told = f"{args.out}: {sieved.kept} kept; {args.reasons}: {sieved.removed} removed"
    if sieved.parts:
        told += f", and {sieved.parts} negatives of kept examples"
    print(told, file=sys.stderr)
    return 0
