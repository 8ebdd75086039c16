"""`o1-records schema`: the JSON Schema of a record."""

from __future__ import annotations

import argparse

import msgspec

from o1_records.formats import RECORD_TYPES


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("--type", required=True, choices=RECORD_TYPES, help="which record")


def run(args: argparse.Namespace) -> int:
    """Print the JSON Schema of a record."""
    encoded = msgspec.json.encode(msgspec.json.schema(RECORD_TYPES[args.type]))
    print(msgspec.json.format(encoded, indent=2).decode())
    return 0
