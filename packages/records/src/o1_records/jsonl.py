"""JSON lines of records: reading validates, writing validates, a file is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from o1_records.files import InputError, atomic_write, quoted
from o1_records.types import Record

RecordT = TypeVar("RecordT", bound=Record)

MAX_LINE_BYTES = 64 * 2**20
_BOM = b"\xef\xbb\xbf"


def read_jsonl(path: str | Path, record_type: type[RecordT]) -> Iterator[RecordT]:
    """Yield the records of a file in order, each checked.

    Raises InputError at the first bad line, as `file.jsonl:17: Expected `str`, got `int` - at
    `$.query_id``: a wrong type, a missing, unknown or repeated field, a repeated key, a
    non-finite number, bytes that are not UTF-8, a line of more than 64 MiB.
    """
    decoder = msgspec.json.Decoder(record_type)
    seen: set[tuple[object, ...]] = set()
    with open(path, "rb") as file:
        for number, line in numbered_lines(file, path):
            place = f"{path}:{number}"
            record = _decode(decoder, line, place)
            if record.key_fields and record.key in seen:
                raise InputError(f"{place}: repeated key {quoted(record.key)}; keep one of them")
            seen.add(record.key)
            yield record


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Write records to a file that appears whole or not at all; returns how many.

    Each line is decoded again before it counts, so nothing is written that `read_jsonl` refuses.
    """
    seen: set[tuple[object, ...]] = set()
    decoders: dict[type[Record], msgspec.json.Decoder[Record]] = {}
    count = 0
    with atomic_write(path) as file:
        for record in records:
            count += 1
            place = f"{path}: record {count}"
            if type(record) not in decoders:
                decoders[type(record)] = msgspec.json.Decoder(type(record))
            line = encode(record, place, decoders[type(record)])
            if record.key_fields and record.key in seen:
                raise InputError(f"{place}: repeated key {quoted(record.key)}; nothing was written")
            seen.add(record.key)
            file.write(line + b"\n")
    return count


def encode(record: Record, place: str, decoder: msgspec.json.Decoder[Any] | None = None) -> bytes:
    """One checked JSON line, without its newline."""
    try:
        line = msgspec.json.encode(record)
        (decoder or msgspec.json.Decoder(type(record))).decode(line)
    except (msgspec.MsgspecError, UnicodeError, TypeError, OverflowError) as error:
        raise InputError(f"{place}: {error}; in {quoted(record)}") from error
    return line


def numbered_lines(file: IO[bytes], path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without newline) in bounded memory; skip blank lines."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes; split the record"
            )
        if number == 1 and line.startswith(_BOM):
            raise InputError(f"{path}:1: starts with a byte order mark; save it as UTF-8 without one")
        line = line.strip(b"\r\n \t")
        if line:
            yield number, line


def _decode(decoder: msgspec.json.Decoder[RecordT], line: bytes, place: str) -> RecordT:
    try:
        record = decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{place}: {error}; in {quoted(line[:200])}") from error
    # msgspec lets the last of two equal fields win. What we wrote ourselves re-encodes to the
    # same bytes, so only foreign lines pay for the slow look.
    if msgspec.json.encode(record) != line:
        _refuse_repeated_fields(line, place)
    return record


def _refuse_repeated_fields(line: bytes, place: str) -> None:
    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{place}: field {quoted(name)} stands twice; keep one of them")
        return dict(pairs)

    json.loads(line, object_pairs_hook=check)
