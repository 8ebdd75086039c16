"""Splitting records into what is kept and what is removed, two files that are whole or absent."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from o1_records import Record, write_jsonl
from o1_vote.commands.kinds import Kind, Removal, records
from o1_vote.paths import refuse_one_file_twice


def sieve(
    files: Sequence[str],
    kind: Kind,
    *,
    out: str,
    reasons: str,
    inputs: dict[str, list[Path]],
    judge: Callable[[str, Any], Removal | None],
) -> int:
    """Write what `judge` finds nothing against to `out`, the rest to `reasons`. Returns the exit code."""
    inputs = {"files": [Path(file) for file in files], **inputs}
    refuse_one_file_twice(inputs, {"out": Path(out), "reasons": Path(reasons)})
    with tempfile.TemporaryFile() as removed:

        def kept() -> Iterator[Record]:
            for file, record in records(files, kind):
                removal = judge(file, record)
                if removal is None:
                    yield record
                else:
                    removed.write(msgspec.json.encode(removal) + b"\n")

        count = write_jsonl(out, kept())
        removed.seek(0)
        decoder = msgspec.json.Decoder(Removal)
        gone = write_jsonl(reasons, map(decoder.decode, removed))
    print(f"{out}: {count} kept; {reasons}: {gone} removed", file=sys.stderr)
    return 0
