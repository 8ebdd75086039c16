"""Parquet files of records (`[parquet]`): one column a field, row groups read one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from o1_records.files import InputError, MissingExtraError, atomic_write, plain_name, quoted
from o1_records.jsonl import encode
from o1_records.keys import KeySet
from o1_records.lines import Refuse, Refused, parquet_rows
from o1_records.types import Record

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError("o1-records", "parquet", "a Parquet file") from error

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
    for number, row in enumerate(parquet_rows(path), start=1):
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
    if plain_name(path) != Path(path).name:
        raise InputError(f"{path}: Parquet compresses its own columns; name it {plain_name(path)}")
    schema = _schema(record_type)
    decoder = msgspec.json.Decoder(record_type)
    seen = KeySet()
    rest, written = iter(records), 0
    with atomic_write(path) as file, pq.ParquetWriter(file, schema) as writer:
        while batch := list(islice(rest, _ROWS)):
            for record in batch:
                encode(record, str(path), decoder)
                if record.key_fields and not seen.add(record.key):
                    raise InputError(f"{path}: repeated key {quoted(record.key)}; nothing was written")
            rows = [msgspec.to_builtins(record) for record in batch]
            try:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            except (pa.ArrowException, OverflowError) as error:
                raise InputError(f"{path}: {error}") from error
            written += len(batch)
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
