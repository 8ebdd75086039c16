"""`o1-records convert`: from one file format to another."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from o1_records import flagembedding
from o1_records.commands.validate import quarantine_of, told_refused
from o1_records.files import atomic_write
from o1_records.flagembedding import Extra
from o1_records.formats import FORMATS, RECORD_TYPES, format_of, read, record_type_of, write
from o1_records.jsonl import encode, read_jsonl
from o1_records.kit.command import reads, writes
from o1_records.progress import shown

_EXTRA = ".extra.jsonl"


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "input", beside=[_EXTRA], once=True, help="the file to convert")
    writes(command, "output", beside=[_EXTRA], help="the file to write")
    command.add_argument("--from", dest="source", choices=FORMATS, help="default: by the file's name")
    command.add_argument("--to", dest="target", choices=FORMATS, help="default: by the file's name")
    command.add_argument("--type", choices=RECORD_TYPES, help="record type, for formats that hold any record")
    writes(command, "--quarantine", help="JSONL file for refused lines of the input, with their reasons")


def run(args: argparse.Namespace) -> int:
    """Convert a file; the output appears whole or not at all.

    What FlagEmbedding's rows have beyond an example is kept in `<output>.extra.jsonl`, keyed by
    query_id, and goes back into the rows when that output is converted again.
    """
    source, target = format_of(args.input, args.source), format_of(args.output, args.target)
    kind = record_type_of([source, target], args.type)
    with quarantine_of(args.quarantine) as (refused, numbers), contextlib.ExitStack() as stack:
        if source == "flagembedding":
            extra = stack.enter_context(_kept(_sidecar(args.output)))
            records: Iterator[Any] = flagembedding.read(args.input, refused=refused, extra=extra)
        else:
            records = read(args.input, source, kind, refused)
        records = shown(records, args.input.name)
        if target == "flagembedding" and _sidecar(args.input).exists():
            fields = {extra.query_id: extra.fields for extra in read_jsonl(_sidecar(args.input), Extra)}
            count = flagembedding.write(args.output, records, extra=fields)
        else:
            count = write(args.output, target, records, kind)
    print(f"{args.output}: {count} {kind.__name__.lower()} records", file=sys.stderr)
    return told_refused(numbers, args.quarantine)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + _EXTRA)


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[Callable[[Extra], None]]:
    """Open the file for fields that an example cannot hold; without such fields there is no file."""
    count = 0
    with atomic_write(path) as file:

        def keep(extra: Extra) -> None:
            nonlocal count
            count += 1
            file.write(encode(extra, f"{path}: {count}") + b"\n")

        yield keep
    if not count:
        path.unlink()
