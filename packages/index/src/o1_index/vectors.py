"""Vectors on their way in: checked, cast to float32, scaled to unit length for the cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError
from o1_records.vectors import refuse_bad_vectors

Metric = Literal["inner_product", "cosine"]
METRICS: tuple[Metric, ...] = ("inner_product", "cosine")

Matrix = NDArray[np.float32]
Vectors = Any
"""A numpy array or a torch tensor [rows, dim]; there is no type for both without torch."""


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
    with np.errstate(over="ignore"):  # too large for float32: infinite, and refused as such
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
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
