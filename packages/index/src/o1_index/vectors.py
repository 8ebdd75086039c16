"""Vectors on their way in: read from folders and files, checked, cast to float32, laid out for the metric."""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index.documents import encoded
from o1_records import InputError, MissingExtraError, quoted, sha256_file
from o1_records.vectors import Manifest, VectorSet, refuse_bad_vectors

Metric = Literal["inner_product", "cosine", "l2"]
METRICS: tuple[Metric, ...] = ("inner_product", "cosine", "l2")
"""How vectors are compared. Higher scores are better: of "l2" the score is minus the squared distance."""

Matrix = NDArray[np.float32]
Vectors = Any
"""A numpy array or a torch tensor [rows, dim]; there is no type for both without torch."""

# --- checks -------------------------------------------------------------------------------------------


def checked(ids: Sequence[str], vectors: Vectors, metric: Metric, place: str, dim: int) -> Matrix:
    """Return vectors [len(ids), dim] as contiguous float32, at unit length for the cosine.

    A torch tensor may be bfloat16, which numpy does not have. `place` names the vectors in errors.

    Raises InputError for another shape, numbers that are not floating point, and NaN, Inf or zero vectors,
    by id.
    """
    refuse_shape(ids, vectors, place, dim)
    vectors = as_numpy(vectors)
    if vectors.dtype.kind != "f":
        raise InputError(f"{place} are {vectors.dtype}; give float16, float32 or float64")
    if vectors.dtype != np.float32:
        with np.errstate(over="ignore"):  # too large for float32: infinite, and refused as such
            vectors = vectors.astype(np.float32)
    matrix = np.ascontiguousarray(vectors)
    refuse_bad_vectors(ids, matrix, place)
    if metric == "cosine":
        matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def checked_on_device(ids: Sequence[str], tensor: Vectors, metric: Metric, place: str, dim: int) -> Vectors:
    """Do what `checked` does for a tensor on a GPU; only its norms come to the host."""
    refuse_shape(ids, tensor, place, dim)
    if not tensor.is_floating_point():
        raise InputError(f"{place} are {tensor.dtype}; give float16, bfloat16 or float32")
    matrix = tensor.detach().float()
    norms = matrix.norm(dim=1, keepdim=True)
    refuse_bad_vectors(ids, norms.cpu().numpy(), place)
    return (matrix / norms if metric == "cosine" else matrix).contiguous()


def on_device(vectors: Vectors) -> bool:
    """Return whether this is a torch tensor on a GPU."""
    return bool(getattr(vectors, "is_cuda", False))


def refuse_shape(ids: Sequence[str], vectors: Vectors, place: str, dim: int | None = None) -> None:
    """Raise InputError for anything but an array or tensor [len(ids), dim]."""
    if not isinstance(vectors, np.ndarray) and not hasattr(vectors, "detach"):
        raise InputError(f"vectors are a {type(vectors).__name__}; give a numpy array or a torch tensor")
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise InputError(f"{place}: {len(ids)} ids for vectors of shape {tuple(vectors.shape)}")
    if dim is not None and vectors.shape[1] != dim:
        raise InputError(f"{place} have {vectors.shape[1]} dimensions, the index has {dim}")


def as_numpy(vectors: Vectors) -> NDArray[Any]:
    """Return a torch tensor, wherever it is, as an array in host memory; an array as it is."""
    if isinstance(vectors, np.ndarray):
        return vectors
    tensor = vectors.detach().cpu()
    array: NDArray[Any] = (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
    return array


# --- one dimension more -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How vectors lie in the engine: as they are, or with one dimension more.

    A graph cannot be built by inner product of vectors of unequal length: nearly all links lead to the
    longest ones, and most documents cannot be reached. With sqrt(radius^2 - |x|^2) as one dimension more for
    documents, and 0 for queries, the squared distance is radius^2 + |q|^2 - 2 q.x: the order of distances is
    that of inner products (Bachrach et al., RecSys 2014). `radius` 0 means no such dimension.
    """

    radius: float = 0.0

    def documents(self, matrix: Matrix) -> Matrix:
        """Return documents as the engine holds them."""
        if not self.radius:
            return matrix
        rest = self.radius**2 - np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64)
        return np.concatenate([matrix, np.sqrt(np.maximum(rest, 0))[:, None].astype(np.float32)], axis=1)

    def queries(self, matrix: Matrix) -> Matrix:
        """Return queries as the engine is asked for them."""
        if not self.radius:
            return matrix
        return np.concatenate([matrix, np.zeros((len(matrix), 1), np.float32)], axis=1)

    def inner_products(self, queries: Matrix, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the inner products that squared distances [queries, any] stand for."""
        norms = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)[:, None]
        products: NDArray[np.float32] = ((self.radius**2 + norms - distances) / 2).astype(np.float32)
        return products

    def distance(self, queries: Matrix, inner_product: float) -> float:
        """Return a squared distance within which all documents with a larger inner product lie."""
        widest = largest_norm(queries) ** 2 + self.radius**2 - 2 * inner_product
        return min(widest * (1 + 1e-5), float(np.finfo(np.float32).max))

    def holds(self, matrix: Matrix) -> bool:
        """Return whether documents fit into the radius."""
        return not self.radius or largest_norm(matrix) <= self.radius * (1 + 1e-6)


def largest_norm(matrix: Matrix) -> float:
    """Return the length of the longest row."""
    return float(np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64).max(initial=0.0)))


# --- folders and files --------------------------------------------------------------------------------

_ROWS = 16_384  # read from a file at a time
_ID_COLUMNS = ("doc_id", "query_id", "id", "_id")
_VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "emb")


class VectorFile:
    """Vectors in one file, read as a folder of vectors is: .npy, .fvecs, .fbin or .parquet.

    Parquet has its ids in a column (doc_id, query_id, id or _id) beside that of the vectors (vector,
    embedding, embeddings or emb). The others have no ids: give them as a text file with one on each line, or
    the row numbers are the ids, "0", "1", ... Parquet needs the `[parquet]` extra.
    """

    def __init__(self, path: str | Path, ids: str | Path | None = None) -> None:
        self.folder = Path(path)
        self._ids_path = None if ids is None else Path(ids)
        reader = _READERS.get(self.folder.suffix)
        if reader is None:
            raise InputError(
                f"{self.folder}: give a folder of vectors, or a file whose name ends in {' '.join(_READERS)}"
            )
        if self.folder.suffix == ".parquet" and ids is not None:
            raise InputError(f"{self.folder}: its ids are in it; leave the file of ids out")
        self._reader = reader(self.folder)
        self._ids = None if ids is None else read_ids(ids)
        rows, dim = self._reader.shape
        if self._ids is not None and len(self._ids) != rows:
            raise InputError(f"{ids}: {len(self._ids)} ids for the {rows} vectors in {self.folder}")
        self.manifest = Manifest(rows=rows, dim=dim, dtype="float32")

    def __len__(self) -> int:
        return self.manifest.rows

    def digest(self) -> str:
        """Return the digest of the file and of its ids."""
        paths = [self.folder] + ([self._ids_path] if self._ids_path else [])
        return hashlib.sha256(" ".join(map(sha256_file, paths)).encode()).hexdigest()

    def ids(self) -> list[str]:
        """Return the ids of all rows, in order."""
        return [name for ids in self.shard_ids() for name in ids]

    def owners(self) -> list[str]:
        """Return the ids: here every vector has an owner of its own."""
        return self.ids()

    def shard_ids(self) -> Iterator[list[str]]:
        """Yield the ids of each part, without its vectors."""
        if isinstance(self._reader, _Parquet):
            yield from self._reader.ids()
            return
        for start in range(0, len(self), _ROWS):
            yield self._named(start, min(start + _ROWS, len(self)))

    def shards(self, start: int = 0) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """Yield (ids, vectors [rows, dim]) part by part; the first `start` parts are not read."""
        if isinstance(self._reader, _Parquet):
            yield from self._reader.shards(start)
            return
        for first in range(start * _ROWS, len(self), _ROWS):
            last = min(first + _ROWS, len(self))
            yield self._named(first, last), self._reader.rows(first, last)

    def load(self) -> NDArray[Any]:
        """Return all vectors [rows, dim] in memory."""
        parts = [matrix for _, matrix in self.shards()]
        return np.concatenate(parts) if parts else np.zeros((0, self.manifest.dim), dtype=np.float32)

    def _named(self, start: int, end: int) -> list[str]:
        return self._ids[start:end] if self._ids is not None else [str(row) for row in range(start, end)]


class Part:
    """The n-th of so many parts of a folder or file of vectors, in the order of its rows; reads no other."""

    def __init__(self, source: VectorSource, number: int, parts: int) -> None:
        """Take the part `number`, counted from 0.

        Raises InputError where there are fewer vectors than parts.
        """
        self.folder: Path = source.folder
        if not 0 <= number < parts <= len(source):
            raise InputError(f"{self.folder}: no part {number} of {parts} in {len(source)} vectors")
        self._source, self._name = source, f"part {number} of {parts}"
        self._start, self._end = (len(source) * place // parts for place in (number, number + 1))
        self.manifest: Manifest = msgspec.structs.replace(source.manifest, rows=len(self))

    def __len__(self) -> int:
        return self._end - self._start

    def digest(self) -> str:
        """Return the digest of the whole and of which part this is."""
        return hashlib.sha256(f"{fingerprint(self._source)} {self._name}".encode()).hexdigest()

    def ids(self) -> list[str]:
        """Return the ids of all rows, in order."""
        return [name for ids in self.shard_ids() for name in ids]

    def owners(self) -> list[str]:
        """Return the owner of each row."""
        return self._source.owners()[self._start : self._end]

    def shard_ids(self) -> Iterator[list[str]]:
        """Yield the ids of each shard of the folder, as far as they belong to this part."""
        for _, ids, rows in self._cut():
            yield ids[rows]

    def shards(self, start: int = 0) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """Yield (ids, vectors [rows, dim]) likewise, without the first `start`."""
        cuts = list(itertools.islice(self._cut(), start, None))
        if not cuts:
            return
        shards = self._source.shards(cuts[0][0])
        for (_, _, rows), (ids, vectors) in zip(cuts, shards, strict=False):
            yield ids[rows], vectors[rows]

    def load(self) -> NDArray[Any]:
        """Return all vectors [rows, dim] in memory."""
        return np.concatenate([vectors for _, vectors in self.shards()])

    def _cut(self) -> Iterator[tuple[int, list[str], slice]]:
        """Yield the number of each shard that has rows of this part, its ids, and which rows these are."""
        first = 0
        for number, ids in enumerate(self._source.shard_ids()):
            start, end = max(self._start - first, 0), min(self._end - first, len(ids))
            if start < end:
                yield number, ids, slice(start, end)
            first += len(ids)
            if first >= self._end:
                return


VectorSource = VectorSet | VectorFile | Part


def open_vectors(path: str | Path, ids: str | Path | None = None) -> VectorSource:
    """Return a folder of vectors, or a file of them (see `VectorFile`)."""
    if Path(path).is_dir():
        if ids is not None:
            raise InputError(f"{path}: the ids are in the folder; leave the file of ids out")
        return VectorSet(path)
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder")
    return VectorFile(path, ids)


def fingerprint(vectors: VectorSource) -> str:
    """Return the digest of vectors: of a folder, that of its manifest, which has those of all its files."""
    if isinstance(vectors, VectorFile | Part):
        return vectors.digest()
    return sha256_file(vectors.folder / "manifest.json")


def read_ids(path: str | Path) -> list[str]:
    """Return the ids in a text file, one on each line; empty lines count for nothing."""
    try:
        ids = [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    encoded(ids)
    return ids


class _Npy:
    def __init__(self, path: Path) -> None:
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{path}: not an array of numbers: {error}") from error
        if self._array.ndim != 2:
            raise InputError(f"{path}: an array of shape {self._array.shape}; vectors are [rows, dim]")
        self.shape = self._array.shape

    def rows(self, first: int, last: int) -> NDArray[Any]:
        array: NDArray[Any] = self._array[first:last]
        return array


class _Fvecs:
    """Each vector after its number of dimensions (int32), as of SIFT1M and GIST1M."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        dim = int(np.fromfile(path, dtype="<i4", count=1)[0]) if size >= 4 else 0
        if dim < 1 or size % (4 + 4 * dim):
            raise InputError(f"{path}: {size} bytes are no whole vectors of {dim} dimensions; is it .fvecs?")
        self._array = np.memmap(path, dtype="<i4", mode="r").reshape(-1, dim + 1)
        if (self._array[:, 0] != dim).any():
            raise InputError(f"{path}: its vectors have not all {dim} dimensions; is it .fvecs?")
        self.shape = (len(self._array), dim)

    def rows(self, first: int, last: int) -> NDArray[Any]:
        return self._array[first:last, 1:].view("<f4")


class _Fbin:
    """Rows and dimensions (uint32 each), then float32, as of the billion-scale benchmarks."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        head = np.fromfile(path, dtype="<u4", count=2).tolist() if size >= 8 else [0, 0]
        if size != 8 + 4 * head[0] * head[1] or not head[1]:
            raise InputError(
                f"{path}: {size} bytes are not {head[0]} vectors of {head[1]} dimensions; write it again"
            )
        self.shape = (head[0], head[1])
        self._array = np.memmap(path, dtype="<f4", mode="r", offset=8).reshape(self.shape)

    def rows(self, first: int, last: int) -> NDArray[Any]:
        return self._array[first:last]


class _Parquet:
    def __init__(self, path: Path) -> None:
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-index", "parquet", "A Parquet file") from error
        self._path = path
        try:
            self._file = parquet.ParquetFile(path)
        except (ValueError, OSError) as error:
            raise InputError(f"{path}: not a Parquet file: {error}") from error
        names = self._file.schema_arrow.names
        self._id, self._vector = (self._column(names, wanted) for wanted in (_ID_COLUMNS, _VECTOR_COLUMNS))
        first = next((matrix for _, matrix in self._parts(range(self._file.num_row_groups))), None)
        self.shape = (self._file.metadata.num_rows, 0 if first is None else first.shape[1])

    def ids(self) -> Iterator[list[str]]:
        for group in range(self._file.num_row_groups):
            yield self._file.read_row_group(group, columns=[self._id]).column(0).to_pylist()

    def shards(self, start: int) -> Iterator[tuple[list[str], NDArray[Any]]]:
        return self._parts(range(start, self._file.num_row_groups))

    def _parts(self, groups: range) -> Iterator[tuple[list[str], NDArray[Any]]]:
        for group in groups:
            table = self._file.read_row_group(group, columns=[self._id, self._vector])
            ids, column = table.column(self._id).to_pylist(), table.column(self._vector).combine_chunks()
            values = np.asarray(column.flatten().to_numpy(zero_copy_only=False))
            lengths = importlib.import_module("pyarrow.compute").list_value_length(column).unique()
            if len(ids) and (len(lengths) != 1 or lengths.null_count):
                raise InputError(
                    f"{self._path}: row group {group}: the vectors in {self._vector} have different lengths"
                )
            yield ids, values.reshape(len(ids), -1)

    def _column(self, names: Sequence[str], wanted: Sequence[str]) -> str:
        for name in wanted:
            if name in names:
                return name
        raise InputError(
            f"{self._path}: has the columns {quoted(list(names))}, none of {', '.join(wanted)}; rename one"
        )


_READERS: dict[str, Any] = {".npy": _Npy, ".fvecs": _Fvecs, ".fbin": _Fbin, ".parquet": _Parquet}


def spread(
    batches: Iterable[tuple[Sequence[str], Vectors]], rows: int, most: int
) -> Iterator[tuple[list[str], Vectors]]:
    """Yield every n-th vector with its id, at most `most` of them, so that the sample is spread over all."""
    step = -(-rows // most)
    seen = 0
    for ids, vectors in batches:
        here = slice(-seen % step, None, step)
        seen += len(ids)
        if here.start < len(ids):
            yield list(ids[here]), vectors[here]
