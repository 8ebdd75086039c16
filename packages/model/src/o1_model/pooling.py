"""Read-outs: from hidden states [batch, seq, dim] to one vector a row [batch, dim].

Plain torch, any device. Every function ignores what stands after a row's own tokens, so padding side
and width do not matter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

ReadOut = Callable[
    [Float[Tensor, "batch seq dim"], Int[Tensor, "batch seq"], Int[Tensor, "batch"]],
    Float[Tensor, "batch dim"],
]


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
    rank = mask.cumsum(dim=1) - 1
    chosen = (mask.bool() & (rank <= position[:, None])).to(_accumulator(hidden))
    summed = torch.einsum("bsd,bs->bd", hidden.to(chosen.dtype), chosen)
    return (summed / chosen.sum(dim=1, keepdim=True)).to(hidden.dtype)


def last_token(
    hidden: Float[Tensor, "batch seq dim"], mask: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch dim"]:
    """Take the last attended token of each row, whichever side is padded."""
    return at_position(hidden, mask, mask.sum(dim=1) - 1)


def normalise(vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Scale each row to unit length in float32 (zero rows stay zero)."""
    return F.normalize(vectors.to(_accumulator(vectors)), dim=-1)


READ_OUTS: dict[str, ReadOut] = {"token": at_position, "mean": mean_up_to}


def _first_column(mask: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch"]:
    return mask.to(torch.uint8).argmax(dim=1)


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
