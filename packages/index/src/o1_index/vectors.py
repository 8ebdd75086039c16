"""Vectors as they come in: checked, cast to float32, made unit length for the cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o1_index.settings import Metric
from o1_records import InputError
from o1_records.vectors import refuse_bad_vectors

Matrix = NDArray[np.float32]


def checked(ids: Sequence[str], vectors: NDArray[Any], metric: Metric, place: str, dim: int) -> Matrix:
    """Vectors [len(ids), dim] as contiguous float32, of unit length for the cosine.

    Raises InputError for another shape, numbers that are not floating point, and NaN, Inf or zero
    vectors, by id. bfloat16 has no numpy type: cast it before.
    """
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise InputError(f"{place}: {len(ids)} ids for vectors of shape {vectors.shape}")
    if vectors.shape[1] != dim:
        raise InputError(f"{place} have {vectors.shape[1]} dimensions, the index has {dim}")
    if vectors.dtype.kind != "f":
        raise InputError(f"{place} are {vectors.dtype}; give float16, float32 or float64")
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        refuse_bad_vectors(ids, matrix, place)
    return normalised(matrix) if metric == "cosine" else matrix


def normalised(vectors: Matrix) -> Matrix:
    """The vectors at unit length."""
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
