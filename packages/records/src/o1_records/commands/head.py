"""`o1-records head`: the first records of a file, as JSON lines."""

from __future__ import annotations

import argparse
from itertools import islice

from o1_records.formats import FORMATS, RECORD_TYPES, format_of, read, record_type_of
from o1_records.jsonl import encode
from o1_records.kit.command import at_least, reads


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "file", once=True, help="the file to look at")
    command.add_argument("-n", "--count", type=at_least(1), default=5, help="records to show")
    command.add_argument("--type", choices=RECORD_TYPES, help="record type, for formats that hold any record")
    command.add_argument("--format", choices=FORMATS, help="default: by the file's name")


def run(args: argparse.Namespace) -> int:
    """Print the first records, each checked."""
    name = format_of(args.file, args.format)
    for record in islice(read(args.file, name, record_type_of([name], args.type)), args.count):
        print(encode(record, str(args.file)).decode())
    return 0
