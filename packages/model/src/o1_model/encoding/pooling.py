"""Read-outs: from hidden states to one vector a row, of unit length if asked, in float32 or better.

Ragged batches hold their rows one after another: `hidden` [tokens, dim], row r at
`offsets[r]:offsets[r + 1]`, with `offsets` [rows + 1] from 0 to tokens. No padding is read or written.
Every `pool_...` keeps the first `dim` columns only (all by default; the rest is never read) and then
scales what is left to unit length (`unit`). An empty row gives a zero vector and gets no gradient.

Padded batches [batch, seq, dim] are read by READ_OUTS, which ignore everything outside a row's own
tokens, so that padding side and width do not matter.

On a GPU all of them run as the Triton kernels of `kernels.py`; this is the same in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

ReadOut = Callable[
    [Float[Tensor, "batch seq dim"], Int[Tensor, "batch seq"], Int[Tensor, "batch"]],
    Float[Tensor, "batch dim"],
]


def pool_mean(
    hidden: Float[Tensor, "tokens dim"],
    offsets: Int[Tensor, "rows_and_1"],
    *,
    unit: bool = True,
    dim: int | None = None,
) -> Float[Tensor, "rows dim"]:
    """Average the tokens of each row."""
    return pool_spans(hidden, offsets, offsets[:-1], offsets[1:], unit=unit, dim=dim)


def pool_samples(
    vectors: Float[Tensor, "vectors dim"],
    offsets: Int[Tensor, "owners_and_1"],
    *,
    unit: bool = True,
    dim: int | None = None,
) -> Float[Tensor, "owners dim"]:
    """Average the vectors of each owner: the v_t of a query's thoughts, one after another."""
    return pool_mean(vectors, offsets, unit=unit, dim=dim)


def pool_weighted(
    hidden: Float[Tensor, "tokens dim"],
    offsets: Int[Tensor, "rows_and_1"],
    *,
    unit: bool = True,
    dim: int | None = None,
) -> Float[Tensor, "rows dim"]:
    """Average the tokens of each row, the i-th (from 1) with weight i (SGPT, arXiv 2202.08904, eq. 4)."""
    return pool_spans(hidden, offsets, offsets[:-1], offsets[1:], weighted=True, unit=unit, dim=dim)


def pool_last(
    hidden: Float[Tensor, "tokens dim"],
    offsets: Int[Tensor, "rows_and_1"],
    *,
    unit: bool = True,
    dim: int | None = None,
) -> Float[Tensor, "rows dim"]:
    """Take the last token of each row."""
    begin = torch.maximum(offsets[1:] - 1, offsets[:-1])
    return pool_spans(hidden, offsets, begin, offsets[1:], unit=unit, dim=dim)


def pool_token(
    hidden: Float[Tensor, "tokens dim"],
    offsets: Int[Tensor, "rows_and_1"],
    position: Int[Tensor, "rows"],
    *,
    unit: bool = True,
    dim: int | None = None,
) -> Float[Tensor, "rows dim"]:
    """Take the token at `position` of each row, counted from 0; zero where that is outside the row."""
    return pool_span(hidden, offsets, position, position + 1, unit=unit, dim=dim)


def pool_span(
    hidden: Float[Tensor, "tokens dim"],
    offsets: Int[Tensor, "rows_and_1"],
    start: Int[Tensor, "rows"],
    stop: Int[Tensor, "rows"],
    *,
    unit: bool = True,
    dim: int | None = None,
) -> Float[Tensor, "rows dim"]:
    """Average the tokens `start:stop` of each row (its thought), counted from 0 in the row and cut to it."""
    low, high = offsets[:-1], offsets[1:]
    begin = torch.minimum(low + start.clamp(min=0), high)
    end = torch.minimum(low + stop.clamp(min=0), high)
    return pool_spans(hidden, offsets, begin, end, unit=unit, dim=dim)


def pool_spans(
    hidden: Float[Tensor, "tokens dim"],
    offsets: Int[Tensor, "rows_and_1"],
    begin: Int[Tensor, "rows"],
    end: Int[Tensor, "rows"],
    *,
    weighted: bool = False,
    unit: bool = True,
    dim: int | None = None,
) -> Float[Tensor, "rows dim"]:
    """Average the tokens `begin:end` of `hidden`, a span inside each row: what every `pool_...` does.

    The only place that chooses between torch and Triton.
    """
    width = hidden.shape[1] if dim is None else min(dim, hidden.shape[1])
    if hidden.is_cuda and _has_triton() and hidden.dtype != torch.float64:
        from o1_model.encoding import kernels

        return kernels.pool_spans(hidden, offsets, begin, end, weighted=weighted, unit=unit, dim=width)
    pooled = _average(hidden[:, :width], begin, end, weighted)
    return normalise(pooled) if unit else pooled


def normalise(vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Scale each row to unit length in float32 or better; a zero row stays zero and gets no gradient."""
    vectors = vectors.to(_accumulator(vectors))
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    zero = norm == 0
    return vectors * (1 / norm.masked_fill(zero, 1)).masked_fill(zero, 0)


def at_position(
    hidden: Float[Tensor, "batch seq dim"],
    mask: Int[Tensor, "batch seq"],
    position: Int[Tensor, "batch"],
) -> Float[Tensor, "batch dim"]:
    """Take the state of the `position`-th attended token of each row, counted from 0."""
    column = position + _first_column(mask)
    return hidden[torch.arange(len(hidden), device=hidden.device), column]


def mean_up_to(
    hidden: Float[Tensor, "batch seq dim"],
    mask: Int[Tensor, "batch seq"],
    position: Int[Tensor, "batch"],
) -> Float[Tensor, "batch dim"]:
    """Average the states of attended tokens 0..`position` (inclusive) of each row, in float32 or better."""
    # a padded batch is ragged with rows of `seq` tokens, of which spans are read
    batch, seq = mask.shape
    offsets = torch.arange(batch + 1, device=hidden.device) * seq
    begin = offsets[:-1] + _first_column(mask)
    return pool_spans(hidden.flatten(0, 1), offsets, begin, begin + position + 1, unit=False)


def first_of(
    hidden: Float[Tensor, "batch seq dim"],
    mask: Int[Tensor, "batch seq"],
    position: Int[Tensor, "batch"],
) -> Float[Tensor, "batch dim"]:
    """Take the state of the first attended token of each row, wherever its `position` is."""
    return at_position(hidden, mask, torch.zeros_like(position))


READ_OUTS: dict[str, ReadOut] = {"token": at_position, "mean": mean_up_to, "first": first_of}


def _average(
    hidden: Float[Tensor, "tokens dim"],
    begin: Int[Tensor, "rows"],
    end: Int[Tensor, "rows"],
    weighted: bool,
) -> Float[Tensor, "rows dim"]:
    length = (end - begin).clamp(min=0)
    row = torch.repeat_interleave(length)
    rank = torch.arange(len(row), device=row.device) - (length.cumsum(0) - length)[row]
    chosen = hidden.index_select(0, begin[row] + rank).to(_accumulator(hidden))
    total = length
    if weighted:
        chosen = chosen * (rank + 1)[:, None]
        total = length * (length + 1) // 2
    summed = chosen.new_zeros(len(length), hidden.shape[1]).index_add(0, row, chosen)
    return summed / total.clamp(min=1)[:, None]


def _first_column(mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch"]:
    return mask.to(torch.uint8).argmax(dim=1)


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
