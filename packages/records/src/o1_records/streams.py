"""Byte streams of files, plain or compressed: the suffix `.gz` or `.zst` says which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from o1_records.files import InputError, MissingExtraError, atomic_write


@contextlib.contextmanager
def open_input(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed where its name says that it is compressed.

    Raises InputError when the compressed data is cut or damaged.
    """
    damage: tuple[type[Exception], ...]
    if Path(path).suffix == ".gz":
        import gzip
        import zlib

        file, damage = cast("IO[bytes]", gzip.open(path, "rb")), (EOFError, zlib.error, gzip.BadGzipFile)
    elif Path(path).suffix == ".zst":
        zstd = _zstd()
        file, damage = cast("IO[bytes]", zstd.open(path, "rb")), (EOFError, zstd.ZstdError)
    else:
        file, damage = open(path, "rb"), ()
    with file:
        try:
            yield file
        except damage as error:
            raise InputError(f"{path}: its compressed data is cut or damaged: {error}") from error


@contextlib.contextmanager
def open_output(path: str | Path) -> Iterator[IO[bytes]]:
    """`atomic_write`, compressed where the name says so; equal content gives equal bytes."""
    with atomic_write(path) as file:
        if Path(path).suffix == ".gz":
            import gzip

            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield cast("IO[bytes]", packed)
        elif Path(path).suffix == ".zst":
            with _zstd().ZstdFile(file, "wb") as packed:
                yield packed
        else:
            yield file


def plain_name(path: str | Path) -> str:
    """The file's name without the suffix of its compression."""
    path = Path(path)
    return path.stem if path.suffix in (".gz", ".zst") else path.name


def _zstd() -> Any:
    try:
        from backports import zstd
    except ImportError as error:
        raise MissingExtraError("o1-records", "zstd", "a .zst file") from error
    return zstd
