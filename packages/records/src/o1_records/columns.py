"""Files of columns: rows read from and written to Parquet (`[parquet]`) and Lance (`[lance]`) in batches."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, MissingExtraError, atomic_write, plain_name, sync_folder

_ROWS = 1000
"""Decoded, and written, at a time."""

_NAMES = {".parquet": "Parquet", ".lance": "Lance"}

# what Lance raises, beside Arrow's errors, for folders that are damaged or no data set
_LANCE_ERRORS = (OSError, ValueError, RuntimeError)


def has_columns(path: str | Path) -> bool:
    """Return whether a name says that a file is Parquet, or a folder Lance.

    Raises InputError for one that is compressed.
    """
    if name := _NAMES.get(Path(plain_name(path)).suffix):
        if plain_name(path) != Path(path).name:
            raise InputError(f"{path}: {name} compresses its own columns; name it {plain_name(path)}")
        return True
    return False


def read_columns(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows in their order, with the fields that are null; of a Lance folder, its newest version."""
    pa = pyarrow(path)
    Path(path).stat()  # a name of nothing is no damaged file
    try:
        if Path(path).suffix == ".lance":
            for batch in _lance().dataset(str(path)).to_batches(batch_size=_ROWS):
                yield from batch.to_pylist()
            return
        with pa.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, *_LANCE_ERRORS) as error:
        raise InputError(f"{path}: {error}") from error


def write_columns(path: str | Path, lines: Callable[[], Iterable[bytes]]) -> None:
    """Write JSON objects as rows; `lines` is called twice, first for the types of the columns."""
    pa = pyarrow(path)

    def batches() -> Iterator[Any]:
        remaining = iter(lines())
        while some := list(itertools.islice(remaining, _ROWS)):
            yield pa.Table.from_pylist([msgspec.json.decode(line) for line in some])

    schema = pa.unify_schemas(
        [pa.schema([]), *(batch.schema for batch in batches())], promote_options="permissive"
    )
    tables = (pa.Table.from_pylist(batch.to_pylist(), schema=schema) for batch in batches())
    write_tables(path, schema, tables)


def write_tables(path: str | Path, schema: Any, tables: Iterable[Any]) -> None:
    """Write Arrow tables of one schema to a file or a Lance folder that appears whole or not at all."""
    pa = pyarrow(path)
    if Path(path).suffix != ".lance":
        with atomic_write(path) as file, pa.parquet.ParquetWriter(file, schema) as writer:
            for table in tables:
                writer.write_table(table)
        return
    lance = _lance()
    raised: list[BaseException] = []

    def batches() -> Iterator[Any]:
        try:
            for table in tables:
                yield from table.to_batches()
        except (Exception, KeyboardInterrupt) as error:  # Lance would raise an error of its own instead
            raised.append(error)
            raise

    with _atomic_folder(Path(path)) as folder:
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        try:
            lance.write_dataset(reader, str(folder), schema)
        except _LANCE_ERRORS as error:
            if raised:
                raise raised[0] from None
            raise InputError(f"{path}: {error}") from error


@contextlib.contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that takes the place of `path` once it is filled; on any error, `path` stays as it was.

    A kill between the two renames leaves the new and the old one in the temporary folder beside `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    new, old = beside / "new", beside / "old"
    try:
        yield new
        for written in (new, *new.rglob("*")):
            sync_folder(written)
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(beside, ignore_errors=True)
    sync_folder(path.parent)


def pyarrow(path: str | Path = "x.parquet") -> Any:
    """Return pyarrow with its Parquet. Raises MissingExtraError, with the extra that such a file needs."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        extra, what = (
            ("lance", "Lance folder") if Path(path).suffix == ".lance" else ("parquet", "Parquet file")
        )
        raise MissingExtraError("o1-records", extra, f"a {what}") from error
    return pyarrow


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise MissingExtraError("o1-records", "lance", "a Lance folder") from error
    return lance
