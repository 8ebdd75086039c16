"""An index on disk: whole or absent, and checked byte for byte before FAISS sees it.

```
folder/index.faiss     the engine
folder/ids.json        the doc_id of each row
folder/manifest.json   rows, dim, settings, sha256 of the two files and of itself
```
While it is written the folder is called `<folder>.partial`. It is renamed when all is on the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from o1_index.engine import read_engine, write_engine
from o1_index.settings import Settings
from o1_records import InputError, Record, atomic_write, sha256_file
from o1_records.files import sync_folder
from o1_records.types import Count

ENGINE, IDS, MANIFEST = "index.faiss", "ids.json", "manifest.json"


class IndexManifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a folder holds. `made_from` names the vectors; `digest` is that of the other fields."""

    version: int = 1
    rows: Count
    dim: Count
    settings: Settings
    made_from: str = ""
    index_sha256: str
    ids_sha256: str
    digest: str = ""


def write(folder: Path, engine: Any, ids: Sequence[str], settings: Settings, made_from: str = "") -> None:
    """Publish an index. Raises InputError when the folder exists; an interrupted one is replaced."""
    if folder.exists():
        raise InputError(f"{folder}: exists already; remove it or choose another name")
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    _refuse_strangers(partial)
    with atomic_write(partial / ENGINE) as file:
        write_engine(engine, file)
    with atomic_write(partial / IDS) as file:
        file.write(msgspec.json.encode(list(ids)))
    manifest = IndexManifest(
        rows=len(ids),
        dim=engine.d,
        settings=settings,
        made_from=made_from,
        index_sha256=sha256_file(partial / ENGINE),
        ids_sha256=sha256_file(partial / IDS),
    )
    with atomic_write(partial / MANIFEST) as file:
        file.write(_encoded(manifest))
    partial.rename(folder)
    sync_folder(folder.parent)


def read(folder: Path, *, mmap: bool = False) -> tuple[Any, list[str], IndexManifest]:
    """Check every file and read engine, ids and manifest.

    With `mmap` the vectors stay on the disk; they are checked all the same.

    Raises InputError for any changed, cut or foreign file, before FAISS reads anything.
    """
    manifest = read_manifest(folder)
    ids = _read_ids(folder, manifest)
    if sha256_file(folder / ENGINE) != manifest.index_sha256:
        raise _damaged(folder / ENGINE)
    engine = read_engine(folder / ENGINE, mmap=mmap)
    if (engine.ntotal, engine.d, len(ids)) != (manifest.rows, manifest.dim, manifest.rows):
        raise InputError(
            f"{folder}: the manifest says {manifest.rows} rows of {manifest.dim} dimensions, the "
            f"engine has {engine.ntotal} of {engine.d}, the ids are {len(ids)}; build it again"
        )
    return engine, ids, manifest


def read_manifest(folder: Path) -> IndexManifest:
    """The manifest, checked against its own digest."""
    path = folder / MANIFEST
    content = path.read_bytes()
    try:
        manifest = msgspec.json.decode(content, type=IndexManifest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _damaged(path) from error
    # written again it must be the same bytes: that covers its white space and its own digest
    if _encoded(manifest) != content:
        raise _damaged(path)
    return manifest


def _read_ids(folder: Path, manifest: IndexManifest) -> list[str]:
    content = (folder / IDS).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.ids_sha256:
        raise _damaged(folder / IDS)
    return msgspec.json.decode(content, type=list[str])


def _encoded(manifest: IndexManifest) -> bytes:
    bare = msgspec.json.encode(msgspec.structs.replace(manifest, digest=""))
    signed = msgspec.structs.replace(manifest, digest=hashlib.sha256(bare).hexdigest())
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: damaged (its digest does not match); copy it or build it again")


def _refuse_strangers(partial: Path) -> None:
    """Only files of an interrupted run may be replaced."""
    for path in partial.iterdir():
        if path.name not in (ENGINE, IDS, MANIFEST) and not path.name.endswith(".tmp"):
            raise InputError(f"{path}: is in the way; move it and build again")
        path.unlink()
