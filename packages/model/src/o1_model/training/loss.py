"""The terms of the joint objective. Pure functions; every one but `think_loss` gives a value a query.

Scores are products of unit vectors, [queries, documents]; `columns` [queries, group] are a query's own
documents in them, -1 after the last.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from o1_records.kit.onednn import fast_linear


def embed_loss(
    scores: Float[Tensor, "q d"],
    positives: Int[Tensor, "q p"],
    negative: Bool[Tensor, "q d"],
    *,
    temperature: float = 0.02,
    margin: float | None = None,
) -> Float[Tensor, "q"]:
    """Return InfoNCE of each query (O1 Embedder, equation 4), the mean over its positives.

    `positives` are columns, -1 after the last. Each is compared with the `negative` documents of its
    query and with no other positive. `margin` takes a document out where it scores above the positive by
    more than that: it may well be relevant (Qwen3-Embedding, arXiv 2506.05176, section 3.1).
    """
    total = scores.new_zeros(len(scores))
    for column in positives.unbind(dim=1):
        own = scores.gather(1, column.clamp(min=0)[:, None])
        kept = negative if margin is None else negative & (scores.detach() <= own.detach() + margin)
        others = scores.masked_fill(~kept, float("-inf"))
        loss = torch.logsumexp(torch.cat([own, others], dim=1) / temperature, dim=1) - own[:, 0] / temperature
        total = total + loss.masked_fill(column < 0, 0.0)
    return total / (positives >= 0).sum(dim=1)


def distil_loss(
    scores: Float[Tensor, "q d"], target: Float[Tensor, "q d"], *, temperature: float = 0.02
) -> Float[Tensor, "q"]:
    """Return the KL divergence of the `target` scores' distribution over documents from that of `scores`.

    `target` gets no gradient, so that the reading without a thought learns from the one with it (LaSER), and
    a latent step from the thought as far as that step.
    """
    wanted = F.log_softmax(target.detach() / temperature, dim=1)
    given = F.log_softmax(scores / temperature, dim=1)
    return F.kl_div(given, wanted, log_target=True, reduction="none").sum(dim=1)


def teacher_kl(
    scores: Float[Tensor, "q d"],
    columns: Int[Tensor, "q group"],
    teacher: Float[Tensor, "q group"],
    *,
    temperature: float = 0.02,
) -> Float[Tensor, "q"]:
    """Return the KL divergence of softmax(`teacher`) from a query's distribution over its own documents."""
    absent = columns < 0
    wanted = F.log_softmax(teacher.masked_fill(absent, float("-inf")), dim=1)
    own = scores.gather(1, columns.clamp(min=0)).masked_fill(absent, float("-inf"))
    given = F.log_softmax(own / temperature, dim=1)
    # an absent document is -inf on both sides and counts nothing
    parts = wanted.exp() * (wanted.masked_fill(absent, 0.0) - given.masked_fill(absent, 0.0))
    return parts.sum(dim=1)


def margin_mse(
    scores: Float[Tensor, "q d"],
    columns: Int[Tensor, "q group"],
    teacher: Float[Tensor, "q group"],
    n_positives: Int[Tensor, "q"],
    *,
    temperature: float = 0.02,
) -> Float[Tensor, "q"]:
    """Return the squared error of the margins between a query's positives and negatives (arXiv 2010.02666).

    Our margin is that of the scores over the temperature: the scale of a cross-encoder's logits. A query
    without a negative of its own gives 0.
    """
    place = torch.arange(columns.shape[1], device=columns.device)
    positive = place < n_positives[:, None]
    negative = ~positive & (columns >= 0)
    own = scores.gather(1, columns.clamp(min=0)) / temperature
    error = (own[:, :, None] - own[:, None, :]) - (teacher[:, :, None] - teacher[:, None, :])
    pairs = positive[:, :, None] & negative[:, None, :]
    squares = error.masked_fill(~pairs, 0.0).square().sum(dim=(1, 2))
    return squares / pairs.sum(dim=(1, 2)).clamp(min=1)


def reasoning_intensity(
    loss: Float[Tensor, "q"], reasoned: Float[Tensor, "q"]
) -> tuple[Float[Tensor, "q"], Float[Tensor, "q"]]:
    """Return Redapter's intensity of each query and its weight in the batch (ReasonEmbed, arXiv 2510.08252).

    The intensity is the loss over that of the query with its reasoning, clamped to 0..5; the weights are
    intensities over their sum (over the global batch). No gradient. Losses that are all 0 weigh nothing.
    """
    intensity = (loss.detach() / (reasoned.detach() + 1e-6)).clamp(0, 5)
    total = intensity.sum()
    return intensity, intensity / total.where(total > 0, torch.ones_like(total))


def think_loss(
    logits: Callable[[Float[Tensor, "n dim"]], Float[Tensor, "n vocab"]],
    states: Float[Tensor, "labels dim"],
    label_ids: Int[Tensor, "labels"],
    *,
    total: Tensor | int | None = None,
    chunk: int = 256,
) -> Float[Tensor, ""]:
    """Return next-token cross-entropy of thought tokens and EOS, summed and divided by `total`; 0 for none.

    `states` predict `label_ids`. `total` is the number of labels of the global batch, so that parts of a
    batch add up to its mean; None: these are all. Logits live for `chunk` labels at a time and are
    computed again in the backward pass: a large vocabulary costs time rather than memory (equation 3).
    """
    if len(label_ids) == 0:
        return states.sum() * 0.0

    def part(states: Tensor, labels: Tensor) -> Tensor:
        with fast_linear():
            return F.cross_entropy(_float(logits(states)), labels, reduction="sum")

    parts = zip(torch.split(states, chunk), torch.split(label_ids, chunk), strict=True)
    if len(label_ids) <= chunk:
        summed = part(states, label_ids)
    else:
        losses = [checkpoint(part, s, ids, use_reentrant=False) for s, ids in parts]
        summed = torch.stack(losses).sum()
    return summed / (len(label_ids) if total is None else total)


def _float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
