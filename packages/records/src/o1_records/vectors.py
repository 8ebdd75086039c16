"""Vectors on disk: shards of safetensors, their ids beside them, one checked manifest.

```
folder/shard-00000.safetensors   "vectors" [rows, dim]
folder/shard-00000.ids.json      {"ids": [...], "owners": [...] | null}
folder/manifest.json             rows, dim, dtype, encoder, sha256 of every file above
```
While it is written the folder is called `<folder>.partial`; `close` renames it. Needs the
`[vectors]` extra (numpy, safetensors).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from o1_records.files import (
    InputError,
    MissingExtraError,
    atomic_write,
    quoted,
    sync_folder,
)
from o1_records.kit.job import ChangedJobError, Lock, move_aside, refuse_changed
from o1_records.types import Count, NonBlank, Record

try:
    import numpy as np
    import safetensors.numpy
    from numpy.typing import NDArray
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-records", "vectors", "Reading and writing vectors") from error

Matrix = NDArray[np.floating[Any]]


class Encoder(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fingerprint of what made the vectors.

    `digest` covers everything that changes a vector (weights, tokenizer, layout); `model` is a name
    for people. `role` is "query" or "document", `thoughts` how queries came by theirs.
    """

    model: NonBlank
    digest: str
    layout: str
    pooling: str
    max_length: Count
    dtype: str = "float32"
    role: str = ""
    thoughts: str = ""

    def same_space(self, other: Encoder) -> bool:
        """Return whether vectors may be compared: equal in digest, layout and pooling; names do not count."""
        names = ("digest", "layout", "pooling")
        return all(getattr(self, name) == getattr(other, name) for name in names)


class Shard(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pair of files and their digests."""

    name: NonBlank
    rows: Count
    vectors_sha256: str
    ids_sha256: str


FORMAT = 1
"""The version of the manifest that this release writes; it refuses newer ones."""


class Manifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a folder of vectors holds."""

    version: int = FORMAT
    rows: Count
    dim: Count
    dtype: str
    encoder: Encoder | None = None
    source: str = ""  # digest of what was encoded
    shards: tuple[Shard, ...] = ()
    sha256: str = ""  # of this manifest with sha256 left empty


class _Format(msgspec.Struct):
    """A manifest of any release, as far as its version."""

    version: int = FORMAT


class _Ids(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ids: list[str]
    owners: list[str] | None = None


class VectorWriter:
    """Write vectors shard by shard; what an earlier run finished is kept.

    `ids` are the rows already on disk, in the folder `partial`. Every `write` adds one shard; `close`
    publishes the folder. One writer works at a time: a second one is refused. Earlier vectors of another
    encoder or input are refused too, or with `new_job` moved aside. A context manager: left without `close`,
    it lets the next writer continue.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        encoder: Encoder | None = None,
        source: str = "",
        new_job: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.partial = self.folder.with_name(self.folder.name + ".partial")
        if self.folder.exists():
            if not new_job:
                raise ChangedJobError(
                    f"{self.folder}: exists already; choose another name, or move it aside with --new-job"
                )
            move_aside(self.folder)
        self._manifest = Manifest(rows=0, dim=0, dtype="", encoder=encoder, source=source)
        self.ids: list[str] = []
        try:
            self._open(encoder, source)
        except ChangedJobError:
            if not new_job:
                raise
            move_aside(self.partial)
            self._open(encoder, source)
        self._seen = set(self.ids)

    def _open(self, encoder: Encoder | None, source: str) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.partial / "lock")
        try:
            if (self.partial / "manifest.json").exists():
                partial = VectorSet(self.partial)
                refuse_other_origin(partial, encoder, source)
                self._manifest = partial.manifest
                self.ids = partial.ids()
        except BaseException:
            lock.close()
            raise
        self._lock = lock

    def write(self, ids: Sequence[str], vectors: Matrix, owners: Sequence[str] | None = None) -> None:
        """Add one shard: `vectors` [len(ids), dim], one id a row, unique over the whole folder.

        `owners` names the query of each row where a query has several vectors.
        Raises InputError for repeated ids, another dim or dtype, NaN, Inf and zero vectors, by id.
        """
        self._check(ids, vectors, owners)
        name = f"shard-{len(self._manifest.shards):05d}"
        named = _Ids(ids=list(ids), owners=None if owners is None else list(owners))
        shard = Shard(
            name=name,
            rows=len(ids),
            # safetensors' own writing would hide the errors of the disk behind a type of its own
            vectors_sha256=_write(
                self.partial / f"{name}.safetensors",
                safetensors.numpy.save({"vectors": np.ascontiguousarray(vectors)}),
            ),
            ids_sha256=_write(self.partial / f"{name}.ids.json", msgspec.json.encode(named)),
        )
        self._manifest = msgspec.structs.replace(
            self._manifest,
            rows=self._manifest.rows + len(ids),
            dim=vectors.shape[1],
            dtype=str(vectors.dtype),
            shards=(*self._manifest.shards, shard),
        )
        self._save_manifest()
        self.ids.extend(ids)
        self._seen.update(ids)

    def close(self) -> VectorSet:
        """Publish the folder and open it."""
        self._save_manifest()
        (self.partial / "lock").unlink()
        self._lock.close()
        self.partial.rename(self.folder)
        sync_folder(self.folder.parent)
        return VectorSet(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _save_manifest(self) -> None:
        with atomic_write(self.partial / "manifest.json") as file:
            file.write(_sealed(self._manifest))

    def _check(self, ids: Sequence[str], vectors: Matrix, owners: Sequence[str] | None) -> None:
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise InputError(f"{self.folder}: {len(ids)} ids for vectors of shape {vectors.shape}")
        if owners is not None and len(owners) != len(ids):
            raise InputError(f"{self.folder}: {len(ids)} ids but {len(owners)} owners")
        known = (self._manifest.dim, self._manifest.dtype)
        if self._manifest.shards and known != (vectors.shape[1], str(vectors.dtype)):
            raise InputError(
                f"{self.folder}: holds dim {known[0]}, {known[1]}; "
                f"these have dim {vectors.shape[1]}, {vectors.dtype}"
            )
        repeated = sorted(self._seen.intersection(ids) or _repeated(ids))
        if repeated:
            raise InputError(f"{self.folder}: repeated ids: {quoted(repeated)}")
        refuse_bad_vectors(ids, vectors, str(self.folder))


class VectorSet:
    """A published folder of vectors. Every file is checked against its digest before use."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        content = path.read_bytes()
        try:
            if msgspec.json.decode(content, type=_Format).version > FORMAT:
                raise InputError(f"{path}: written by a newer release of o1-records; upgrade it to read this")
            self.manifest = msgspec.json.decode(content, type=Manifest)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise InputError(f"{path}: damaged: {error}; write the vectors again") from error
        if _sealed(self.manifest) != content:
            raise InputError(f"{path}: does not match its own sha256; write the vectors again")

    def __len__(self) -> int:
        return self.manifest.rows

    def ids(self) -> list[str]:
        """Return the ids of all rows, in order."""
        return [name for ids in self.shard_ids() for name in ids]

    def shard_ids(self) -> Iterator[list[str]]:
        """Yield the ids of each shard, without reading its vectors."""
        for shard in self.manifest.shards:
            yield self._read_ids(shard).ids

    def owners(self) -> list[str]:
        """Return the owner of each row: its query where one has several vectors, else its own id."""
        every = (self._read_ids(shard) for shard in self.manifest.shards)
        return [name for shard in every for name in (shard.owners or shard.ids)]

    def shards(self, start: int = 0) -> Iterator[tuple[list[str], Matrix]]:
        """Yield (ids, vectors [rows, dim]) shard by shard, so that memory holds one at a time.

        The first `start` shards are not read.
        """
        for shard in self.manifest.shards[start:]:
            yield self._read_ids(shard).ids, self._read_vectors(shard)

    def load(self) -> Matrix:
        """Return all vectors [rows, dim] in memory."""
        if not self.manifest.shards:
            return np.zeros((0, self.manifest.dim), dtype=np.float32)
        return np.concatenate([self._read_vectors(shard) for shard in self.manifest.shards])

    def _read_ids(self, shard: Shard) -> _Ids:
        path = self.folder / f"{shard.name}.ids.json"
        return msgspec.json.decode(_checked_bytes(path, shard.ids_sha256), type=_Ids)

    def _read_vectors(self, shard: Shard) -> Matrix:
        path = self.folder / f"{shard.name}.safetensors"
        content = _checked_bytes(path, shard.vectors_sha256)
        vectors: Matrix = safetensors.numpy.load(content)["vectors"]
        return vectors


def refuse_other_origin(vectors: VectorSet, encoder: Encoder | None, source: str) -> None:
    """Raise ChangedJobError when vectors were made by another encoder or from another input."""
    manifest = vectors.manifest
    refuse_changed(vectors.folder, _origin(manifest.encoder, manifest.source), _origin(encoder, source))


def _origin(encoder: Encoder | None, source: str) -> dict[str, str]:
    made = (
        {} if encoder is None else {name: str(getattr(encoder, name)) for name in encoder.__struct_fields__}
    )
    return {**made, "input": source}


def refuse_bad_vectors(ids: Sequence[str], vectors: Matrix, place: str) -> None:
    """Raise InputError that names the ids of NaN, Inf and zero vectors."""
    matrix = vectors.astype(np.float32, copy=False)
    squares = np.einsum("ij,ij->i", matrix, matrix)
    if not len(squares) or (np.minimum.reduce(squares) > 0 and np.maximum.reduce(squares) < np.inf):
        return
    bad = np.flatnonzero(~np.isfinite(squares) | (squares == 0))
    named = [ids[row] for row in bad[:10]]
    raise InputError(f"{place}: {len(bad)} vectors are zero or not finite, the first of ids {quoted(named)}")


def _sealed(manifest: Manifest) -> bytes:
    """Return the manifest's one valid encoding, which contains the sha256 of its other fields."""
    content = msgspec.json.encode(msgspec.structs.replace(manifest, sha256=""))
    digest = hashlib.sha256(content).hexdigest()
    return msgspec.json.format(
        msgspec.json.encode(msgspec.structs.replace(manifest, sha256=digest)), indent=1
    )


def _write(path: Path, content: bytes) -> str:
    with atomic_write(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def _repeated(ids: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in ids if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def _checked_bytes(path: Path, expected: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise InputError(f"{path}: does not match the manifest's sha256; copy or write it again")
    return content
