"""An index on disk: immutable versions under one pointer, checked before FAISS's answers are used.

```
my-index/current.json              which version is read, sealed by its own sha256
my-index/v000001/index.faiss       the engine
my-index/v000001/ids.json          the doc_id of each row; null for a removed one
my-index/v000001/manifest.json     rows, dim, settings, the sha256 of every block of every file
```
A version is written beside the others and becomes the current one when `current.json` is replaced:
readers keep the version that they opened, a crash leaves the old one current.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from o1_index.blocks import CheckedFile, damaged, digest_file
from o1_index.engine import read_engine, write_engine
from o1_index.manifest import IndexManifest, Pointer, sealed, unsealed
from o1_index.settings import Settings
from o1_records import InputError, atomic_write, sha256_file
from o1_records.files import sync_folder

CURRENT, ENGINE, IDS, MANIFEST = "current.json", "index.faiss", "ids.json", "manifest.json"


@dataclass(frozen=True)
class Version:
    """One version of an index, on the disk."""

    folder: Path
    manifest: IndexManifest

    @property
    def number(self) -> int:
        """1 for the first one."""
        return int(self.folder.name[1:])

    def file(self, name: str) -> CheckedFile:
        """One of its files. Raises InputError for a name that the manifest does not have."""
        for file in self.manifest.files:
            if file.name == name:
                return CheckedFile(self.folder, file)
        raise InputError(f"{self.folder}: holds no {name}")


def write(
    folder: Path,
    engine: Any,
    ids: Sequence[str | None],
    settings: Settings,
    *,
    made_from: str = "",
    after: Version | None = None,
    extras: Mapping[str, bytes] | None = None,
) -> Version:
    """Publish an index: a new folder, or the version `after` the one it was opened from.

    `extras` are further files by name. Raises InputError when the folder exists and its current
    version is not `after`: somebody else's work would be lost. One writer works at a time, the next
    one waits and is then refused. An interrupted version is replaced.
    """
    number = 1 if after is None else after.number + 1
    name = f"v{number:06d}"
    home = folder if after is not None else folder.with_name(folder.name + ".partial")
    if after is None:
        _refuse_taken(folder)
        home.mkdir(parents=True, exist_ok=True)
        _refuse_strangers(home)
    with _locked(home):
        if after is None:
            _refuse_taken(folder)
        else:
            refuse_another_version(folder, after)
        partial = home / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        manifest = _write_files(partial, engine, ids, settings, made_from, extras or {})
        # a crash before the pointer is replaced leaves a version that nobody points to
        shutil.rmtree(home / name, ignore_errors=True)
        partial.rename(home / name)
        sync_folder(home)
        pointer = Pointer(name=name, manifest_sha256=sha256_file(home / name / MANIFEST))
        with atomic_write(home / CURRENT) as file:
            file.write(sealed(pointer))
        if after is None:
            shutil.rmtree(home / "checkpoint", ignore_errors=True)
            home.rename(folder)
            sync_folder(folder.parent)
    return Version(folder / name, manifest)


def open_version(folder: Path) -> Version:
    """The current version of an index. Raises InputError for a damaged pointer or manifest."""
    path = folder / CURRENT
    while True:
        written = path.read_bytes()
        pointer = unsealed(path, written, Pointer)
        manifest = folder / pointer.name / MANIFEST
        try:
            content = manifest.read_bytes()
        except FileNotFoundError:
            if path.read_bytes() == written:
                raise
            continue  # pruned since the pointer was read
        if hashlib.sha256(content).hexdigest() != pointer.manifest_sha256:
            raise damaged(manifest)
        return Version(manifest.parent, unsealed(manifest, content, IndexManifest))


def read_current(
    folder: Path, *, mmap: bool = False
) -> tuple[Version, Any, list[str | None], Callable[[], None]]:
    """The current version, and what `read` gives of it; the next one when it is pruned meanwhile."""
    version = open_version(folder)
    while True:
        try:
            return version, *read(version, mmap=mmap)
        except (InputError, FileNotFoundError):
            meanwhile, version = version, open_version(folder)
            if version.folder == meanwhile.folder:
                raise


def read(version: Version, *, mmap: bool = False) -> tuple[Any, list[str | None], Callable[[], None]]:
    """Engine, ids and what must be called before each of the engine's answers where it is mapped.

    Every file is checked before FAISS reads it. With `mmap` the vectors stay on the disk: only the
    ends of the engine's file are checked now, the rest by that call, once.

    Raises InputError for any changed, cut or foreign file.
    """
    ids: list[str | None] = msgspec.json.decode(version.file(IDS).read(), type=list[str | None])
    file = version.file(ENGINE)
    file.check([0, -1] if mmap else None)
    try:
        engine = read_engine(file.path, mmap=mmap)
    except InputError:
        file.check()  # of a mapped file that FAISS cannot read: say that it is damaged
        raise
    manifest = version.manifest
    if (engine.ntotal, engine.d, len(ids)) != (manifest.rows, manifest.dim, manifest.rows):
        file.check()
        raise InputError(
            f"{version.folder}: the manifest says {manifest.rows} rows of {manifest.dim} dimensions, the "
            f"engine has {engine.ntotal} of {engine.d}, the ids are {len(ids)}; build it again"
        )
    return engine, ids, file.check_mapped


def refuse_another_version(folder: Path, mine: Version) -> None:
    """Raise InputError when the current version is not the one that this work started from."""
    current = open_version(folder)
    if current.manifest.digest != mine.manifest.digest:
        raise InputError(
            f"{folder}: is at {current.folder.name} now, this index was opened from {mine.folder.name}; "
            "open it again and repeat the change"
        )


def prune(folder: Path, *, keep: int = 1) -> list[str]:
    """Delete all but the newest `keep` versions up to the current one; returns their names.

    Readers of a deleted version that have it mapped go on; others must open the index again.
    """
    current = open_version(folder)
    numbers = {int(path.name[1:7]): path for path in folder.glob("v[0-9][0-9][0-9][0-9][0-9][0-9]*")}
    old = [path for number, path in sorted(numbers.items()) if number <= current.number - keep]
    for path in old:
        shutil.rmtree(path)
    return [path.name for path in old]


def _write_files(
    folder: Path,
    engine: Any,
    ids: Sequence[str | None],
    settings: Settings,
    made_from: str,
    extras: Mapping[str, bytes],
) -> IndexManifest:
    with atomic_write(folder / ENGINE) as file:
        write_engine(engine, file)
    for name, content in {IDS: msgspec.json.encode(list(ids)), **extras}.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    manifest = IndexManifest(
        rows=len(ids),
        dim=engine.d,
        settings=settings,
        made_from=made_from,
        files=tuple(digest_file(folder / name) for name in (ENGINE, IDS, *extras)),
    )
    content = sealed(manifest)
    with atomic_write(folder / MANIFEST) as file:
        file.write(content)
    return unsealed(folder / MANIFEST, content, IndexManifest)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the system lets go of the lock when its process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_taken(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder}: exists already; remove it or choose another name")


def _refuse_strangers(partial: Path) -> None:
    """Only what an interrupted run left may be replaced."""
    for path in sorted(partial.iterdir()):
        if not re.fullmatch(r"v[0-9]{6}(\.partial)?|checkpoint|current\.json|\..*\.tmp", path.name):
            raise InputError(f"{path}: is in the way; move it and build again")
