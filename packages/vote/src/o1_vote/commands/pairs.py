"""`o1-vote pairs`: preference pairs of thoughts, as TRL's trainers read them."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from o1_records.kit.command import writes
from o1_vote.commands import rules
from o1_vote.election.pairs import REJECTED, write_pairs


def declare(command: ArgumentParser) -> None:
    """Add the files of the election, how to count, which thoughts are rejected, where to write."""
    rules.declare_recount(command)
    add = command.add_argument
    add(
        "--rejected",
        choices=REJECTED,
        default="worst",
        help="which thoughts that lose are rejected: the worst of each query, all (a pair each), or one at "
        "random",
    )
    add("--gap", type=float, default=0.0, help="points that a rejected thought must be below the elected")
    add(
        "--prompt",
        default="{query}",
        help="what the model is asked, with {query} and {instruction} for those of each query",
    )
    add("--chat", action="store_true", help="write messages of a user and an assistant instead of texts")
    writes(command, "--out", required=True, help="JSONL of prompt, chosen and rejected")


def run(args: Namespace) -> int:
    """Count and write."""
    done = write_pairs(
        args.ballots,
        thoughts=args.thoughts,
        queries=args.queries,
        out=args.out,
        rejected=args.rejected,
        gap=args.gap,
        prompt=args.prompt,
        chat=args.chat,
        **rules.given(args),
    )
    print(done.told, file=sys.stderr)
    print(
        f"{args.out}: {done.pairs} pairs; of the queries {done.abstained} elected no thought, {done.level} "
        "have none that loses by so much",
        file=sys.stderr,
    )
    return 0
