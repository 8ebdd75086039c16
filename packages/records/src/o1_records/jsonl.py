"""JSON lines of records: reading validates, writing validates, a file is whole or absent.

Names that end in `.gz` or `.zst` are compressed.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import IO, Any, TypeVar, get_args

import msgspec

from o1_records.columns import has_columns, write_columns
from o1_records.files import InputError, open_output, quoted
from o1_records.keys import KeySet
from o1_records.lines import Refuse, Refused, checked_lines
from o1_records.types import Record

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=Record)


def read_jsonl(
    path: str | Path, record_type: type[RecordT], *, refused: Refuse | None = None
) -> Iterator[RecordT]:
    """Yield the records of a file in order, each checked.

    Raises InputError at the first bad line, as `file.jsonl:17: Expected `str`, got `int` - at
    `$.query_id``: a wrong type, a missing, unknown or repeated field, a repeated key, a
    non-finite number, bytes that are not UTF-8, a line of more than 64 MiB. With `refused` such
    lines go there instead, and the reading goes on.
    """
    nulls = [
        field.encode_name
        for field in msgspec.structs.fields(record_type)
        if field.required and NoneType in get_args(field.type)
    ]
    return checked_lines(path, record_decoder(record_type), refused, nulls=nulls)


def record_decoder(record_type: type[RecordT]) -> Callable[[bytes, str], RecordT]:
    """Return what makes a record of (line, place) for `read_jsonl`; it remembers the keys it has seen."""
    decoder = msgspec.json.Decoder(record_type)
    seen = KeySet()

    def decode(line: bytes, place: str) -> RecordT:
        record = decode_line(decoder, line, place)
        # msgspec lets the last of two equal fields win. What we wrote ourselves re-encodes to the
        # same bytes, so only foreign lines pay for the slow look.
        if msgspec.json.encode(record) != line:
            refuse_repeated_fields(line, place)
        if record.key_fields and not seen.add(record.key):
            raise InputError(f"{place}: repeated key {quoted(record.key)}; keep one of them")
        return record

    return decode


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Write records to a file that appears whole or not at all; returns how many.

    A name that ends in `.parquet` gets Parquet (`[parquet]`), one that ends in `.lance` Lance (`[lance]`), as
    `read_jsonl` reads them. Each line is decoded again before it counts, so nothing is written that
    `read_jsonl` refuses.
    """
    lines = _lines_of(path, records)
    count = 0
    if has_columns(path):
        # read twice: the types of the columns are known at the end
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent) as spool:
            for line in lines:
                spool.write(line + b"\n")
                count += 1
            write_columns(path, lambda: _rewound(spool))
        return count
    with open_output(path) as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count


def _lines_of(path: str | Path, records: Iterable[Record]) -> Iterator[bytes]:
    """Yield records as JSON, each checked."""
    seen = KeySet()
    decoders: dict[type[Record], msgspec.json.Decoder[Record]] = {}
    for number, record in enumerate(records, start=1):
        place = f"{path}: record {number}"
        if type(record) not in decoders:
            decoders[type(record)] = msgspec.json.Decoder(type(record))
        line = encode(record, place, decoders[type(record)])
        if record.key_fields and not seen.add(record.key):
            raise InputError(f"{place}: repeated key {quoted(record.key)}; nothing was written")
        yield line


def _rewound(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return iter(file)


@contextlib.contextmanager
def quarantine(path: str | Path) -> Iterator[tuple[Refuse, list[int]]]:
    """Open a file for Refused records, and collect the numbers of the lines that go into it."""
    numbers: list[int] = []
    with open_output(path) as file:

        def keep(refused: Refused) -> None:
            numbers.append(refused.line)
            file.write(encode(refused, f"{path}: line {refused.line}") + b"\n")

        yield keep, numbers


def encode(record: Record, place: str, decoder: msgspec.json.Decoder[Any] | None = None) -> bytes:
    """Return one checked JSON line, without its newline."""
    try:
        line = msgspec.json.encode(record)
        (decoder or msgspec.json.Decoder(type(record))).decode(line)
    except (msgspec.MsgspecError, UnicodeError, TypeError, OverflowError) as error:
        raise InputError(f"{place}: {error}; in {quoted(record)}") from error
    return line


def decode_line(decoder: msgspec.json.Decoder[T], line: bytes, place: str) -> T:
    """Decode one line. Raises InputError with its place and its beginning where it is not valid."""
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{place}: {error}{_hint(error, line)}; in {quoted(line[:200])}") from error


def _hint(error: Exception, line: bytes) -> str:
    """Return the likely cause: msgspec takes a lone surrogate for the end of the data."""
    if "truncated" in str(error) and line.endswith(b"}") and rb"\ud" in line.lower():
        return r" (a lone surrogate, a \ud... escape without its other half)"
    return ""


def refuse_repeated_fields(line: bytes, place: str) -> None:
    """Raise InputError where an object of a valid line has two fields of one name."""

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        named = dict(pairs)
        if len(named) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{place}: duplicate field {quoted(twice)}; keep one of them")
        return named

    json.loads(line, object_pairs_hook=check)
