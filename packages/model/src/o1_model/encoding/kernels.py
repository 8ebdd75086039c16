"""Pooling of ragged batches in Triton: what `pooling.pool_spans` runs on a GPU.

Memory traffic is the cost, so each token is read once (forward) and each gradient written once (backward):
```
forward   hidden [tokens, dim]  -> partial sums [rows, splits, dim] -> unit vectors [rows, dim]
backward  gradient [rows, dim]  -> gradient of each row's sum       -> gradient [tokens, dim]
```
A program takes COLUMNS columns of one split of one row, so that a few long rows fill the device as well as
many short ones do. Sums are float32. `TRITON_INTERPRET=1` runs the same kernels on the CPU.
"""

# Triton kernels have no types that Python knows
# ruff: noqa: ANN001, ANN202, N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TOKENS = 32  # tile of 32 x 128: 32 float32 sums a thread, 8 KB in flight a program in bfloat16
COLUMNS = 128
PROGRAMS = 2048  # enough for every multiprocessor of a large GPU
SPLIT_TOKENS = 64  # below this the partial sums would cost as much as the tokens


def pool_spans(
    hidden: Float[Tensor, "tokens dim"],
    offsets: Int[Tensor, "rows_and_1"],
    begin: Int[Tensor, "rows"],
    end: Int[Tensor, "rows"],
    *,
    weighted: bool,
    unit: bool,
    dim: int,
) -> Float[Tensor, "rows dim"]:
    """Do what `pooling.pool_spans` does, for float32, bfloat16 and float16; the result is float32."""
    pooled: Tensor = _PoolSpans.apply(hidden, offsets, begin, end, weighted, unit, dim)
    return pooled


class _PoolSpans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        offsets: Tensor,
        begin: Tensor,
        end: Tensor,
        weighted: bool,
        unit: bool,
        dim: int,
    ) -> Tensor:
        hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
        offsets, begin, end = (tensor.contiguous() for tensor in (offsets, begin, end))
        rows = len(begin)
        splits = _splits(len(hidden), rows, dim)
        partial = hidden.new_empty(rows, splits, dim, dtype=torch.float32)
        pooled = hidden.new_empty(rows, dim, dtype=torch.float32)
        scale = hidden.new_empty(rows, dtype=torch.float32)
        if rows:
            grid = (rows, splits, triton.cdiv(dim, COLUMNS))
            with torch.cuda.device_of(hidden):
                _sum_spans[grid](
                    hidden, begin, end, partial, hidden.stride(0), dim, splits,
                    WEIGHTED=weighted, TOKENS=TOKENS, COLUMNS=COLUMNS,
                )  # fmt: skip
                _finish[(rows,)](
                    partial, begin, end, pooled, scale, dim, splits,
                    WEIGHTED=weighted, UNIT=unit, COLUMNS=triton.next_power_of_2(dim),
                )  # fmt: skip
        ctx.save_for_backward(offsets, begin, end, pooled, scale)
        ctx.settings = (hidden.shape, hidden.dtype, weighted, unit)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        offsets, begin, end, pooled, scale = ctx.saved_tensors
        shape, dtype, weighted, unit = ctx.settings
        (tokens, width), (rows, dim) = shape, pooled.shape
        splits = _splits(tokens, rows, width)
        grad_sum = torch.empty_like(pooled)
        grad_hidden = pooled.new_empty(shape, dtype=dtype)
        if rows:
            grid = (rows, splits, triton.cdiv(width, COLUMNS))
            with torch.cuda.device_of(pooled):
                _unfinish[(rows,)](
                    gradients[0].contiguous(), pooled, scale, grad_sum, dim,
                    UNIT=unit, COLUMNS=triton.next_power_of_2(dim),
                )  # fmt: skip
                _spread[grid](
                    grad_sum, offsets, begin, end, grad_hidden, dim, width, splits,
                    WEIGHTED=weighted, TOKENS=TOKENS, COLUMNS=COLUMNS,
                )  # fmt: skip
        return grad_hidden, None, None, None, None, None, None


def _splits(tokens: int, rows: int, dim: int) -> int:
    programs = max(1, rows) * triton.cdiv(dim, COLUMNS)
    longest = triton.cdiv(tokens, max(1, rows) * SPLIT_TOKENS)
    return max(1, min(triton.cdiv(PROGRAMS, programs), longest))


@triton.jit
def _sum_spans(
    hidden,
    begin,
    end,
    partial,
    stride,
    dim,
    splits,
    WEIGHTED: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sum one split of one row's span over a block of columns."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(begin + row)
    length = tl.maximum(tl.load(end + row) - first, 0)
    size = tl.cdiv(length, splits)
    stop = tl.minimum((split + 1) * size, length)
    total = tl.zeros([TOKENS, COLUMNS], tl.float32)
    for base in range(split * size, stop, TOKENS):
        rank = base + tl.arange(0, TOKENS)
        inside = (rank < stop)[:, None] & (column < dim)[None, :]
        address = hidden + (first + rank)[:, None] * stride + column[None, :]
        values = tl.load(address, mask=inside, other=0.0).to(tl.float32)
        if WEIGHTED:
            values *= (rank + 1).to(tl.float32)[:, None]
        total += values
    tl.store(partial + (row * splits + split) * dim + column, tl.sum(total, axis=0), mask=column < dim)


@triton.jit
def _finish(
    partial,
    begin,
    end,
    pooled,
    scale,
    dim,
    splits,
    WEIGHTED: tl.constexpr,
    UNIT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add the splits of one row and divide; `scale` keeps the factor of its sum."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < dim
    total = tl.zeros([COLUMNS], tl.float32)
    for split in range(splits):
        total += tl.load(partial + (row * splits + split) * dim + column, mask=inside, other=0.0)
    length = tl.maximum(tl.load(end + row) - tl.load(begin + row), 0).to(tl.float32)
    if WEIGHTED:
        factor = 1.0 / tl.maximum(length * (length + 1.0) * 0.5, 1.0)
    else:
        factor = 1.0 / tl.maximum(length, 1.0)
    total *= factor
    if UNIT:
        norm = tl.sqrt(tl.sum(total * total, axis=0))
        inverse = tl.where(norm == 0.0, 0.0, 1.0 / tl.where(norm == 0.0, 1.0, norm))
        total *= inverse
        factor *= inverse
    tl.store(pooled + row * dim + column, total, mask=inside)
    tl.store(scale + row, factor)


@triton.jit
def _unfinish(
    gradient,
    pooled,
    scale,
    grad_sum,
    dim,
    UNIT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the gradient of one row's sum; under UNIT only what is orthogonal to the vector counts."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    place = row * dim + column
    inside = column < dim
    values = tl.load(gradient + place, mask=inside, other=0.0)
    if UNIT:
        vector = tl.load(pooled + place, mask=inside, other=0.0)
        values -= vector * tl.sum(values * vector, axis=0)
    tl.store(grad_sum + place, values * tl.load(scale + row), mask=inside)


@triton.jit
def _spread(
    grad_sum,
    offsets,
    begin,
    end,
    grad_hidden,
    dim,
    width,
    splits,
    WEIGHTED: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the gradient of one split of a row's tokens: zero outside its span and beyond `dim`."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    low = tl.load(offsets + row)
    high = tl.load(offsets + row + 1)
    first = tl.load(begin + row)
    last = tl.load(end + row)
    size = tl.cdiv(high - low, splits)
    stop = tl.minimum(low + (split + 1) * size, high)
    values = tl.load(grad_sum + row * dim + column, mask=column < dim, other=0.0)
    for base in range(low + split * size, stop, TOKENS):
        token = base + tl.arange(0, TOKENS)
        weight = ((token >= first) & (token < last)).to(tl.float32)
        if WEIGHTED:
            weight *= (token - first + 1).to(tl.float32)
        inside = (token < stop)[:, None] & (column < width)[None, :]
        address = grad_hidden + token[:, None] * width + column[None, :]
        tl.store(address, weight[:, None] * values[None, :], mask=inside)
