"""Lines of files, or rows of Parquet, in bounded memory, and what becomes of those that are refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import msgspec

from o1_records.files import InputError, MissingExtraError, open_input, plain_name
from o1_records.types import Record

T = TypeVar("T")

MAX_LINE_BYTES = 64 * 2**20
_KEPT_OF_LONG = 1000
_SKIP_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
_ROWS = 1000
"""Of a Parquet file, decoded at a time."""


class Refused(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line that was not read, and why. `raw` is the line (base64) where it is not UTF-8."""

    key_fields: ClassVar[tuple[str, ...]] = ("line",)
    line: int
    reason: str
    text: str = ""
    raw: bytes = b""


Refuse = Callable[[Refused], None]


def checked_lines(
    path: str | Path,
    decode: Callable[[bytes, str], T],
    refused: Refuse | None = None,
    *,
    nulls: Collection[str] = (),
) -> Iterator[T]:
    """Yield `decode(line, place)` of every line that is not blank; place is `path:number`.

    A row of a `.parquet` file is a line: a JSON object without the fields that are null, but for those of
    `nulls`. A line that `decode` refuses with InputError, that is longer than 64 MiB, has a NUL byte or a
    byte order mark, ends the reading, or goes to `refused` where that is given.
    """
    if is_parquet(path):
        yield from _decoded(path, _rows_as_lines(path, nulls), decode, refused)
        return
    with open_input(path) as file:
        yield from _decoded(path, _lines(file), decode, refused)


def lines_by_first(path: str | Path, choose: Callable[[bytes], Callable[[bytes, str], T]]) -> Iterator[T]:
    """Yield, as `checked_lines`, what the decoder makes of each line that `choose` returns for the first one.

    So the content says what a file holds, of a pipe too, which has no name and is read once.
    """
    chosen: list[Callable[[bytes, str], T]] = []

    def decode(line: bytes, place: str) -> T:
        if not chosen:
            chosen.append(choose(line))
        return chosen[0](line, place)

    return checked_lines(path, decode)


def is_json(line: bytes) -> bool:
    """Return whether a line without white space around it looks like a JSON object."""
    return line.startswith(b"{") and line.endswith(b"}")


def _decoded(
    path: str | Path,
    lines: Iterable[tuple[int, bytes, str]],
    decode: Callable[[bytes, str], T],
    refused: Refuse | None,
) -> Iterator[T]:
    for number, line, problem in lines:
        place = f"{path}:{number}"
        try:
            if problem:
                raise InputError(f"{place}: {problem}")
            value = decode(line, place)
        except InputError as error:
            if refused is None:
                raise
            refused(_refused(number, line, str(error)))
            continue
        yield value


def numbered_lines(file: IO[bytes], path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without newline) in bounded memory; skip blank lines."""
    for number, line, problem in _lines(file):
        if problem:
            raise InputError(f"{path}:{number}: {problem}")
        yield number, line


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, str]]:
    """Yield (number from 1, line, what is wrong with it as a line)."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            _skip_rest(file, line)
            problem = f"the line is longer than {MAX_LINE_BYTES} bytes; split the record"
            yield number, line[:_KEPT_OF_LONG], problem
            continue
        problem = ""
        if number == 1 and line.startswith(_BOM):
            problem = "starts with a byte order mark; save it as UTF-8 without one"
        elif b"\0" in line:
            problem = f"a NUL byte at byte {line.index(0)}; the file is damaged or not text"
        line = line.strip(b"\r\n \t")
        if line:
            yield number, line, problem


def is_parquet(path: str | Path) -> bool:
    """Return whether a file's name says that it is Parquet.

    Raises InputError for one that is compressed, and for Lance, which holds no records here.
    """
    if Path(path).suffix == ".lance":
        raise InputError(
            f"{path}: records are kept as .jsonl or .parquet, not as Lance; convert them (Lance holds "
            "vectors: o1-index export --to lance:FOLDER#NAME)"
        )
    if Path(plain_name(path)).suffix != ".parquet":
        return False
    if Path(path).suffix != ".parquet":
        raise InputError(f"{path}: Parquet compresses its own columns; name it {plain_name(path)}")
    return True


def parquet_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, with the fields that are null; needs the `[parquet]` extra."""
    pa, pq = _pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"{path}: {error}") from error


def write_parquet_rows(file: IO[bytes], lines: Callable[[], Iterable[bytes]]) -> None:
    """Write JSON objects as the rows of a Parquet file; `lines` is called twice, first for the types."""
    pa, pq = _pyarrow()

    def batches() -> Iterator[Any]:
        remaining = iter(lines())
        while some := list(itertools.islice(remaining, _ROWS)):
            yield pa.Table.from_pylist([msgspec.json.decode(line) for line in some])

    schema = pa.unify_schemas(
        [pa.schema([]), *(batch.schema for batch in batches())], promote_options="permissive"
    )
    with pq.ParquetWriter(file, schema) as writer:
        for batch in batches():
            writer.write_table(pa.Table.from_pylist(batch.to_pylist(), schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("o1-records", "parquet", "a Parquet file") from error
    return pyarrow, pyarrow.parquet


def _rows_as_lines(path: str | Path, nulls: Collection[str] = ()) -> Iterator[tuple[int, bytes, str]]:
    for number, row in enumerate(parquet_rows(path), 1):
        fields = {name: value for name, value in row.items() if value is not None or name in nulls}
        try:
            yield number, msgspec.json.encode(fields), ""
        except (TypeError, ValueError, UnicodeError) as error:
            yield number, repr(fields).encode(errors="backslashreplace")[:_KEPT_OF_LONG], str(error)


def _skip_rest(file: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(_SKIP_BYTES)


def _refused(number: int, line: bytes, reason: str) -> Refused:
    try:
        return Refused(line=number, reason=reason, text=line.decode())
    except UnicodeDecodeError:
        return Refused(line=number, reason=reason, raw=line)
