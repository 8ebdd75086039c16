"""The weights of a checkpoint: written so that they load as an Embedder, read back for a resume.

A checkpoint is the plain model with its control rows merged, or an adapter (`lora.py`). While training, the
rows of control tokens in the matrix are others: a tied head computes logits with them. A training's
checkpoints keep those beside the model, so that a resumed training goes on exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from o1_model.backbone import Backbone, embedding_matrix, load_lm
from o1_model.embedder import Embedder
from o1_model.lora import Base, has_lora, is_adapter, load_adapter_weights, save_adapter, save_control_rows
from o1_records import InputError

HEAD_ROWS = "o1_head_rows.safetensors"
_LM, _ROWS = "backbone.lm.", "backbone.control_rows"


def save_weights(
    embedder: Embedder,
    folder: str | Path,
    *,
    base: Base | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint of a training; `base` when there is an adapter.

    `state` is the gathered state of a JointModel whose weights are spread over processes (FSDP).
    """
    folder = Path(folder)
    backbone = embedder.backbone
    if has_lora(backbone):
        if base is None:
            raise InputError("an adapter is saved with the name of its base; give base")
        save_adapter(backbone, folder, base, state=None if state is None else _lm_state(state))
        rows = backbone.control_rows if state is None else state[_ROWS]
        save_control_rows(rows, folder)
    elif state is None:
        embedder.save_pretrained(folder, certificate=not _of_a_step(folder))
        if _of_a_step(folder):
            _save_head_rows(embedding_matrix(backbone.lm)[backbone.control_ids], folder)
        return
    else:
        _save_gathered(backbone, _lm_state(state), state[_ROWS], folder)
    embedder.tokenizer.save_pretrained(folder)
    embedder.layout.save(folder)


@torch.no_grad()
def load_weights(backbone: Backbone, folder: str | Path) -> None:
    """Read a training's checkpoint back into the same kind of backbone.

    Raises InputError where one has an adapter and the other has none.
    """
    folder = Path(folder)
    if is_adapter(folder) != has_lora(backbone):
        kinds = ("an adapter", "a whole model")
        raise InputError(
            f"{folder}: holds {kinds[not is_adapter(folder)]}, this run trains {kinds[is_adapter(folder)]}"
        )
    if has_lora(backbone):
        load_adapter_weights(backbone, folder)
        return
    backbone.lm.load_state_dict(load_lm(folder).state_dict())
    matrix = embedding_matrix(backbone.lm).detach()
    backbone.control_rows.copy_(matrix[backbone.control_ids])
    if (folder / HEAD_ROWS).exists():
        matrix[backbone.control_ids] = load_file(folder / HEAD_ROWS)["head_rows"].to(matrix)


def _save_gathered(backbone: Backbone, state: dict[str, Tensor], rows: Tensor, folder: Path) -> None:
    names = [
        name
        for name, value in backbone.lm.named_parameters(remove_duplicate=False)
        if value is backbone.lm.get_input_embeddings().weight
    ]
    ids = backbone.control_ids.cpu()
    merged = state[names[0]].clone()
    head_rows = merged[ids].clone()
    merged[ids] = rows.to(merged)
    # a tied head is the same tensor
    backbone.lm.save_pretrained(folder, state_dict={**state, **dict.fromkeys(names, merged)})
    if _of_a_step(folder):
        _save_head_rows(head_rows, folder)


def _save_head_rows(rows: Tensor, folder: Path) -> None:
    save_file({"head_rows": rows.detach().cpu().contiguous()}, folder / HEAD_ROWS)


def _lm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_LM): value for name, value in state.items() if name.startswith(_LM)}


def _of_a_step(folder: Path) -> bool:
    """Whether the training goes on from this folder: the Trainer's name for a checkpoint on the way."""
    return folder.name.startswith(PREFIX_CHECKPOINT_DIR)
