"""Files that are checked block by block: every block before use, or each before it is first used.

With one digest per block, several threads can check a large file, and a mapped file can be opened before all
of it has been read.
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
"""Bytes in a block. Opening a mapped file checks its first and last block, so blocks are not larger."""

_CHUNK = 2**20

_FileVersion = tuple[int, int, int]


class File(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manifest records about a file: its size and the sha256 of each block.

    `version` is the version of the index that holds it; "" is the one that the manifest belongs to.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\.[a-z]+$")]
    version: Annotated[str, Meta(pattern=r"^(v[0-9]{6})?$")] = ""
    size: Count
    sha256: tuple[str, ...]


def digest_file(path: Path) -> File:
    """Read a file and return its size and digests."""
    size = path.stat().st_size
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        digests = threads.map(lambda block: _digest(path, block), range(-(-size // BLOCK)))
        return File(name=path.name, size=size, sha256=tuple(digests))


class CheckedFile:
    """A file whose bytes are used only after they were checked.

    A block is checked once for each version of the file (its inode, size and modification time).
    """

    def __init__(self, folder: Path, expected: File) -> None:
        self.path = (folder.parent / expected.version if expected.version else folder) / expected.name
        self.expected = expected
        self._version_checked: _FileVersion | None = None
        self._blocks: set[int] = set()
        self._whole = False

    def check(self, blocks: Iterable[int] | None = None) -> None:
        """Check the given blocks (default: all; -1 is the last one).

        Raises InputError for a file that is missing, has another size or was changed.
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
        if self._version() != version:  # it was written to while it was read
            raise damaged(self.path)
        self._blocks.update(pending)
        self._whole = len(self._blocks) == count

    def check_mapped(self) -> None:
        """Check what is mapped from the file: all of it once, and again after somebody wrote to it.

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
        """Return the whole file: the very bytes that were checked, not a second reading of them."""
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
            raise InputError(f"{self.path}: missing; copy it again or rebuild the index") from error
        if state.st_size != self.expected.size:
            raise damaged(self.path)
        return state.st_ino, state.st_size, state.st_mtime_ns


def damaged(path: Path) -> InputError:
    """Return the error for a file that is not what was written."""
    return InputError(f"{path}: damaged (its digest does not match); copy it again or rebuild it")


def _digest(path: Path, block: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(block * BLOCK)
        left = BLOCK
        while left and (chunk := file.read(min(_CHUNK, left))):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest()
