"""Options that several commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from o1_bench.score import Measure, parse_measure
from o1_records import InputError


def qrels(command: argparse.ArgumentParser, *, required: bool) -> None:
    """What runs are scored against."""
    command.add_argument(
        "--qrels", type=Path, required=required, help="a TREC qrels file, a BEIR folder or ROOT/NAME"
    )
    command.add_argument("--split", default="test", help="of the BEIR folder")


def measure(text: str) -> Measure:
    """A measure on the command line; a wrong one is a usage error."""
    try:
        return parse_measure(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def say(text: str) -> None:
    """Talk on stderr; stdout is for data."""
    print(text, file=sys.stderr)
