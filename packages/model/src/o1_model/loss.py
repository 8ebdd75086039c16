"""The terms of the joint objective. Pure functions of vectors, states and ids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def embed_loss(
    queries: Float[Tensor, "q dim"],
    documents: Float[Tensor, "d dim"],
    target: Int[Tensor, "q"],
    *,
    temperature: float = 0.02,
    ignore: Bool[Tensor, "q d"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE over unit vectors: every document but the target is a negative of a query.

    `target` is the row of each query's positive; `ignore` marks documents that are no negatives of a
    query (its other positives). Mean over queries; 0 for no queries (O1 Embedder, equation 4).
    """
    if len(queries) == 0:
        return documents.sum() * 0.0
    scores = queries @ documents.T / temperature
    if ignore is not None:
        scores = scores.masked_fill(ignore, float("-inf"))
    return F.cross_entropy(scores.float(), target)


def think_loss(
    logits: Callable[[Float[Tensor, "n dim"]], Float[Tensor, "n vocab"]],
    states: Float[Tensor, "labels dim"],
    label_ids: Int[Tensor, "labels"],
    *,
    chunk: int = 1024,
) -> Float[Tensor, ""]:
    """Next-token cross-entropy of thought tokens and EOS, mean over labels; 0 for none.

    `states` predict `label_ids`. Logits live for `chunk` labels at a time and are computed again in
    the backward pass, so that a large vocabulary costs time rather than memory (equation 3).
    """
    if len(label_ids) == 0:
        return states.sum() * 0.0

    def part(states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits(states).float(), labels, reduction="sum")

    parts = zip(torch.split(states, chunk), torch.split(label_ids, chunk), strict=True)
    if len(label_ids) <= chunk:
        total = part(states, label_ids)
    else:
        losses = [checkpoint(part, s, ids, use_reentrant=False) for s, ids in parts]
        total = torch.stack(losses).sum()
    return total / len(label_ids)


def other_positives(
    positives: list[frozenset[str]], doc_ids: list[str], target: list[int]
) -> Bool[Tensor, "q d"]:
    """Mark documents of the batch that are positives of a query but not its target."""
    ignore = torch.zeros(len(positives), len(doc_ids), dtype=torch.bool)
    for row, (known, own) in enumerate(zip(positives, target, strict=True)):
        for column, doc_id in enumerate(doc_ids):
            ignore[row, column] = doc_id in known and column != own
    return ignore
