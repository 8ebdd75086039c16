"""Files that are whole or absent, and errors that a user can mend."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import IO, Any


class InputError(ValueError):
    """Input that a user can mend. The message names the place, the value and the remedy."""


class MissingExtraError(ImportError):
    """A feature needs a package that is not installed; the message says what to type."""

    def __init__(self, distribution: str, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install '{distribution}[{extra}]'")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under `path` whole or not at all.

    The bytes go to a temporary file beside `path`, are synced to the disk and renamed.
    On any error the temporary file is removed and an older `path` stays as it was.
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
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_overwriting(
    inputs: Mapping[str, str | Path | None], outputs: Mapping[str, str | Path | None]
) -> None:
    """Raise InputError where an output is a file of an input, another output, or a folder.

    Both map an option to its path. Of an input that is a BEIR folder its files count. Links are
    followed.
    """
    written = {option: Path(path) for option, path in outputs.items() if path is not None}
    for option, out in written.items():
        if out.is_dir():
            raise InputError(f"{option} {out} is a folder; name a file")
    for (option, out), (other, again) in combinations(written.items(), 2):
        if _same(out, again):
            raise InputError(f"{option} and {other} are one file, {out}; choose another for one of them")
    for option, path in inputs.items():
        if path is None:
            continue
        for name, out in written.items():
            for file in _files_of(Path(path)):
                if _same(file, out):
                    raise InputError(
                        f"{name} {out} would write over {file} of {option}; choose another {name}"
                    )


def _files_of(path: Path) -> list[Path]:
    """The file itself; of a folder those that BEIR gives a meaning."""
    if not path.is_dir():
        return [path]
    return [path / "corpus.jsonl", path / "queries.jsonl", *sorted((path / "qrels").glob("*"))]


def _same(file: Path, other: Path) -> bool:
    if file.exists() and other.exists():
        return file.samefile(other)
    return file.resolve() == other.resolve()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def quoted(value: Any, limit: int = 80) -> str:
    """Show a user's value in an error message, shortened."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
