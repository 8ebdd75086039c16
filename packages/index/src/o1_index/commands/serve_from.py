"""`o1-index serve-from`: an HTTP server of one collection in a vector database."""

from __future__ import annotations

import argparse

from o1_index.commands.serve import options, until_terminated
from o1_index.databases.database import EFFORT, FORMS, open_store
from o1_records.kit.command import at_least


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("database", metavar="DATABASE", help=f"the collection to search: {FORMS}")
    command.add_argument(
        "--effort", type=at_least(1), default=EFFORT, help="candidates that a graph search looks at"
    )
    options(command)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    with open_store(args.database, effort=args.effort) as store:
        return until_terminated(store, args)
