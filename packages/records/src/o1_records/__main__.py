"""The `o1-records` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

import o1_records
from o1_records.files import run_command
from o1_records.jsonl import read_jsonl

RECORD_TYPES: dict[str, type[o1_records.Record]] = {
    kind.__name__.lower(): kind
    for kind in (
        o1_records.Query,
        o1_records.Document,
        o1_records.Qrel,
        o1_records.Exclusion,
        o1_records.Hit,
        o1_records.Thought,
        o1_records.Ballot,
        o1_records.Example,
        o1_records.Metric,
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="o1-records", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_records.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    validate = commands.add_parser("validate", help="check every line of JSONL files")
    validate.add_argument("files", nargs="+")
    validate.add_argument("--type", required=True, choices=RECORD_TYPES)
    schema = commands.add_parser("schema", help="print the JSON Schema of a record")
    schema.add_argument("--type", required=True, choices=RECORD_TYPES)
    args = parser.parse_args(argv)
    record_type = RECORD_TYPES[args.type]
    if args.command == "schema":
        encoded = msgspec.json.encode(msgspec.json.schema(record_type))
        print(msgspec.json.format(encoded, indent=2).decode())
        return 0
    for path in args.files:
        count = sum(1 for _ in read_jsonl(path, record_type))
        print(f"{path}: {count} {args.type} records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
