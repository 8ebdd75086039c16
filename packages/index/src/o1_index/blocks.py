"""Files that are checked block by block: all blocks before use, or each before it is first used.

A digest a block lets several threads check a large file, and lets a mapped one be opened before all
of it was read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from o1_records import InputError, Record
from o1_records.types import Count

BLOCK = 16 * 2**20
"""Bytes of a block: few enough that the two ends of a file are read at once."""

_CHUNK = 2**20

_FileVersion = tuple[int, int, int]


class File(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manifest knows of a file: its size and the sha256 of each block."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\.[a-z]+$")]
    size: Count
    sha256: tuple[str, ...]


def digest_file(path: Path) -> File:
    """Read a file and describe it."""
    size = path.stat().st_size
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        digests = threads.map(lambda block: _digest(path, block), range(_blocks(size)))
        return File(name=path.name, size=size, sha256=tuple(digests))


class CheckedFile:
    """A file that gives no byte away unchecked.

    A block is checked once for each version of the file (its inode, size and time of change).
    """

    def __init__(self, folder: Path, expected: File) -> None:
        self.path = folder / expected.name
        self.expected = expected
        self._version_checked: _FileVersion | None = None
        self._blocks: set[int] = set()
        self._whole = False

    def check(self, blocks: Iterable[int] | None = None) -> None:
        """Check the blocks (all of them by default; -1 is the last).

        Raises InputError for a file that is missing, of another size or changed.
        """
        version = self._version()
        if version != self._version_checked:
            self._version_checked, self._whole, self._blocks = version, False, set()
        if self._whole:
            return
        count = len(self.expected.sha256)
        wanted = {block % count for block in (range(count) if blocks is None else blocks)} if count else set()
        pending = sorted(wanted - self._blocks)
        with ThreadPoolExecutor(min(os.cpu_count() or 1, max(1, len(pending)))) as threads:
            digests = list(threads.map(lambda block: _digest(self.path, block), pending))
        for block, digest in zip(pending, digests, strict=True):
            if digest != self.expected.sha256[block]:
                raise damaged(self.path)
        if self._version() != version:
            raise damaged(self.path)
        self._blocks.update(pending)
        self._whole = len(self._blocks) == count

    def check_mapped(self) -> None:
        """Check what is mapped from the file: all of it once, and again when it was written to since.

        A file that was deleted or replaced after the check is still mapped as it was.
        """
        if self._whole and self._version_checked:
            try:
                replaced = self.path.stat().st_ino != self._version_checked[0]
            except FileNotFoundError:
                replaced = True
            if replaced:
                return
        self.check()

    def read(self) -> bytes:
        """The whole file: the bytes that were checked, not a second reading of them."""
        self._version()
        content = self.path.read_bytes()
        view = memoryview(content)
        blocks = (view[start : start + BLOCK] for start in range(0, len(view), BLOCK))
        if tuple(hashlib.sha256(block).hexdigest() for block in blocks) != self.expected.sha256:
            raise damaged(self.path)
        return content

    def _version(self) -> _FileVersion:
        try:
            state = self.path.stat()
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: missing; copy it or build the index again") from error
        if state.st_size != self.expected.size:
            raise damaged(self.path)
        return state.st_ino, state.st_size, state.st_mtime_ns


def damaged(path: Path) -> InputError:
    """The error of a file that is not what was written."""
    return InputError(f"{path}: damaged (its digest does not match); copy it or build it again")


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _digest(path: Path, block: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(block * BLOCK)
        left = BLOCK
        while left and (chunk := file.read(min(_CHUNK, left))):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest()
