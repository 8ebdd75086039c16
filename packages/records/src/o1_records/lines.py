"""Lines of files, or rows of columns, in bounded memory, and what becomes of those that are refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, ClassVar, TypeVar

import msgspec

from o1_records.columns import has_columns, read_columns
from o1_records.files import InputError, open_input
from o1_records.types import Record

T = TypeVar("T")

MAX_LINE_BYTES = 64 * 2**20
_KEPT_OF_LONG = 1000
_SKIP_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"


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

    A row of a `.parquet` file or a `.lance` folder is a line: a JSON object without the fields that are null,
    but for those of `nulls`. A line that `decode` refuses with InputError, that is longer than 64 MiB, has a
    NUL byte or a byte order mark, ends the reading, or goes to `refused` where that is given.
    """
    if has_columns(path):
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


def _rows_as_lines(path: str | Path, nulls: Collection[str] = ()) -> Iterator[tuple[int, bytes, str]]:
    for number, row in enumerate(read_columns(path), 1):
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
