"""The thinking loss through a model's head, in the way that costs least.

Three ways give the same numbers: liger's kernel on a GPU where it is installed; a frozen head (LoRA), whose
only gradient is that of the states, ready after the forward pass; and `think_loss`, which computes logits
again in the backward pass and so serves any head.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from o1_model.backbone import Backbone
from o1_model.loss import think_loss

_LOGITS = 2**24  # that live at a time: 64 MB in float32, 110 labels of a vocabulary of 151,936
_MOST_LABELS = 256


def head_loss(
    backbone: Backbone,
    states: Float[Tensor, "labels dim"],
    label_ids: Int[Tensor, "labels"],
    total: Tensor | int,
) -> Float[Tensor, ""]:
    """Cross-entropy of the labels that `states` predict, summed and divided by `total`."""
    head = backbone.head
    if states.is_cuda and isinstance(head, nn.Linear) and find_spec("liger_kernel") is not None:
        return _liger(head, backbone.softcap, states, label_ids) / total
    chunk = max(1, min(_MOST_LABELS, _LOGITS // int(backbone.config.vocab_size)))
    if any(parameter.requires_grad for parameter in head.parameters()):
        return think_loss(backbone.logits, states, label_ids, total=total, chunk=chunk)
    summed: Tensor = _FrozenHead.apply(states, label_ids, backbone.logits, chunk)  # type: ignore[no-untyped-call]
    return summed / total


class _FrozenHead(torch.autograd.Function):
    """Sum of cross-entropies whose gradient is made chunk by chunk in the forward pass, logits once."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, label_ids: Tensor, logits: Callable[[Tensor], Tensor], chunk: int
    ) -> Tensor:
        gradients: list[Tensor] = []
        losses = []
        for part, ids in zip(torch.split(states, chunk), torch.split(label_ids, chunk), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                scores = logits(leaf)
                loss = F.cross_entropy(
                    scores.to(torch.promote_types(scores.dtype, torch.float32)), ids, reduction="sum"
                )
                gradients += torch.autograd.grad(loss, leaf)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None


def _liger(head: nn.Linear, softcap: float | None, states: Tensor, label_ids: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum", softcap=softcap)
    summed: Tensor = loss(head.weight, states, label_ids, head.bias)
    return summed
