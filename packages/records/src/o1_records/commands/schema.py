"""`o1-records schema`: the JSON Schema of a record."""

from __future__ import annotations

import argparse

import msgspec

from o1_records.formats import RECORD_TYPES


def declare(command: argparse.ArgumentParser) -> None:
    """Of what."""
    command.add_argument("--type", required=True, choices=RECORD_TYPES)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    encoded = msgspec.json.encode(msgspec.json.schema(RECORD_TYPES[args.type]))
    print(msgspec.json.format(encoded, indent=2).decode())
    return 0
