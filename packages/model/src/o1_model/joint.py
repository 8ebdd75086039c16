"""What a training step reads, and the encoder that turns it into vectors, part by part.

One causal pass over the query side gives v_q, the thought's loss and v_t (O1 Embedder, section 3.3). How
the parts become one loss and one gradient is `gradcache.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from o1_model.backbone import Backbone
from o1_model.batch import Batch
from o1_model.data import JointBatch
from o1_model.encode import right_padded_states
from o1_model.head import head_loss
from o1_model.layout import Layout
from o1_model.onednn import computed_again, fast_linear
from o1_model.pooling import READ_OUTS, normalise
from o1_model.step import StepVectors

Vectors = tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]]


class JointModel(nn.Module):
    """The backbone under its layout: what is trained, wrapped, sharded and checkpointed.

    With `use_head` every pass uses the head, so that it has a gradient, if only of zeros: where a wrapper
    reduces gradients in each backward pass, processes must bring those of the same weights.
    """

    def __init__(self, backbone: Backbone, layout: Layout) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        self.use_head = False

    def forward(self, part: Batch, denominator: Tensor | int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors at both read-outs of each row, and the part's share of the thinking loss.

        The share is the sum over labels, divided by `denominator`; 0 when that is None, and then no logits
        are computed. Vectors and share are float32 or better.
        """
        with fast_linear():
            return self._read(part, denominator)

    def _read(self, part: Batch, denominator: Tensor | int | None) -> tuple[Tensor, Tensor, Tensor]:
        states = right_padded_states(self.backbone, self.layout, part)
        read_out = READ_OUTS[self.layout.readout]
        first, last = (normalise(read_out(states, part.mask, place)) for place in (part.first, part.last))
        if denominator is not None and len(part.label_ids):
            labelled = states[part.label_row, part.label_column]
            return first, last, head_loss(self.backbone, labelled, part.label_ids, denominator)
        if self.use_head:
            return first, last, 0.0 * self.backbone.logits(states[:1, 0]).sum().to(first.dtype)
        return first, last, first.new_zeros(())

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        """Let the layers keep no activations: the Trainer calls this for `--activation_checkpointing`."""
        self.backbone.lm.activation_checkpointing_enable(
            activation_checkpointing_kwargs=_going_the_same_way(activation_checkpointing_kwargs), **settings
        )

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        """The same under the name of transformers before 5.20."""
        lm: Any = self.backbone.lm
        lm.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs=_going_the_same_way(gradient_checkpointing_kwargs), **settings
        )


def _going_the_same_way(settings: dict[str, Any] | None) -> dict[str, Any]:
    """A checkpoint's settings, with which layers computed again take the kernels they took."""
    settings = {"use_reentrant": False, **(settings or {})}
    return settings if settings["use_reentrant"] else {**settings, "context_fn": computed_again}


def parts_of(batch: JointBatch) -> list[Batch]:
    """Every part of a batch in the order of encoding: queries, documents, reasoning queries."""
    return [*batch.queries, *batch.documents, *batch.reasoning]


def step_vectors(batch: JointBatch, encoded: Sequence[Vectors]) -> StepVectors:
    """What the parts of `parts_of` became, in the order of the examples and their documents."""
    middle = len(batch.queries) + len(batch.documents)
    queries, documents = encoded[: len(batch.queries)], encoded[len(batch.queries) : middle]
    vectors = StepVectors(
        v_q=_restore([first for first, _ in queries], batch.query_order),
        v_t=_restore([last for _, last in queries], batch.query_order),
        documents=_restore([last for _, last in documents], batch.document_order),
    )
    if batch.reasoning_order is None:
        return vectors
    return replace(vectors, reasoning=_restore([last for _, last in encoded[middle:]], batch.reasoning_order))


def _restore(
    parts: Sequence[Float[Tensor, "_ dim"]], order: Int[Tensor, "rows"]
) -> Float[Tensor, "rows dim"]:
    stacked = torch.cat(list(parts))
    return stacked[order.argsort().to(stacked.device)]
