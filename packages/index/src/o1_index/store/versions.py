"""The folder of an index: immutable versions under one pointer, checked before FAISS's answers are used.

```
my-index/current.json                      which version is read, sealed by its own sha256
my-index/v000001/index.faiss               the engine
my-index/v000001/ids.safetensors           the doc_id of each row of the engine, rows by id, unreachable rows
my-index/v000001/payloads.safetensors      what is stored beside the documents, where anything is
my-index/v000002/changes.safetensors       since the engine was written: added documents, removed rows
my-index/v000002/manifest.json             rows, settings, where the files lie, the sha256 of their blocks
my-index.partial/                          a new index before it is published, and a checkpoint of its build
```
A version is written beside the others and becomes the current one when `current.json` is replaced: readers
keep the version that they opened, and a crash leaves the old one current. A small change writes only
`changes.safetensors`; the other files stay in the version that wrote them. One writer works at a time; it
holds a file called `lock`, which goes when it is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import safetensors.numpy

from o1_index.documents import Documents, Ids, Rows, Texts
from o1_index.engine import read_engine, refuse_other_metric, write_engine
from o1_index.store.blocks import CheckedFile, damaged, digest_file
from o1_index.store.manifest import IndexManifest, Pointer, Settings, sealed, unsealed
from o1_index.vectors import Matrix
from o1_records import InputError, atomic_write, sha256_file
from o1_records.files import sync_folder
from o1_records.kit.job import Lock, move_aside

CURRENT, ENGINE, MANIFEST = "current.json", "index.faiss", "manifest.json"
IDS, PAYLOADS, CHANGES = "ids.safetensors", "payloads.safetensors", "changes.safetensors"
BASE = (ENGINE, IDS, PAYLOADS)
"""The files that a small change leaves where they are."""
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

    def holds(self, name: str) -> bool:
        """Return whether it has a file of this name."""
        return any(file.name == name for file in self.manifest.files)

    def file(self, name: str) -> CheckedFile:
        """Return one of its files. Raises InputError for a name that the manifest does not list."""
        for file in self.manifest.files:
            if file.name == name:
                return CheckedFile(self.folder, file)
        raise InputError(f"{self.folder}: holds no {name}")


@dataclass(frozen=True)
class Content:
    """What a version is made of.

    `unreachable` are rows of the engine, see `o1_index.engine`. `recent` are the vectors [added, dim] of the
    documents that are not in the engine. With `base` the engine is that of this version, and is not written
    again. `extras` are further files, by name.
    """

    engine: Any
    unreachable: Rows
    documents: Documents
    recent: Matrix
    settings: Settings
    made_from: str = ""
    extras: Mapping[str, bytes] = field(default_factory=dict)
    base: Version | None = None


class Held(NamedTuple):
    """What a version holds, read; `check` is to be called before each answer of a mapped engine."""

    engine: Any
    unreachable: Rows
    documents: Documents
    recent: Matrix
    check: Callable[[], None]


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
    documents = content.documents
    tensors: dict[str, dict[str, Any]] = {}
    if content.base is None:
        with atomic_write(partial / ENGINE) as file:
            write_engine(content.engine, file)
        known, order = documents.ids.by_hash
        tensors[IDS] = {**_tensors("id", documents.ids.texts), "hash": known, "row": order}
        tensors[IDS]["unreachable"] = content.unreachable
        if documents.payloads is not None:
            tensors[PAYLOADS] = _tensors("payload", documents.payloads)
    if documents.added_ids or documents.removed is not None:
        gone = np.flatnonzero(documents.removed) if documents.removed is not None else np.zeros(0, np.int64)
        added = Texts.of([name.encode() for name in documents.added_ids])
        tensors[CHANGES] = {"vector": content.recent, "removed": gone, **_tensors("id", added)}
        if documents.added_payloads:
            tensors[CHANGES] |= _tensors("payload", Texts.of(documents.added_payloads))
    files = {**{name: safetensors.numpy.save(arrays) for name, arrays in tensors.items()}, **content.extras}
    for file_name, text in files.items():
        with atomic_write(partial / file_name) as file:
            file.write(text)
    kept = []
    if content.base is not None:
        home_of = content.base.folder.name
        kept = [
            msgspec.structs.replace(file, version=file.version or home_of)
            for file in content.base.manifest.files
            if file.name in BASE
        ]
    written = [*([] if kept else [ENGINE]), *files]
    manifest = IndexManifest(
        rows=len(documents.ids),
        added=len(documents.added_ids),
        removed=len(documents) - documents.count,
        dim=content.recent.shape[1],
        settings=content.settings,
        made_from=content.made_from,
        files=(*kept, *(digest_file(partial / file_name) for file_name in written)),
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


def _tensors(name: str, texts: Texts) -> dict[str, Any]:
    return {f"{name}_text": np.frombuffer(texts.data, np.uint8), f"{name}_end": texts.ends}


def _texts(name: str, tensors: Mapping[str, Any]) -> Texts:
    return Texts(tensors[f"{name}_text"].tobytes(), tensors[f"{name}_end"])


def prune(folder: str | Path, *, keep: int = 1) -> list[str]:
    """Delete all but the newest `keep` versions up to the current one; return the names of the deleted.

    A version whose files a newer one uses stays. Readers that have a deleted version mapped go on; others
    must open the index again.
    """
    folder = Path(folder)
    current = open_version(folder)
    numbers = {int(path.name[1:7]): path for path in folder.glob("v[0-9][0-9][0-9][0-9][0-9][0-9]*")}
    old = {number: path for number, path in sorted(numbers.items()) if number <= current.number - keep}
    kept = [current]
    for number, path in numbers.items():
        if number not in old and number < current.number and (path / MANIFEST).exists():
            content = (path / MANIFEST).read_bytes()
            kept.append(Version(path, unsealed(path / MANIFEST, content, IndexManifest)))
    used = {file.version for version in kept for file in version.manifest.files}
    gone = [path for path in old.values() if path.name not in used]
    for path in gone:
        shutil.rmtree(path)
    return [path.name for path in gone]


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


def read_current(folder: Path, *, mmap: bool = False) -> tuple[Version, Held]:
    """Return the current version and what `read` returns of it; the next one if it is pruned meanwhile."""
    version = open_version(folder)
    while True:
        try:
            return version, read(version, mmap=mmap)
        except (InputError, FileNotFoundError):
            meanwhile, version = version, open_version(folder)
            if version.folder == meanwhile.folder:
                raise


def read(version: Version, *, mmap: bool = False) -> Held:
    """Return what a version holds.

    Every file is checked before it is used. With `mmap` the vectors stay on disk: only the two ends of the
    engine's file are checked now, the rest once, by the check that is returned.

    Raises InputError for any file that was changed, cut or put there by somebody else.
    """
    manifest = version.manifest
    documents, recent, unreachable = _documents(version)
    file = version.file(ENGINE)
    file.check([0, -1] if mmap else None)
    try:
        engine = read_engine(file.path, mmap=mmap)
    except InputError:
        file.check()  # a mapped file that FAISS cannot read: if it is damaged, say that
        raise
    settings = manifest.settings
    refuse_other_metric(engine, str(file.path), distance=settings.ranks_by_distance)
    dim = engine.d - (1 if settings.radius else 0)
    found = (
        engine.ntotal,
        dim,
        len(documents.ids),
        len(documents.added_ids),
        len(documents) - documents.count,
    )
    if found != (manifest.rows, manifest.dim, manifest.rows, manifest.added, manifest.removed):
        file.check()
        raise InputError(
            f"{version.folder}: the manifest says {manifest.rows} rows of {manifest.dim} dimensions, "
            f"{manifest.added} added and {manifest.removed} removed ones, but the engine has {found[0]} of "
            f"{found[1]}, and there are {found[2]} ids, {found[3]} added and {found[4]} removed; build the "
            "index again"
        )
    return Held(engine, unreachable, documents, recent, file.check_mapped)


def _documents(version: Version) -> tuple[Documents, Matrix, Rows]:
    tensors = safetensors.numpy.load(version.file(IDS).read())
    ids, unreachable = Ids(_texts("id", tensors), (tensors["hash"], tensors["row"])), tensors["unreachable"]
    payloads = None
    if version.holds(PAYLOADS):
        payloads = _texts("payload", safetensors.numpy.load(version.file(PAYLOADS).read()))
    if not version.holds(CHANGES):
        return Documents(ids, payloads), np.zeros((0, version.manifest.dim), dtype=np.float32), unreachable
    changes = safetensors.numpy.load(version.file(CHANGES).read())
    added = tuple(text.decode() for text in _texts("id", changes))
    removed = None
    if len(changes["removed"]):
        removed = np.zeros(len(ids) + len(added), dtype=np.bool_)
        removed[changes["removed"]] = True
    stored = tuple(_texts("payload", changes)) if "payload_end" in changes else ()
    documents = Documents(ids, payloads, added_ids=added, added_payloads=stored, removed=removed)
    return documents, changes["vector"], unreachable
