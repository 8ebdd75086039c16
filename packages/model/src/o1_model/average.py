"""`average`: one checkpoint out of several of the same kind, by the mean of their weights.

Model soups (Wortsman et al., arXiv 2203.05482) and LM-Cocktail (Xiao et al., arXiv 2311.13534): fine-tuned
models that began as the same one can be averaged, with each other and with where they began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from o1_model.backbone import embedding_matrix
from o1_model.embedder import Embedder
from o1_model.thinking.records import vocabulary_digest
from o1_records import InputError


@torch.no_grad()
def average(checkpoints: Sequence[str | Path], *, weights: Sequence[float] = ()) -> Embedder:
    """Return the model whose weights are the weighted mean of those of all checkpoints, in float32.

    Two models are in memory at a time. The layout's lengths, prompts
    and instruction are those of the first checkpoint.

    Args:
        checkpoints: folders or hub ids of this package's checkpoints; adapters are added to their base.
        weights: one for each, 0 or more; they are divided by their sum. Equal by default.

    Raises:
        InputError: fewer than two checkpoints, weights that are not one for each, or models that differ in
            more than their weights.
    """
    if len(checkpoints) < 2:
        raise InputError(f"{len(checkpoints)} checkpoint: give at least two")
    shares = [float(weight) for weight in weights] or [1.0] * len(checkpoints)
    if len(shares) != len(checkpoints):
        raise InputError(f"{len(shares)} weights for {len(checkpoints)} checkpoints; give one for each")
    total = math.fsum(shares)
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not total > 0:
        raise InputError(f"weights must be 0 or more, and not all 0; got {', '.join(map(str, shares))}")
    mean = _plain(checkpoints[0])
    kind, values = _kind(mean), _values(mean)
    for value in values.values():
        value.mul_(shares[0] / total)
    for name, share in zip(checkpoints[1:], shares[1:], strict=True):
        other = _plain(name)
        for what, own in kind.items():
            if _kind(other)[what] != own:
                raise InputError(
                    f"{name}: its {what} is not that of {checkpoints[0]}; they cannot be averaged"
                )
        for place, value in _values(other).items():
            values[place].add_(value, alpha=share / total)
    mean.backbone.control_rows.copy_(embedding_matrix(mean.backbone.lm)[mean.backbone.control_ids])
    return mean


def _plain(name: str | Path) -> Embedder:
    """Return a checkpoint with everything that was trained in its plain weights."""
    embedder = Embedder.from_pretrained(name, device="cpu")
    embedder.backbone.merge_control_rows()
    return embedder


def _values(embedder: Embedder) -> dict[str, torch.Tensor]:
    """Return every weight once, those that are tied too."""
    return dict(embedder.backbone.lm.named_parameters())


def _kind(embedder: Embedder) -> dict[str, Any]:
    """Return what has to be equal in models that are averaged."""
    layout = msgspec.structs.asdict(embedder.layout)
    rows = (
        "name", "bos", "eos", "emb", "query", "query_end", "thought", "doc", "readout", "attention",
        "latent_steps",
    )  # fmt: skip
    return {
        "layout": {part: layout[part] for part in rows},
        "vocabulary": vocabulary_digest(embedder.tokenizer),
        "shape": {name: tuple(value.shape) for name, value in _values(embedder).items()},
    }
