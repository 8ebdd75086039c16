"""From rows of token ids to their vectors, as fast as the device allows.

Equal rows are encoded once. Batches hold rows of similar length up to a budget of tokens; where memory
runs out the budget is halved. A row that is read at its end needs no dense attention mask: causal
attention never sees the padding on the right, and under prefix attention all queries share one mask of keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from o1_model.aggregate import Vectors
from o1_model.backbone import Backbone
from o1_model.batch import Batch, collate
from o1_model.layout import Layout, Row
from o1_model.memory import within_memory
from o1_model.onednn import fast_linear
from o1_model.pooling import pool_spans

CPU_BATCH_TOKENS = 2048  # larger activations fall out of the caches
GPU_BATCH_TOKENS = 65_536


@torch.inference_mode()
def encode_rows(
    backbone: Backbone,
    layout: Layout,
    rows: Sequence[Row],
    *,
    pad_id: int,
    batch_tokens: int | None = None,
) -> Vectors:
    """The unit vector at the last read-out of each row: float32 [rows, dim], in the order of the rows.

    `batch_tokens` is the most padded tokens of a forward pass (by default what suits the device).
    """
    unique = list({row.ids: row for row in rows}.values())
    place = {row.ids: number for number, row in enumerate(unique)}
    device = backbone.device
    # they stay on the device, so that no batch waits for the copy of another
    vectors = torch.zeros(len(unique), backbone.config.hidden_size, device=device)

    def run(group: list[int]) -> None:
        batch = collate([unique[index] for index in group], pad_id).to(device)
        vectors[group] = _read(right_padded_states(backbone, layout, batch), batch, layout).float()

    default = CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
    with fast_linear():
        within_memory([len(row.ids) for row in unique], batch_tokens or default, run)
    order = np.array([place[row.ids] for row in rows], dtype=np.intp)
    found: Vectors = vectors.cpu().numpy()[order]
    return found


def right_padded_states(backbone: Backbone, layout: Layout, batch: Batch) -> Float[Tensor, "batch seq dim"]:
    """States of whole rows, padded on the right; those of the padding mean nothing.

    Causal attention needs no mask then: no token sees the padding, and the fastest kernels serve.
    """
    if layout.attention == "causal":
        positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        return backbone.hidden(batch.input_ids, None, positions.expand_as(batch.input_ids))
    if bool((batch.first == batch.last).all()):
        return backbone.hidden(batch.input_ids, batch.mask[:, None, None].bool(), batch.positions)
    return backbone.encode(batch, layout)


def _read(states: Float[Tensor, "batch seq dim"], batch: Batch, layout: Layout) -> Float[Tensor, "batch dim"]:
    # a batch padded on the right is ragged with rows of `seq` tokens, of which spans are read
    rows, seq = batch.mask.shape
    offsets = torch.arange(rows + 1, device=states.device) * seq
    end = offsets[:-1] + batch.last + 1
    begin = offsets[:-1] if layout.readout == "mean" else end - 1
    return pool_spans(states.flatten(0, 1), offsets, begin, end)
