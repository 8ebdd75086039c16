"""Files that are whole or absent, plain or compressed, and errors that a user can correct."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast


class InputError(ValueError):
    """Input that a user can correct. The message names the place, the value and the remedy."""


class PlainErrors:
    """Raises `Exception` itself as InputError: all that some libraries raise. Its subclasses pass.

    `with PlainErrors("qdrant:folder#docs"): ...` puts that place before the message.
    """

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Exception:
            text = " ".join(str(error).split())
            raise InputError(f"{self._place}: {text[:500]}") from error


class InputWarning(UserWarning):
    """Input was read in the one way that makes sense, or in part; the message says what and how."""


class MissingExtraError(ImportError):
    """A feature needs a package that is not installed; the message says what to type."""

    def __init__(self, distribution: str, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install '{distribution}[{extra}]'")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under `path` whole or not at all.

    The bytes go to a temporary file beside `path`, are synced to the disk and renamed.
    On any error the temporary file is removed and an older `path` stays as it was. An OSError of a full disk
    names `path`.
    """
    import tempfile  # here, so that `import o1_records` stays light

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder`, or the content of a file, survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_folder(path: str | Path) -> bool:
    """Return whether a name is that of a folder of files; a `.lance` folder is read as one file."""
    return Path(path).suffix != ".lance" and Path(path).is_dir()


def is_file(path: str | Path) -> bool:
    """Return whether a name is that of a file that can be read again, no pipe; a `.lance` folder is one."""
    return Path(path).is_file() or (Path(path).is_dir() and not is_folder(path))


def sha256_file(path: str | Path) -> str:
    """Return the hex digest of a file, read in blocks, or of what a `.lance` folder holds."""
    if is_file(path) and Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        digests = (f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n" for file in files)
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """Return a file's name without the suffix of its compression."""
    path = Path(path)
    return path.stem if path.suffix in (".gz", ".zst") else path.name


def _zstd() -> Any:
    try:
        from backports import zstd
    except ImportError as error:
        raise MissingExtraError("o1-records", "zstd", "a .zst file") from error
    return zstd


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def quoted(value: Any, limit: int = 80) -> str:
    """Show a user's value in an error message, shortened."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
