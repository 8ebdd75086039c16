"""What one training step has to judge: vectors, and which of them belong together.

Tensors only, so that processes can gather them. Everything about the loss sees the *global* batch with every
document once, so that loss and gradient do not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from o1_model.pooling import normalise


@dataclass(frozen=True)
class StepVectors:
    """Unit vectors of one step: of one process, or of all after gathering.

    `v_t` is v_q's row where there is no thought. `reasoning` holds vectors of the reasoning queries (q' of
    Redapter) for layouts without a thought inside; None elsewhere, where q' is v_t. It never has a gradient.
    """

    v_q: Float[Tensor, "queries dim"]
    v_t: Float[Tensor, "queries dim"]
    documents: Float[Tensor, "documents dim"]
    reasoning: Float[Tensor, "queries dim"] | None = None


@dataclass(frozen=True)
class Judgements:
    """What is right in one step: of one process, or of all after `join`. Tensors only.

    Dimension 0 is queries, of `document_keys` documents. `rows` is the only tensor that points at documents
    by position.

    Attributes:
        document_keys: a 64-bit digest of each doc_id; a document may stand several times.
        rows: each example's own documents, positives first, -1 after the last.
        n_positives: how many of `rows` are positives; at least 1.
        positive_keys: all known positives of the query, present or not, padded with the first.
        has_thought: whether v_t is a read-out of its own: a thought stands between two `<emb>`.
        teacher: the teacher's scores of `rows`; NaN where there is none.
    """

    document_keys: Int[Tensor, "documents"]
    rows: Int[Tensor, "queries group"]
    n_positives: Int[Tensor, "queries"]
    positive_keys: Int[Tensor, "queries positives"]
    has_thought: Bool[Tensor, "queries"]
    teacher: Float[Tensor, "queries group"]

    def to(self, device: torch.device) -> Judgements:
        """The same judgements on another device."""
        return Judgements(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def join(parts: Sequence[Judgements]) -> Judgements:
    """The judgements of several processes as one, in the order in which their documents are stacked."""
    counts = [len(part.document_keys) for part in parts]
    offsets = [sum(counts[:number]) for number in range(len(parts))]
    shifted = [
        torch.where(part.rows < 0, -1, part.rows + offset)
        for part, offset in zip(parts, offsets, strict=True)
    ]
    return Judgements(
        document_keys=torch.cat([part.document_keys for part in parts]),
        rows=_stacked(shifted, -1),
        n_positives=torch.cat([part.n_positives for part in parts]),
        positive_keys=_stacked([part.positive_keys for part in parts], None),
        has_thought=torch.cat([part.has_thought for part in parts]),
        teacher=_stacked([part.teacher for part in parts], float("nan")),
    )


def negatives(judgements: Judgements) -> Bool[Tensor, "queries documents"]:
    """Which documents are no known positive of a query."""
    shape = (len(judgements.positive_keys), len(judgements.document_keys))
    negative = torch.ones(shape, dtype=torch.bool, device=judgements.rows.device)
    for keys in judgements.positive_keys.unbind(dim=1):
        negative &= judgements.document_keys != keys[:, None]
    return negative


def each_once(vectors: StepVectors, judgements: Judgements) -> tuple[StepVectors, Judgements]:
    """Keep a document where it first stands; every row that points at it points there."""
    keys = judgements.document_keys
    _, which = torch.unique(keys, return_inverse=True)
    place = torch.arange(len(keys), device=keys.device)
    first = torch.full_like(keys, len(keys)).scatter_reduce(0, which, place, "amin")[which]
    kept = (first == place).nonzero()[:, 0]
    moved = torch.searchsorted(kept, first)
    rows = torch.where(judgements.rows < 0, -1, moved[judgements.rows])
    return (
        replace(vectors, documents=vectors.documents[kept]),
        replace(judgements, document_keys=keys[kept], rows=rows),
    )


def prefix(vectors: StepVectors, dim: int) -> StepVectors:
    """The first `dim` numbers of every vector, of unit length again, in float32 or better."""

    def cut(whole: Tensor) -> Tensor:
        if dim < whole.shape[1]:
            return normalise(whole[:, :dim])
        return whole.to(torch.promote_types(whole.dtype, torch.float32))

    present = {name: value for name, value in vars(vectors).items() if value is not None}
    return StepVectors(**{name: cut(value) for name, value in present.items()})


def _stacked(parts: Sequence[Tensor], fill: float | None) -> Tensor:
    """Rows of tensors of several widths in one; `fill` None repeats the first column."""
    width = max(part.shape[1] for part in parts)
    return torch.cat(
        [
            F.pad(part, (0, width - part.shape[1]), value=fill)
            if fill is not None
            else torch.cat([part, part[:, :1].expand(-1, width - part.shape[1])], dim=1)
            for part in parts
        ]
    )
