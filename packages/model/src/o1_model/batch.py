"""From rows of token ids to padded tensors, with the positions of vectors and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from o1_model.layout import Row

REAL = 0.9  # share of a training step's tokens that must not be padding


@dataclass(frozen=True)
class Batch:
    """Rows padded to the longest.

    `first` and `last` count attended tokens from 0: the positions of the first and last `<emb>`.
    `label_row`, `label_column` say where the states stand that predict `label_ids`.
    """

    input_ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"]
    first: Int[Tensor, "batch"]
    last: Int[Tensor, "batch"]
    label_row: Int[Tensor, "labels"]
    label_column: Int[Tensor, "labels"]
    label_ids: Int[Tensor, "labels"]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def collate(rows: Sequence[Row], pad_id: int, *, left: bool = False) -> Batch:
    """Pad rows on the right (or the left). The mask comes from lengths, so that pad may equal EOS."""
    width = max(len(row.ids) for row in rows)
    shape = (len(rows), width)
    input_ids = torch.full(shape, pad_id)
    mask = torch.zeros(shape, dtype=torch.long)
    label_row: list[int] = []
    label_column: list[int] = []
    label_ids: list[int] = []
    for number, row in enumerate(rows):
        start = width - len(row.ids) if left else 0
        input_ids[number, start : start + len(row.ids)] = torch.tensor(row.ids)
        mask[number, start : start + len(row.ids)] = 1
        label_row += [number] * len(row.labels)
        label_column += [start + position - 1 for position in row.labels]
        label_ids += [row.ids[position] for position in row.labels]
    return Batch(
        input_ids=input_ids,
        mask=mask,
        positions=(mask.cumsum(dim=1) - 1).clamp(min=0),
        first=torch.tensor([row.first for row in rows]),
        last=torch.tensor([row.last for row in rows]),
        label_row=torch.tensor(label_row, dtype=torch.long),
        label_column=torch.tensor(label_column, dtype=torch.long),
        label_ids=torch.tensor(label_ids, dtype=torch.long),
    )


def grouped(rows: Sequence[Row], pad_id: int, *, tokens: int) -> tuple[list[Batch], Int[Tensor, "rows"]]:
    """Return batches of similar length, at most a tenth padding, and the index of each of their rows."""
    groups = list(by_length([len(row.ids) for row in rows], tokens, real=REAL))
    parts = [collate([rows[index] for index in group], pad_id) for group in groups]
    return parts, torch.tensor([index for group in groups for index in group])


def prefix_mask(batch: Batch) -> Bool[Tensor, "batch 1 seq seq"]:
    """Return which token attends to which: in both directions up to the first `<emb>`, causally after it.

    True: the row's token attends to the column's. Only padding attends to padding, each token to itself.
    """
    order = batch.positions
    causal = order[:, None, :] <= order[:, :, None]
    prefix = order <= batch.first[:, None]
    seen = (causal | (prefix[:, None, :] & prefix[:, :, None])) & batch.mask[:, None, :].bool()
    itself = torch.eye(order.shape[1], dtype=torch.bool, device=order.device)
    return (seen | itself)[:, None]


def by_length(
    lengths: Sequence[int], tokens: int, *, real: float = 0.0, rows: int | None = None
) -> Iterator[list[int]]:
    """Split indices into groups of similar length, longest first, of at most `tokens` padded tokens.

    A row longer than `tokens` is a group of its own. At least the share `real` of the tokens of each group
    is not padding, at the price of more groups; `rows` is the most indices of a group.
    """
    group: list[int] = []
    own = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        padded = (len(group) + 1) * lengths[group[0]] if group else 0
        full = padded > tokens or own + lengths[index] < real * padded or len(group) == rows
        if group and full:
            yield group
            group, own = [], 0
        group.append(index)
        own += lengths[index]
    if group:
        yield group


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad with. Masks come from lengths, so any id will do if the tokenizer has none."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
