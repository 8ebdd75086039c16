"""The `o1-vote` command: elect thoughts by a committee, and curate what a retriever is trained on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import o1_vote
from o1_records import run_command
from o1_vote.commands import calibrate, decontaminate, dedup, elect, explain, mine, report, stats

COMMANDS = {
    "elect": (elect, "elect a thought for each query and write training examples"),
    "explain": (explain, "say what every member said about a query, and why the winner won"),
    "report": (report, "write one HTML page about an election"),
    "calibrate": (calibrate, "weigh members by their agreement with held-out relevance"),
    "mine": (mine, "mine hard negatives and write training examples"),
    "dedup": (dedup, "remove duplicates and near-duplicates within and across files"),
    "decontaminate": (decontaminate, "remove what overlaps with a test set"),
    "stats": (stats, "count what examples hold"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-vote", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_vote.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run=module.run)
        module.declare(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
