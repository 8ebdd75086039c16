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
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from o1_index.blocks import CheckedFile, File, damaged, digest_file
from o1_index.engine import read_engine, write_engine
from o1_index.settings import Settings
from o1_records import InputError, Record, atomic_write, sha256_file
from o1_records.files import sync_folder
from o1_records.types import Count, NonBlank

CURRENT, ENGINE, IDS, MANIFEST = "current.json", "index.faiss", "ids.json", "manifest.json"


class IndexManifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version holds. `made_from` names the vectors; `digest` is that of the other fields.

    `rows` counts removed rows too.
    """

    version: int = 2
    rows: Count
    dim: Count
    settings: Settings
    made_from: str = ""
    files: tuple[File, ...]
    digest: str = ""


class Pointer(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is current; `digest` is that of the other fields."""

    name: Annotated[str, Meta(pattern=r"^v[0-9]{6}$")]
    manifest_sha256: NonBlank
    digest: str = ""


Sealed = TypeVar("Sealed", IndexManifest, Pointer)


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
    version is not `after`: somebody else's work would be lost. An interrupted one is replaced.
    """
    number = 1 if after is None else after.number + 1
    name = f"v{number:06d}"
    if after is None:
        if folder.exists():
            raise InputError(f"{folder}: exists already; remove it or choose another name")
        home = folder.with_name(folder.name + ".partial")
        home.mkdir(parents=True, exist_ok=True)
        _refuse_strangers(home)
    else:
        home = folder
    partial = home / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    manifest = _write_files(partial, engine, ids, settings, made_from, extras or {})
    with _locked(home):
        if after is not None:
            refuse_another_version(folder, after)
        # a crash before the pointer is replaced leaves a version that nobody points to
        shutil.rmtree(home / name, ignore_errors=True)
        partial.rename(home / name)
        sync_folder(home)
        pointer = Pointer(name=name, manifest_sha256=sha256_file(home / name / MANIFEST))
        with atomic_write(home / CURRENT) as file:
            file.write(_sealed(pointer))
    if after is None:
        shutil.rmtree(home / "checkpoint", ignore_errors=True)
        home.rename(folder)
        sync_folder(folder.parent)
    return Version(folder / name, manifest)


def open_version(folder: Path) -> Version:
    """The current version of an index. Raises InputError for a damaged pointer or manifest."""
    path = folder / CURRENT
    pointer = _unsealed(path, path.read_bytes(), Pointer)
    home = folder / pointer.name
    content = (home / MANIFEST).read_bytes()
    if hashlib.sha256(content).hexdigest() != pointer.manifest_sha256:
        raise damaged(home / MANIFEST)
    return Version(home, _unsealed(home / MANIFEST, content, IndexManifest))


def read(version: Version, *, mmap: bool = False) -> tuple[Any, list[str | None], Callable[[], None]]:
    """Engine, ids and what must be called before the engine's first answer is used.

    Every file is checked before FAISS reads it. With `mmap` the vectors stay on the disk: only the
    ends of the engine's file are checked now, the rest by that call.

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
    return engine, ids, file.check


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
    content = _sealed(manifest)
    with atomic_write(folder / MANIFEST) as file:
        file.write(content)
    return _unsealed(folder / MANIFEST, content, IndexManifest)


def _sealed(record: IndexManifest | Pointer) -> bytes:
    bare = msgspec.json.encode(msgspec.structs.replace(record, digest=""))
    signed = msgspec.structs.replace(record, digest=hashlib.sha256(bare).hexdigest())
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def _unsealed(path: Path, content: bytes, kind: type[Sealed]) -> Sealed:
    try:
        record = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise damaged(path) from error
    # written again it must be the same bytes: that covers its white space and its own digest
    if _sealed(record) != content:
        raise damaged(path)
    return record


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the system lets go of the lock when its process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_strangers(partial: Path) -> None:
    """Only what an interrupted run left may be replaced."""
    for path in sorted(partial.iterdir()):
        if not re.fullmatch(r"v[0-9]{6}(\.partial)?|checkpoint|current\.json|\..*\.tmp", path.name):
            raise InputError(f"{path}: is in the way; move it and build again")
