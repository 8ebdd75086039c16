"""The `o1-records` command: check, convert and look at files of records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import o1_records
from o1_records.commands import convert, head, schema, validate
from o1_records.files import run_command

COMMANDS = {
    "validate": (validate, "check every line of files"),
    "convert": (convert, "from one file format to another"),
    "schema": (schema, "print the JSON Schema of a record"),
    "head": (head, "print the first records of a file"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-records", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_records.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run=module.run)
        module.declare(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
