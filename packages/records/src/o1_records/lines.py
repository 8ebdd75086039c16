"""Lines of text files in bounded memory, and what becomes of those that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, ClassVar, TypeVar

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
    path: str | Path, decode: Callable[[bytes, str], T], refused: Refuse | None = None
) -> Iterator[T]:
    """Yield `decode(line, place)` of every line that is not blank; place is `path:number`.

    A line that `decode` refuses with InputError, that is longer than 64 MiB, has a NUL byte or a
    byte order mark, ends the reading, or goes to `refused` where that is given.
    """
    with open_input(path) as file:
        for number, line, problem in _lines(file):
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


def _skip_rest(file: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(_SKIP_BYTES)


def _refused(number: int, line: bytes, reason: str) -> Refused:
    try:
        return Refused(line=number, reason=reason, text=line.decode())
    except UnicodeDecodeError:
        return Refused(line=number, reason=reason, raw=line)
