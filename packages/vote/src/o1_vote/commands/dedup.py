"""`o1-vote dedup`: exact and near-duplicates within and across files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from o1_vote.commands import kinds
from o1_vote.commands.kinds import KINDS, Removal, records
from o1_vote.commands.sieve import refuse_overwriting, sieve
from o1_vote.duplicates import Duplicates


def declare(command: argparse.ArgumentParser) -> None:
    """What is compared, and how alike is too alike."""
    kinds.declare(command)
    command.add_argument(
        "--near", type=float, help="share of word triples in common that is too much, as 0.8"
    )
    command.add_argument(
        "--against", nargs="*", default=[], help="JSONL whose records come before all others"
    )


def run(args: argparse.Namespace) -> int:
    """Keep the first of each; nothing is removed without a reason."""
    refuse_overwriting(args, {"against": [Path(file) for file in args.against]})
    kind, known = KINDS[args.type], Duplicates(args.near)

    def judge(file: str, record: Any) -> Removal | None:
        name = kind.name(record)
        twin = known.first(f"{file}: {name}", kind.text(record))
        if twin is None:
            return None
        reason = "the same words" if twin.similarity == 1 else "near-duplicate"
        return Removal(file=file, name=name, reason=reason, like=twin.name, share=twin.similarity)

    for file, record in records(args.against, kind):
        known.first(f"{file}: {kind.name(record)}", kind.text(record))
    return sieve(args.files, kind, out=args.out, reasons=args.reasons, judge=judge)
