"""One causal pass over the query side gives v_q, the thought's loss and v_t.

`L = w * (InfoNCE(v_q) + InfoNCE(v_t)) / 2 + (1 - w) * L_think` (O1 Embedder, section 3.3, with both
read-outs of its figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from o1_model.backbone import Backbone
from o1_model.batch import Batch
from o1_model.layout import Layout
from o1_model.loss import embed_loss, think_loss
from o1_model.objective import Objective
from o1_model.pooling import READ_OUTS, normalise


@dataclass(frozen=True)
class JointBatch:
    """One training step's input.

    `queries` is sorted into groups of similar length, `query_order` says which example each row is;
    the same holds for `documents`. `target` is the document of each example, `ignore` [examples,
    documents] marks further positives. `has_thought` [examples].
    """

    queries: Sequence[Batch]
    query_order: Tensor
    documents: Sequence[Batch]
    document_order: Tensor
    target: Tensor
    ignore: Tensor
    has_thought: Tensor


class JointModel(nn.Module):
    """The backbone with its objective; `forward` returns the loss and its terms."""

    def __init__(self, backbone: Backbone, layout: Layout, objective: Objective) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        self.objective = objective

    def forward(self, batch: JointBatch) -> dict[str, Tensor]:
        """Loss terms of one batch: `loss`, `embed_q`, `embed_t`, `think`."""
        device = self.backbone.device
        sides = [self.query_side(part.to(device)) for part in batch.queries]
        v_q, v_t = (_restore(parts, batch.query_order) for parts in zip(*[s[:2] for s in sides], strict=True))
        documents = _restore(
            [self.document_side(part.to(device)) for part in batch.documents], batch.document_order
        )
        target, ignore, rows = (t.to(device) for t in (batch.target, batch.ignore, batch.has_thought))
        temperature = self.objective.temperature
        embed_q = embed_loss(v_q, documents, target, temperature=temperature, ignore=ignore)
        embed_t = embed_loss(v_t[rows], documents, target[rows], temperature=temperature, ignore=ignore[rows])
        labels = torch.cat([part.label_ids for part in batch.queries]).to(device)
        think = think_loss(self.backbone.logits, torch.cat([side[2] for side in sides]), labels)
        embed = (embed_q + embed_t) / 2 if bool(batch.has_thought.any()) else embed_q
        weight = self.objective.embed_weight
        loss = weight * embed + (1 - weight) * think
        return {"loss": loss, "embed_q": embed_q, "embed_t": embed_t, "think": think}

    def query_side(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Float[Tensor, "labels dim"]]:
        """v_q, v_t (equal to v_q where there is no thought) and the states that predict the labels."""
        states = self.backbone.encode(batch, self.layout)
        read_out = READ_OUTS[self.layout.readout]
        v_q = normalise(read_out(states, batch.mask, batch.first))
        v_t = normalise(read_out(states, batch.mask, batch.last))
        return v_q, v_t, states[batch.label_row, batch.label_column]

    def document_side(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Unit vectors of documents."""
        states = self.backbone.encode(batch, self.layout)
        return normalise(READ_OUTS[self.layout.readout](states, batch.mask, batch.last))


def _restore(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    stacked = torch.cat(list(parts))
    return stacked[order.argsort().to(stacked.device)]
