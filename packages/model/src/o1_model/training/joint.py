"""The model of a training step: vectors and the thinking loss of each part of a batch.

One causal pass over a query's row gives v_q, the thought's loss and v_t (O1 Embedder, section 3.3). How
the parts become one loss and one gradient is in `gradcache.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from o1_model.backbone import Backbone
from o1_model.batch import Batch
from o1_model.encoding.encode import latent_states, right_padded_states, steps_aside
from o1_model.encoding.pooling import READ_OUTS, at_position, normalise
from o1_model.layout import Layout
from o1_model.training.data import JointBatch
from o1_model.training.loss import think_loss
from o1_model.training.step import StepVectors
from o1_records.kit.onednn import computed_again, fast_linear

_LOGITS = 2**24  # that live at a time: 64 MB in float32, 110 labels of a vocabulary of 151,936
_MOST_LABELS = 256

Vectors = tuple[Float[Tensor, "rows *steps dim"], Float[Tensor, "rows *steps dim"]]
"""The unit vectors of rows at their two read-outs; where steps are aligned, with those of every step."""


class JointModel(nn.Module):
    """The backbone under its layout: what is trained, wrapped, sharded and checkpointed.

    With `use_head` every pass uses the head, so that it has a gradient, if only of zeros: if a wrapper
    reduces gradients in each backward pass, all processes must have those of the same weights. With
    `aligns` the vectors of a row are [1 + latent steps, dim]: after each read-out those of the steps.
    """

    def __init__(self, backbone: Backbone, layout: Layout, *, aligns: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        self.aligns = aligns
        self.use_head = False

    def forward(self, part: Batch, denominator: Tensor | int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit vectors at both read-outs of each row, and the part's share of the thinking loss.

        The share is the sum over labels, divided by `denominator`; 0 if that is None, and then no logits
        are computed. Vectors and share are float32 or better.
        """
        with fast_linear():
            cache = DynamicCache() if self.layout.latent_steps else None
            states = right_padded_states(self.backbone, self.layout, part, cache)
            read_out = READ_OUTS[self.layout.readout]
            first, last = (normalise(read_out(states, part.mask, place)) for place in (part.first, part.last))
            if cache is not None:
                first, last = self._with_latent_steps(part, states, cache, last)
            if denominator is not None and len(part.label_ids):
                labelled = states[part.label_row, part.label_column]
                return first, last, head_loss(self.backbone, labelled, part.label_ids, denominator)
            if self.use_head:
                return first, last, 0.0 * self.backbone.logits(states[:1, 0]).sum().to(first.dtype)
            return first, last, first.new_zeros(())

    def _with_latent_steps(self, part: Batch, states: Tensor, cache: Any, last: Tensor) -> Vectors:
        steps = latent_states(self.backbone, self.layout, part, states, cache)
        first = normalise(steps.mean(dim=1))
        last = torch.where(steps_aside(part)[:, None], first, last)
        if not self.aligns:
            return first, last
        count = self.layout.latent_steps
        places = (places_in_thoughts(part, step, count) for step in range(1, count + 1))
        thought_steps = torch.stack([at_position(states, part.mask, place) for place in places], dim=1)
        return (
            torch.cat([first[:, None], normalise(steps)], dim=1),
            torch.cat([last[:, None], normalise(thought_steps)], dim=1),
        )

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        """Let the layers keep no activations; the Trainer calls this for `--activation_checkpointing`."""
        self.backbone.lm.activation_checkpointing_enable(
            activation_checkpointing_kwargs=_going_the_same_way(activation_checkpointing_kwargs), **settings
        )

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        """Do the same under the name of transformers before 5.20."""
        lm: Any = self.backbone.lm
        lm.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs=_going_the_same_way(gradient_checkpointing_kwargs), **settings
        )


def _going_the_same_way(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Return checkpointing settings under which recomputed layers use the same kernels as before."""
    settings = {"use_reentrant": False, **(settings or {})}
    return settings if settings["use_reentrant"] else {**settings, "context_fn": computed_again}


def places_in_thoughts(part: Batch, step: int, steps: int) -> Int[Tensor, "batch"]:
    """Return where each row's thought is as far as the latent step: floor(step / steps) of its tokens.

    (LaSER, equation 11, with tokens for segments.) `step` counts from 1; before its first token stands
    `<thought>`, behind its last `<eos>` and `<emb>`. Of a row without a thought the place means nothing.
    """
    tokens = (part.last - part.first - 3).clamp(min=0)
    return part.first + (step * tokens // steps + 1) * ~steps_aside(part)


def parts_of(batch: JointBatch) -> list[Batch]:
    """Return every part of a batch in the order of encoding; reasoning queries, the last, are not trained."""
    return [*batch.queries, *batch.documents, *batch.thoughts, *batch.reasoning]


def step_vectors(batch: JointBatch, encoded: Sequence[Vectors]) -> StepVectors:
    """Return the vectors of the parts of `parts_of`, in the order of the examples and their documents."""
    parts = iter(encoded)
    queries, documents, thoughts, reasoning = (
        list(islice(parts, len(own)))
        for own in (batch.queries, batch.documents, batch.thoughts, batch.reasoning)
    )
    firsts = _restore([first for first, _ in queries], batch.query_order)
    lasts = _restore([last for _, last in queries], batch.query_order)
    vectors = StepVectors(
        v_q=_read_out(firsts),
        v_t=_read_out(lasts),
        documents=_restore([_read_out(last) for _, last in documents], batch.document_order),
    )
    if firsts.dim() == 3:
        vectors = replace(vectors, steps=firsts[:, 1:], thought_steps=lasts[:, 1:])
    if batch.thought_order is not None:
        own = vectors.v_q
        if thoughts:
            place = batch.thought_order.to(own.device)
            own = own.index_copy(0, place, torch.cat([_read_out(last) for _, last in thoughts]))
        vectors = replace(vectors, thoughts=own)
    if batch.reasoning_order is None:
        return vectors
    asked = [_read_out(last) for _, last in reasoning]
    return replace(vectors, reasoning=_restore(asked, batch.reasoning_order))


def _read_out(vectors: Float[Tensor, "rows *steps dim"]) -> Float[Tensor, "rows dim"]:
    return vectors[:, 0] if vectors.dim() == 3 else vectors


def _restore(
    parts: Sequence[Float[Tensor, "_ *steps dim"]], order: Int[Tensor, "rows"]
) -> Float[Tensor, "rows *steps dim"]:
    stacked = torch.cat(list(parts))
    return stacked[order.argsort().to(stacked.device)]


# --- the thinking loss through the head ---------------------------------------------------------------


def head_loss(
    backbone: Backbone,
    states: Float[Tensor, "labels dim"],
    label_ids: Int[Tensor, "labels"],
    total: Tensor | int,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the labels that `states` predict, summed and divided by `total`.

    The cheapest of three ways that give the same numbers: liger's kernel on a GPU if it is installed; for a
    frozen head (LoRA), whose only gradient is that of the states, one that is ready after the forward pass;
    for any other head `think_loss`, which computes logits again in the backward pass.
    """
    head = backbone.head
    if states.is_cuda and isinstance(head, nn.Linear) and find_spec("liger_kernel") is not None:
        return _liger(head, backbone.softcap, states, label_ids) / total
    chunk = max(1, min(_MOST_LABELS, _LOGITS // int(backbone.config.vocab_size)))
    if any(parameter.requires_grad for parameter in head.parameters()):
        return think_loss(backbone.logits, states, label_ids, total=total, chunk=chunk)
    summed: Tensor = _FrozenHead.apply(states, label_ids, backbone.logits, chunk)  # type: ignore[no-untyped-call]
    return summed / total


class _FrozenHead(torch.autograd.Function):
    """The sum of cross-entropies; the forward pass computes the gradient too, chunk by chunk, logits once."""

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
