"""Rows of a table as hubs keep it: JSON lines, gzipped or not, or Parquet, in one file or in shards.

```
folder/corpus.jsonl   folder/corpus.jsonl.gz   folder/corpus.parquet      one file
folder/corpus-00000-of-00007.parquet ...                                  shards
folder/corpus/*.parquet (or .jsonl, .jsonl.gz)                            a folder of its own
```
A row is read into a msgspec struct, so a missing, null or wrongly typed column is refused with its
file and line; columns that the struct does not name are not read. Rows are streamed.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Generic, TypeVar, cast

import msgspec

from o1_records import Document, InputError, MissingExtraError, quoted
from o1_records.lines import numbered_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

Row = TypeVar("Row", bound=msgspec.Struct)

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_BATCH = 256


@dataclass(frozen=True)
class TableDocuments(Generic[Row]):
    """Documents read from the files of a table whenever they are iterated."""

    files: Sequence[Path]
    row_type: type[Row]
    document: Callable[[Row], Document]

    def __iter__(self) -> Iterator[Document]:
        return (self.document(row) for _, row in read_rows(self.files, self.row_type))


@dataclass(frozen=True)
class LastOfEach:
    """Documents where of those with one id only the last counts, as in a dictionary that is filled.

    The first pass counts (an id a document in memory), every pass skips what was overwritten.
    """

    documents: Iterable[Document]

    def __iter__(self) -> Iterator[Document]:
        overwritten = self.overwritten
        return (document for number, document in enumerate(self.documents) if number not in overwritten)

    @cached_property
    def overwritten(self) -> frozenset[int]:
        """The positions of the documents that a later one replaces."""
        last: dict[str, int] = {}
        found = []
        for number, document in enumerate(self.documents):
            if document.doc_id in last:
                found.append(last[document.doc_id])
            last[document.doc_id] = number
        return frozenset(found)


def word(name: str) -> str:
    """An id that a TREC file can hold: white space becomes `_`."""
    return "_".join(name.split()) if name.split() != [name] else name


def with_merged(revision: str, documents: object) -> str:
    """The revision, with the number of documents that others of the same id replaced."""
    merged = len(documents.overwritten) if isinstance(documents, LastOfEach) else 0
    said = f"{merged} repeated documents merged, the last one kept" if merged else ""
    return "; ".join(filter(None, (revision, said)))


def find_table(folder: Path, name: str) -> list[Path]:
    """The files of a table, in order; none when there is no such table.

    Raises InputError when shards are missing and when the table stands there in two forms.
    """
    forms = [[folder / f"{name}{suffix}"] for suffix in SUFFIXES]
    for suffix in SUFFIXES:
        forms.append([path for path in _files(folder, suffix) if _is_shard(path, name)])
        forms.append(_files(folder / name, suffix))
    found = [files for files in forms if files and all(path.is_file() for path in files)]
    if len(found) > 1:
        raise InputError(
            f"{folder}: the table {name} stands in two forms, {found[0][0].relative_to(folder)} and "
            f"{found[1][0].relative_to(folder)}; keep one"
        )
    for path in found[0] if found else []:
        _refuse_missing_shards(path, len(found[0]))
    return found[0] if found else []


def table_names(folder: Path) -> set[str]:
    """The names of the tables whose files lie in a folder."""
    return {_SHARD.sub("", _stem(path)) for suffix in SUFFIXES for path in _files(folder, suffix)}


def need_table(folder: Path, name: str, remedy: str) -> list[Path]:
    """The files of a table. Raises InputError with the remedy when there is none."""
    files = find_table(folder, name)
    if not files:
        raise InputError(
            f"{folder}: {name}.jsonl is missing (or {name}.jsonl.gz, {name}.parquet, its shards, or a "
            f"folder {name}/ of them); {remedy}"
        )
    return files


def read_rows(files: Sequence[Path], row_type: type[Row]) -> Iterator[tuple[str, Row]]:
    """Yield (place, row) of all files in order. Raises InputError with file and line or row."""
    for path in files:
        yield from (_parquet if path.suffix == ".parquet" else _json_lines)(path, row_type)


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of a text file, gzipped or not, in bounded memory; skips blank lines.

    Raises InputError for what is not UTF-8 text: other bytes, a byte order mark, NUL, a line of
    more than 64 MiB, a damaged gzip.
    """
    for place, line in _lines(path):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: not UTF-8: {error}") from error
        if "\0" in text:
            raise InputError(f"{place}: has a NUL byte; is this a text file? {quoted(text[:200])}")
        yield place, text


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as opened:
            file = cast(IO[bytes], opened)
            for number, line in numbered_lines(file, path):
                yield f"{path}:{number}", line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file: {error}; fetch it again") from error


def _json_lines(path: Path, row_type: type[Row]) -> Iterator[tuple[str, Row]]:
    decoder = msgspec.json.Decoder(row_type)
    for place, line in _lines(path):
        try:
            yield place, decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise InputError(f"{place}: {error}; in {quoted(line[:200])}") from error


def _parquet(path: Path, row_type: type[Row]) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("o1-bench", "hub", f"Parquet ({path.name})") from error
    names = {field.encode_name for field in msgspec.structs.fields(row_type)}
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in names]
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", _converted(row, row_type, f"{path}: row {number}")
    except (pa.ArrowException, UnicodeError) as error:
        raise InputError(f"{path}: damaged or not Parquet: {error}; fetch it again") from error


def _converted(row: dict[str, object], row_type: type[Row], place: str) -> Row:
    try:
        return msgspec.convert(row, row_type)
    except msgspec.ValidationError as error:
        raise InputError(f"{place}: {error}; in {quoted(row)}") from error


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if path.is_file())


def _is_shard(path: Path, name: str) -> bool:
    # by the whole name before the number: theoremqa_questions is no shard of theoremqa
    return _SHARD.search(_stem(path)) is not None and _SHARD.sub("", _stem(path)) == name


def _stem(path: Path) -> str:
    name = path.name
    for suffix in SUFFIXES[::-1]:
        name = name.removesuffix(suffix)
    return name


def _refuse_missing_shards(path: Path, found: int) -> None:
    shard = _SHARD.search(_stem(path))
    if shard and int(shard[2]) != found:
        raise InputError(
            f"{path.parent}: {found} of the {int(shard[2])} shards of {path.name} are there; fetch the others"
        )
