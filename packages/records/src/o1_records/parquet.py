"""Parquet files (`[parquet]`) and Lance folders (`[lance]`) of records: one column a field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from o1_records.columns import has_columns, pyarrow, read_columns, write_tables
from o1_records.files import InputError, quoted
from o1_records.jsonl import encode
from o1_records.keys import KeySet
from o1_records.lines import Refuse, Refused
from o1_records.types import Record

pa = pyarrow()

RecordT = TypeVar("RecordT", bound=Record)

_ROWS = 1000  # written at a time
_TYPES: dict[type, Any] = {
    msgspec.inspect.StrType: pa.string(),
    msgspec.inspect.IntType: pa.int64(),
    msgspec.inspect.FloatType: pa.float64(),
}


def read(path: str | Path, record_type: type[RecordT], *, refused: Refuse | None = None) -> Iterator[RecordT]:
    """Yield the rows as records in order, each checked. Raises InputError with file and row."""
    seen = KeySet()
    for number, row in enumerate(read_columns(path), start=1):
        place = f"{path}: row {number}"
        try:
            try:
                record = msgspec.convert(row, record_type)
            except msgspec.ValidationError as error:
                raise InputError(f"{place}: {error}; in {quoted(row, 200)}") from error
            encode(record, place)  # what JSON cannot hold, as a number that is not finite
            if record.key_fields and not seen.add(record.key):
                raise InputError(f"{place}: repeated key {quoted(record.key)}; keep one of them")
        except InputError as error:
            if refused is None:
                raise
            refused(Refused(line=number, reason=str(error), text=repr(row)))
            continue
        yield record


def write(path: str | Path, records: Iterable[RecordT], record_type: type[RecordT]) -> int:
    """Write records of one type to a file that appears whole or not at all; returns how many."""
    has_columns(path)  # refuses a name that compresses
    schema = _schema(record_type)
    written = 0

    def tables() -> Iterator[Any]:
        nonlocal written
        decoder = msgspec.json.Decoder(record_type)
        seen, rest = KeySet(), iter(records)
        while batch := list(islice(rest, _ROWS)):
            for record in batch:
                encode(record, str(path), decoder)
                if record.key_fields and not seen.add(record.key):
                    raise InputError(f"{path}: repeated key {quoted(record.key)}; nothing was written")
            rows = [msgspec.to_builtins(record) for record in batch]
            try:
                yield pa.Table.from_pylist(rows, schema=schema)
            except (pa.ArrowException, OverflowError) as error:
                raise InputError(f"{path}: {error}") from error
            written += len(batch)

    write_tables(path, schema, tables())
    return written


def _schema(record_type: type[Record]) -> Any:
    return pa.schema(list(_arrow(msgspec.inspect.type_info(record_type))))


def _arrow(kind: msgspec.inspect.Type) -> Any:
    """Arrow's type for a type of the records."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _arrow(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):  # T | None; every Arrow column may be null
        return _arrow(next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType)))
    if isinstance(kind, msgspec.inspect.VarTupleType):
        return pa.list_(_arrow(kind.item_type))
    if isinstance(kind, msgspec.inspect.StructType):
        return pa.struct([(field.encode_name, _arrow(field.type)) for field in kind.fields])
    return _TYPES[type(kind)]
