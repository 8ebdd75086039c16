"""Splitting records into what is kept and what is removed, two files that are whole or absent."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from o1_records import InputError, Record, quoted, write_jsonl
from o1_records.jsonl import decode_line
from o1_records.lines import numbered_lines
from o1_records.keys import KeySet
from o1_records.files import open_input
from o1_vote.commands.kinds import Kind, Removal, records
from o1_vote.paths import refuse_one_file_twice


def refuse_overwriting(args: argparse.Namespace, inputs: Mapping[str, Sequence[Path]]) -> None:
    """Raise InputError where an output is a folder or is one of the files, `inputs` or the other output."""
    files = {"files": [Path(file) for file in args.files], **inputs}
    refuse_one_file_twice(files, {"out": Path(args.out), "reasons": Path(args.reasons)})


def sieve(
    files: Sequence[str],
    kind: Kind,
    *,
    out: str,
    reasons: str,
    judge: Callable[[str, Any], Removal | None],
) -> int:
    """Write what `judge` finds nothing against to `out`, the rest to `reasons`. Returns the exit code.

    Raises InputError where two files have a record of one key and both would be kept.
    """
    seen = KeySet()
    with tempfile.TemporaryFile() as removed:

        def kept() -> Iterator[Record]:
            for file, record in records(files, kind):
                removal = judge(file, record)
                if removal is None:
                    if not seen.add(record.key):
                        raise _clash(files, file, kind, record)
                    yield record
                else:
                    removed.write(msgspec.json.encode(removal) + b"\n")

        count = write_jsonl(out, kept())
        removed.seek(0)
        decoder = msgspec.json.Decoder(Removal)
        gone = write_jsonl(reasons, map(decoder.decode, removed))
    print(f"{out}: {count} kept; {reasons}: {gone} removed", file=sys.stderr)
    return 0


def _clash(files: Sequence[str], last: str, kind: Kind, record: Record) -> InputError:
    """What to raise for a key that a file and one before it have, with the lines of all of them."""
    places = ", ".join(place for file in files for place in _places(file, kind, record.key))
    return InputError(
        f"{last}: another file has the key {quoted(record.key)} too ({places}); give each record an id of "
        "its own; nothing was written"
    )


def _places(file: str, kind: Kind, key: object) -> Iterator[str]:
    if not Path(file).is_file():  # a pipe was read already
        return
    decoder = msgspec.json.Decoder(kind.record)
    with open_input(file) as lines:
        for number, line in numbered_lines(lines, file):
            place = f"{file}:{number}"
            if decode_line(decoder, line, place).key == key:
                yield place
