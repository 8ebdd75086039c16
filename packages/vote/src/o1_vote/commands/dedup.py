"""`o1-vote dedup`: exact and near-duplicates within and across files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from o1_records.kit.command import reads
from o1_vote.commands import sieve
from o1_vote.curation.duplicates import SAME, dedup
from o1_vote.curation.sieve import KINDS


def declare(command: ArgumentParser) -> None:
    """Add what is compared, and how similar is too similar."""
    sieve.declare(command)
    command.add_argument(
        "--same",
        choices=SAME,
        default="text",
        help="what duplicates have in common: the text but for case, white space and Unicode's forms, or the "
        "words, without punctuation",
    )
    command.add_argument(
        "--near", type=float, help="share of word triples in common that makes a near-duplicate, such as 0.8"
    )
    reads(
        command,
        "--against",
        nargs="*",
        default=[],
        once=True,
        help="JSONL whose records come before all others, and are not written",
    )


def run(args: Namespace) -> int:
    """Keep the first of each; nothing is removed without a reason, and no positive of an equal query."""
    kind = KINDS[args.type]
    done = dedup(
        args.files,
        kind,
        out=args.out,
        reasons=args.reasons,
        near=args.near,
        by=args.same,
        against=args.against,
    )
    return sieve.tell(args, done)
