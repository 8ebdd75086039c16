"""The `o1-records` command: check, convert and look at files of records."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import o1_records
from o1_records.command import parser_of, run_chosen, run_command
from o1_records.commands import convert, head, schema, validate

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
    return run_chosen(_parser(), argv)


def _parser() -> ArgumentParser:
    return parser_of(COMMANDS, prog="o1-records", version=o1_records.__version__, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
