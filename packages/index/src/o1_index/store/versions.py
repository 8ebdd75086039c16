"""The folder of an index: immutable versions under one pointer, checked before FAISS's answers are used.

```
my-index/current.json              which version is read, sealed by its own sha256
my-index/v000001/index.faiss       the engine
my-index/v000001/ids.json          the doc_id of each row; null for a removed one
my-index/v000001/manifest.json     rows, dim, settings, the sha256 of every block of every file
my-index.partial/                  a new index before it is published: the same, and a checkpoint of its build
```
A version is written beside the others and becomes the current one when `current.json` is replaced: readers
keep the version that they opened, and a crash leaves the old one current. One writer works at a time; it
holds a file called `lock`, which goes when it is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from o1_index.engine import read_engine, write_engine
from o1_index.store.blocks import CheckedFile, damaged, digest_file
from o1_index.store.manifest import IndexManifest, Pointer, Settings, sealed, unsealed
from o1_records import InputError, atomic_write, sha256_file
from o1_records.files import sync_folder
from o1_records.kit.job import Lock, move_aside

CURRENT, ENGINE, IDS, MANIFEST = "current.json", "index.faiss", "ids.json", "manifest.json"
CHECKPOINT, LOCK = "checkpoint", "lock"


@dataclass(frozen=True)
class Version:
    """One version of an index on disk."""

    folder: Path
    manifest: IndexManifest

    @property
    def number(self) -> int:
        """Its number; 1 for the first version."""
        return int(self.folder.name[1:])

    def file(self, name: str) -> CheckedFile:
        """Return one of its files. Raises InputError for a name that the manifest does not list."""
        for file in self.manifest.files:
            if file.name == name:
                return CheckedFile(self.folder, file)
        raise InputError(f"{self.folder}: holds no {name}")


@dataclass(frozen=True)
class Content:
    """What a version is made of.

    `ids` has None for removed rows; `extras` are further files, by name.
    """

    engine: Any
    ids: Sequence[str | None]
    settings: Settings
    made_from: str = ""
    extras: Mapping[str, bytes] = field(default_factory=dict)


# --- writing ------------------------------------------------------------------------------------------


class Draft:
    """A new index before it is published, in the folder `NAME.partial`; a context manager.

    One writer holds it at a time. Afterwards the folder is gone, unless it holds a checkpoint or was
    interrupted while it was published.

    Raises InputError where the index exists, where somebody else is at work, and for files in the folder that
    no build of an index wrote.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".partial")
        self._open()

    def publish(self, content: Content) -> Version:
        """Write the first version and give the folder the name of the index."""
        version = _write_version(self.folder, 1, content)
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
        self.folder.rename(self.out)
        self._lock.path = self.out / LOCK
        sync_folder(self.out.parent)
        return Version(self.out / version.folder.name, version.manifest)

    def move_aside(self) -> Path:
        """Rename what an earlier build left, to `NAME.partial.old1`, and go on with an empty folder."""
        [moved] = move_aside(self.folder)
        self._lock.path = moved / LOCK
        self._held.close()
        self._open()
        return moved

    def refuse_checkpoint(self) -> None:
        """Raise InputError where publishing would delete the checkpoint of an interrupted build."""
        if (self.folder / CHECKPOINT).exists():
            raise InputError(
                f"{self.folder}: holds the checkpoint of an interrupted build; finish that build, move the "
                "folder away, or choose another name"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        published = self._lock.path.parent == self.out
        self._held.close()
        if not published:
            with contextlib.suppress(OSError):  # it is not empty: there is a checkpoint, say
                self.folder.rmdir()

    def _open(self) -> None:
        while True:
            _refuse_taken(self.out)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._held = contextlib.ExitStack()
            try:
                self._lock = self._held.enter_context(alone(self.folder))
                break
            except FileNotFoundError:
                pass  # another writer published or removed the folder between these two lines
        try:
            _refuse_taken(self.out)  # another writer may have published it before the lock was taken
            for path in sorted(self.folder.iterdir()):
                if not re.fullmatch(
                    r"v[0-9]{6}(\.partial)?|checkpoint|current\.json|lock|\..*\.tmp", path.name
                ):
                    raise InputError(f"{path}: no build of an index wrote this file; move it away")
        except BaseException:
            self.__exit__()
            raise


def _refuse_taken(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out}: exists already; choose another name, or move it away")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Lock]:
    """Keep other writers out of the folder of an index.

    The lock's file is removed at the end, from where `lock.path` says it is then: the folder may have been
    renamed meanwhile.
    """
    with Lock(folder / LOCK) as lock:
        try:
            yield lock
        finally:
            lock.path.unlink(missing_ok=True)


def write_next(folder: Path, after: Version, content: Content) -> Version:
    """Publish the next version of an index that was opened at the version `after`.

    Raises InputError where somebody else is at work, or has published a version since: it would be lost.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(folder))
        except InputError as error:
            raise InputError(f"{error}; then open the index again and repeat the change") from error
        current = open_version(folder)
        if current.manifest.digest != after.manifest.digest:
            raise InputError(
                f"{folder}: is at {current.folder.name} now, this index was opened at {after.folder.name}; "
                "open it again and repeat the change"
            )
        return _write_version(folder, after.number + 1, content)


def _write_version(home: Path, number: int, content: Content) -> Version:
    """Write a version beside the others and point to it; the caller holds the lock."""
    name = f"v{number:06d}"
    partial = home / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with atomic_write(partial / ENGINE) as file:
        write_engine(content.engine, file)
    files = {IDS: msgspec.json.encode(list(content.ids)), **content.extras}
    for file_name, text in files.items():
        with atomic_write(partial / file_name) as file:
            file.write(text)
    manifest = IndexManifest(
        rows=len(content.ids),
        dim=content.engine.d,
        settings=content.settings,
        made_from=content.made_from,
        files=tuple(digest_file(partial / file_name) for file_name in (ENGINE, *files)),
    )
    sealed_manifest = sealed(manifest)
    with atomic_write(partial / MANIFEST) as file:
        file.write(sealed_manifest)
    # a version of this number is one that a crash left before the pointer was replaced: nobody reads it
    shutil.rmtree(home / name, ignore_errors=True)
    partial.rename(home / name)
    sync_folder(home)
    pointer = Pointer(name=name, manifest_sha256=sha256_file(home / name / MANIFEST))
    with atomic_write(home / CURRENT) as file:
        file.write(sealed(pointer))
    return Version(home / name, unsealed(home / name / MANIFEST, sealed_manifest, IndexManifest))


def prune(folder: str | Path, *, keep: int = 1) -> list[str]:
    """Delete all but the newest `keep` versions up to the current one; return the names of the deleted.

    Readers that have a deleted version mapped go on; others must open the index again.
    """
    folder = Path(folder)
    current = open_version(folder)
    numbers = {int(path.name[1:7]): path for path in folder.glob("v[0-9][0-9][0-9][0-9][0-9][0-9]*")}
    old = [path for number, path in sorted(numbers.items()) if number <= current.number - keep]
    for path in old:
        shutil.rmtree(path)
    return [path.name for path in old]


# --- reading ------------------------------------------------------------------------------------------


def open_version(folder: Path) -> Version:
    """Return the current version of an index. Raises InputError for a damaged pointer or manifest."""
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
    """Return the current version and what `read` returns of it; the next one if it is pruned meanwhile."""
    version = open_version(folder)
    while True:
        try:
            return version, *read(version, mmap=mmap)
        except (InputError, FileNotFoundError):
            meanwhile, version = version, open_version(folder)
            if version.folder == meanwhile.folder:
                raise


def read(version: Version, *, mmap: bool = False) -> tuple[Any, list[str | None], Callable[[], None]]:
    """Return the engine, the ids, and a check to call before each answer of a mapped engine.

    Every file is checked before FAISS reads it. With `mmap` the vectors stay on disk: only the two ends of
    the engine's file are checked now, the rest once, by that call.

    Raises InputError for any file that was changed, cut or put there by somebody else.
    """
    ids: list[str | None] = msgspec.json.decode(version.file(IDS).read(), type=list[str | None])
    file = version.file(ENGINE)
    file.check([0, -1] if mmap else None)
    try:
        engine = read_engine(file.path, mmap=mmap)
    except InputError:
        file.check()  # a mapped file that FAISS cannot read: if it is damaged, say that
        raise
    manifest = version.manifest
    if (engine.ntotal, engine.d, len(ids)) != (manifest.rows, manifest.dim, manifest.rows):
        file.check()
        raise InputError(
            f"{version.folder}: the manifest says {manifest.rows} rows of {manifest.dim} dimensions, but the "
            f"engine has {engine.ntotal} of {engine.d}, and there are {len(ids)} ids; build the index again"
        )
    return engine, ids, file.check_mapped
