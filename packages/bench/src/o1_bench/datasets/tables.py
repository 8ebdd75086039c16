"""Rows of a table as hubs store it: JSON lines, gzipped or not, or Parquet, in one file or in shards.

```
folder/corpus.jsonl   folder/corpus.jsonl.gz   folder/corpus.parquet      one file
folder/corpus-00000-of-00007.parquet ...                                  shards
folder/corpus/*.parquet (or .jsonl, .jsonl.gz)                            a folder of its own
```
A row is read into a msgspec struct, so a missing, null or wrongly typed column is refused with its
file and line; columns that are not fields of the struct are not read. Rows are streamed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from o1_records import Document, InputError, MissingExtraError, quoted
from o1_records.files import open_input
from o1_records.jsonl import decode_line
from o1_records.lines import numbered_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

Row = TypeVar("Row", bound=msgspec.Struct)

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_BATCH = 256


@dataclass(frozen=True)
class TableDocuments(Generic[Row]):
    """Documents that are read from the files of a table at every iteration."""

    files: Sequence[Path]
    row_type: type[Row]
    document: Callable[[Row], Document]

    def __iter__(self) -> Iterator[Document]:
        return (self.document(row) for _, row in read_rows(self.files, self.row_type))


@dataclass(frozen=True)
class LastOfEach:
    """Documents of which, among those with the same id, only the last counts, as in a dictionary.

    The first pass finds them, with one id a document in memory; every pass skips those that were replaced.
    """

    documents: Iterable[Document]

    def __iter__(self) -> Iterator[Document]:
        replaced = self.replaced
        return (document for number, document in enumerate(self.documents) if number not in replaced)

    @cached_property
    def replaced(self) -> frozenset[int]:
        """The positions of the documents that a later one replaces."""
        last: dict[str, int] = {}
        found = []
        for number, document in enumerate(self.documents):
            if document.doc_id in last:
                found.append(last[document.doc_id])
            last[document.doc_id] = number
        return frozenset(found)


def word(name: str) -> str:
    """Return an id that a TREC file can hold: white space becomes `_`."""
    return "_".join(name.split()) if name.split() != [name] else name


def with_merged(revision: str, documents: object) -> str:
    """Return the revision and how many documents were replaced by others with the same id."""
    merged = len(documents.replaced) if isinstance(documents, LastOfEach) else 0
    said = f"{merged} repeated documents merged, the last one kept" if merged else ""
    return "; ".join(filter(None, (revision, said)))


def find_table(folder: Path, name: str) -> list[Path]:
    """Return the files of a table, in order; none if there is no such table.

    Raises InputError when shards are missing and when the table exists in two forms.
    """
    found = _forms(folder, name)
    if len(found) > 1:
        raise InputError(
            f"{folder}: the table {name} exists in two forms, {found[0][0].relative_to(folder)} and "
            f"{found[1][0].relative_to(folder)}; keep one"
        )
    for path in found[0] if found else []:
        shard = _SHARD.search(_stem(path))
        if shard and int(shard[2]) != len(found[0]):
            raise InputError(
                f"{path.parent}: {len(found[0])} of the {int(shard[2])} shards of {path.name} are there; "
                "fetch the others"
            )
    return found[0] if found else []


def files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of a table in whatever forms there are."""
    return [path for files in _forms(folder, name) for path in files]


def table_names(folder: Path) -> set[str]:
    """Return the names of the tables in a folder."""
    return {_SHARD.sub("", _stem(path)) for suffix in SUFFIXES for path in _files(folder, suffix)}


def need_table(folder: Path, name: str, remedy: str) -> list[Path]:
    """Return the files of a table. Raises InputError with the remedy if there is none."""
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
    """Yield (place, line) of a text file, gzipped or not, in bounded memory; skip blank lines.

    Raises InputError for what is not UTF-8 text: other bytes, a byte order mark, NUL, a line of
    more than 64 MiB, damaged compression.
    """
    for place, line in _lines(path):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: not UTF-8: {error}") from error
        yield place, text


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_input(path) as file:
        for number, line in numbered_lines(file, path):
            yield f"{path}:{number}", line


def _json_lines(path: Path, row_type: type[Row]) -> Iterator[tuple[str, Row]]:
    decoder = msgspec.json.Decoder(row_type)
    return ((place, decode_line(decoder, line, place)) for place, line in _lines(path))


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
                    place = f"{path}: row {number}"
                    try:
                        yield place, msgspec.convert(row, row_type)
                    except msgspec.ValidationError as error:
                        raise InputError(f"{place}: {error}; in {quoted(row)}") from error
    except (pa.ArrowException, UnicodeError) as error:
        raise InputError(f"{path}: damaged or not Parquet: {error}; fetch it again") from error


def _forms(folder: Path, name: str) -> list[list[Path]]:
    """Return the files of each form in which a table exists."""
    forms = [[path] for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    for suffix in SUFFIXES:
        # by the whole name before the number: theoremqa_questions is not a shard of theoremqa
        forms.append(
            [path for path in _files(folder, suffix) if _SHARD.fullmatch(_stem(path).removeprefix(name))]
        )
        forms.append(_files(folder / name, suffix))
    return [files for files in forms if files]


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if path.is_file())


def _stem(path: Path) -> str:
    name = path.name
    for suffix in SUFFIXES[::-1]:
        name = name.removesuffix(suffix)
    return name
