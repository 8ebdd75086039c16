"""`o1-records validate`: check every line of files."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from o1_records.formats import FORMATS, RECORD_TYPES, format_of, read, record_type_of
from o1_records.jsonl import quarantine
from o1_records.kit.command import reads, writes
from o1_records.lines import Refuse
from o1_records.progress import shown


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "files", nargs="+", once=True, help="the files to check")
    command.add_argument("--type", choices=RECORD_TYPES, help="record type, for formats that hold any record")
    command.add_argument("--format", choices=FORMATS, help="default: by the file's name")
    writes(command, "--quarantine", help="JSONL file for refused lines (one input file), with their reasons")


def run(args: argparse.Namespace) -> int:
    """Check files; stop at the first bad line, unless refused lines go to a file of their own."""
    if args.quarantine and len(args.files) > 1:
        print("error: --quarantine takes one input file", file=sys.stderr)
        return 2
    with quarantine_of(args.quarantine) as (refused, numbers):
        for path in args.files:
            name = format_of(path, args.format)
            kind = record_type_of([name], args.type)
            count = sum(1 for _ in shown(read(path, name, kind, refused), path.name))
            print(f"{path}: {count} {kind.__name__.lower()} records")
    return told_refused(numbers, args.quarantine)


def quarantine_of(path: Path | None) -> contextlib.AbstractContextManager[tuple[Refuse | None, list[int]]]:
    """Open the file for refused lines, if one is wanted, and collect the numbers of those lines."""
    return contextlib.nullcontext((None, [])) if path is None else quarantine(path)


def told_refused(numbers: list[int], path: Path | None) -> int:
    """Say how many lines were refused; returns the exit code, 3 where there were any."""
    if not numbers:
        return 0
    print(f"{len(numbers)} lines refused, kept in {path} with their reasons", file=sys.stderr)
    return 3
