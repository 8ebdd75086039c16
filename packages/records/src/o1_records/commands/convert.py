"""`o1-records convert`: from one file format to another."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from o1_records.commands.validate import quarantine_of, told_refused
from o1_records.files import InputError, InputWarning, is_file, quoted
from o1_records.flagembedding import Extra, read_extras, write_extras
from o1_records.formats import FORMATS, RECORD_TYPES, format_of, read, record_type_of, write
from o1_records.kit.command import at_least, reads, writes
from o1_records.progress import shown
from o1_records.types import Example

_EXTRA = ".extra.jsonl"


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "input", beside=[_EXTRA], once=True, help="the file to convert")
    writes(command, "output", beside=[_EXTRA], help="the file to write")
    command.add_argument("--from", dest="source", choices=FORMATS, help="default: by the file's name")
    command.add_argument("--to", dest="target", choices=FORMATS, help="default: by the file's name")
    command.add_argument("--type", choices=RECORD_TYPES, help="record type, for formats that hold any record")
    command.add_argument(
        "--columns",
        type=_columns,
        metavar="NAME=COLUMN,...",
        help="from triplets and pairs: what the file calls anchor, positive, document, label",
    )
    command.add_argument(
        "--negatives",
        type=at_least(0),
        metavar="N",
        help="to triplets: negatives of every row; examples with fewer are left out",
    )
    reads(
        command,
        "--extra",
        once=True,
        help="to flagembedding: fields by query_id, instead of those beside the input",
    )
    writes(command, "--quarantine", help="JSONL file for refused lines of the input, with their reasons")


def run(args: argparse.Namespace) -> int:
    """Convert a file; the output appears whole or not at all.

    What FlagEmbedding's rows have beyond an example is kept in `<output>.extra.jsonl`, keyed by query_id, and
    goes back into the rows when that output is converted again.
    """
    source, target = format_of(args.input, args.source), format_of(args.output, args.target)
    kind = record_type_of([source, target], args.type)
    reading, writing = _options(args, source, target)
    unread: Counter[str] = Counter()
    if FORMATS[source].counts_unread:
        reading["unread"] = unread
    extras = _Extras()
    if source == "flagembedding":
        reading["extra"] = extras.keep
    with quarantine_of(args.quarantine) as (refused, numbers):
        records: Iterator[Any] = shown(read(args.input, source, kind, refused, **reading), args.input.name)
        if target == "flagembedding":
            beside, given = _beside(args.input), {}
            if args.extra:
                given = read_extras(args.extra)
            elif is_file(args.input) and beside.exists():
                given = read_extras(beside, of=args.input)
            records = _told_unused(records, given, args.extra or beside)
            writing["extra"] = given
        count = write(args.output, target, records, kind, **writing)
    extras.publish(args.output)
    _tell_unread(args.input, unread)
    print(f"{args.output}: {count} {kind.__name__.lower()} records", file=sys.stderr)
    return told_refused(numbers, args.quarantine)


def _options(args: argparse.Namespace, source: str, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of reading and writing. Raises InputError for one without effect."""
    reading, writing = {}, {}
    if args.columns:
        if not FORMATS[source].named_columns:
            raise InputError(f"--columns has no effect where the input is {source}; leave it out")
        reading["columns"] = args.columns
    if args.negatives is not None:
        if not FORMATS[target].fixed_width:
            raise InputError(f"--negatives has no effect where the output is {target}; leave it out")
        writing["negatives"] = args.negatives
    if args.extra and target != "flagembedding":
        raise InputError(f"--extra has no effect where the output is {target}; leave it out")
    return reading, writing


def _columns(text: str) -> dict[str, str]:
    named = dict(part.partition("=")[::2] for part in text.split(","))
    if not all(named) or not all(named.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN,NAME=COLUMN")
    return named


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _EXTRA)


class _Extras:
    """The fields that examples cannot hold, on the disk until the examples are written."""

    def __init__(self) -> None:
        self._spool = tempfile.TemporaryFile()
        self._any = False

    def keep(self, extra: Extra) -> None:
        """Keep the fields of one row."""
        self._spool.write(msgspec.json.encode(extra) + b"\n")
        self._any = True

    def publish(self, out: Path) -> None:
        """Write them beside the output; without any there is no such file, and none of an older output."""
        beside = _beside(out)
        if self._any:
            self._spool.seek(0)
            decoder = msgspec.json.Decoder(Extra)
            write_extras(beside, map(decoder.decode, self._spool), of=out)
        elif beside.exists():
            beside.unlink()
            _tell(f"{beside}: removed, for it belonged to the file that {out} replaces")


def _told_unused(
    records: Iterator[Example], given: dict[str, dict[str, Any]], path: Path
) -> Iterator[Example]:
    """Yield the records, and tell how many of the fields given belong to none of them."""
    waiting = set(given)
    for record in records:
        waiting.discard(record.query.query_id)
        yield record
    if waiting:
        _tell(
            f"{path}: {len(waiting)} of its {len(given)} queries are not in the input: {quoted(min(waiting))}"
        )


def _tell_unread(path: Path, unread: Counter[str]) -> None:
    if unread:
        fields = ", ".join(f"{name} ({count})" for name, count in unread.items())
        _tell(f"{path}: fields that records have no place for are left out: {fields}")


def _tell(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=3)
