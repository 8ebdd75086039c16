"""Reading rows of token ids: the one door through which tokens reach the backbone, and its token budget.

Equal rows are read once. Batches hold rows of similar length up to a budget of tokens; where memory runs out,
the budget is halved and the work goes on. A row that is read at its end needs no dense attention mask: causal
attention never sees the padding on the right, and under prefix attention all queries share one mask of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from o1_model.backbone import Backbone
from o1_model.batch import Batch, by_length, collate
from o1_model.encoding.pooling import READ_OUTS, at_position, normalise, pool_spans
from o1_model.layout import Layout, Row
from o1_records import InputError
from o1_records.kit.onednn import fast_linear

Vectors = NDArray[np.float32]
REMEDY = "the weights are damaged, or their dtype overflows (float16 does; try bfloat16 or float32)"

CPU_BATCH_TOKENS = 2048  # larger activations fall out of the caches
CPU_REAL, CPU_SPARE = 0.8, 64  # share of a batch that is no padding, unless that is fewer tokens in all
GPU_BATCH_TOKENS = 65_536


class Pace(NamedTuple):
    """How reading goes on: at most so many rows at once, and whether a bar on stderr shows how far it is."""

    rows: int | None = None
    bar: bool = False


PACE = Pace()


class BrokenVectorsError(InputError):
    """The model computed vectors that are zero or not finite: nobody may use them."""


@dataclass
class Reader:
    """A backbone under its layout, as everything that reads tokens uses it.

    `batch_tokens` bounds the padded tokens of every forward pass, whatever the layout and whether the model
    reads or thinks (a single longer row is a batch of its own); None: what suits the device. `tokens_read`
    counts the tokens of all passes so far, padding left out.
    """

    backbone: Backbone
    layout: Layout
    pad_id: int
    batch_tokens: int | None = None
    tokens_read: int = field(default=0, init=False)

    @torch.inference_mode()
    def read(self, rows: Sequence[Row], pace: Pace = PACE) -> Vectors:
        """Return the unit vector at the last read-out of each row: float32 [rows, dim], in their order.

        Of a row without a thought it is that of its latent steps, where the layout has some. Raises
        InputError for a row that is longer than the model takes.
        """
        unique = list({row.ids: row for row in rows}.values())
        self.refuse_longer(unique)
        place = {row.ids: number for number, row in enumerate(unique)}
        device = self.backbone.device
        # they stay on the device, so that no batch waits for the copy of another
        vectors = torch.zeros(len(unique), self.backbone.dim, device=device)

        def run(group: list[int]) -> None:
            batch = collate([unique[index] for index in group], self.pad_id).to(device)
            vectors[group] = _vectors(self.backbone, self.layout, batch).float()
            self.tokens_read += sum(len(unique[index].ids) for index in group)
            self.tokens_read += int(steps_aside(batch).sum()) * self.layout.latent_tokens
            bar.update(len(group))

        lengths, on_cpu = [len(row.ids) for row in unique], device.type == "cpu"
        tokens = self.batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)
        # on a CPU every token of padding takes time, and so does another batch, as much as some tokens
        padding = len(lengths) * max(lengths, default=0) - sum(lengths)
        real = CPU_REAL if on_cpu and padding > CPU_SPARE else 0.0
        with fast_linear(), tqdm(total=len(unique), unit="row", desc="embed", disable=not pace.bar) as bar:
            within_memory(lengths, tokens, run, real=real, rows=pace.rows)
        order = np.array([place[row.ids] for row in rows], dtype=np.intp)
        found: Vectors = vectors.cpu().numpy()[order]
        return found

    def refuse_longer(self, rows: Sequence[Row], room: int = 0) -> None:
        """Raise InputError for a row that is longer than the model takes, with `room` for more tokens."""
        longest = max((len(row.ids) for row in rows), default=0) + max(room, self.layout.latent_tokens)
        most = most_tokens(self.backbone, self.layout)
        if most is not None and longest > most:
            raise InputError(
                f"a row of {longest} tokens, but the model takes {most}; shorten the instruction or lower "
                "query_length"
            )


def refuse_broken(vectors: Vectors | Tensor, names: Sequence[str] | None = None) -> None:
    """Raise BrokenVectorsError for vectors that are zero or not finite; `names` are their ids or places."""
    if not len(vectors):
        return
    found = torch.as_tensor(vectors).float()
    sound = found.isfinite().all(dim=-1) & (found != 0).any(dim=-1)
    if bool(sound.all()):
        return
    broken = (~sound).nonzero()[:, 0].tolist()
    first = [str(number) if names is None else names[number] for number in broken[:5]]
    raise BrokenVectorsError(
        f"{len(broken)} vectors are zero or not finite, the first of ids {first}; {REMEDY}"
    )


def most_tokens(backbone: Backbone, layout: Layout) -> int | None:
    """Return the number of tokens that a row may have, if the model bounds it.

    With latent steps a window of local attention bounds it too: they look back from the end of the batch, so
    that its longest row, which may have a thought, leaves room for them.
    """
    limits = (backbone.positions, backbone.window if layout.latent_steps else None)
    return min((most for most in limits if most is not None), default=None)


def right_padded_states(
    backbone: Backbone, layout: Layout, batch: Batch, cache: Any = None
) -> Float[Tensor, "batch seq dim"]:
    """Return the states of whole rows that are padded on the right; those of the padding mean nothing."""
    if layout.attention == "causal":
        # no token sees the padding, so that no mask is needed and the fastest kernels serve
        positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        return backbone.hidden(batch.input_ids, None, positions.expand_as(batch.input_ids), cache)
    if bool(steps_aside(batch).all()):
        return backbone.hidden(batch.input_ids, batch.mask[:, None, None].bool(), batch.positions, cache)
    return backbone.encode(batch, layout, cache)


def steps_aside(batch: Batch) -> Bool[Tensor, "batch"]:
    """Return which rows have no thought in them: they take latent steps, where the layout has some."""
    return batch.first == batch.last


def latent_states(
    backbone: Backbone, layout: Layout, batch: Batch, states: Float[Tensor, "batch seq dim"], cache: Any
) -> Float[Tensor, "batch steps dim"]:
    """Return the states of each row's latent steps, in float32 or better; their mean is its vector.

    (LaSER, arXiv 2603.01425, section 3.3, with the steps counted as in its released code.) The first is the
    read-out at `first`. Then the backbone reads a soft token, made of the state before, after the row up to
    `first` and the soft tokens so far; what the row has after `first`, a thought, is not seen. `cache` is
    that of the pass which gave `states`; it grows.
    """
    accumulator = torch.promote_types(states.dtype, torch.float32)
    found = [READ_OUTS[layout.readout](states, batch.mask, batch.first).to(accumulator)]
    state = at_position(states, batch.mask, batch.first)
    seen = batch.mask * (batch.positions <= batch.first[:, None])
    for step in range(1, layout.latent_steps):
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
        token = backbone.soft_tokens(state)[:, None]
        state = backbone.hidden(token, seen, batch.first[:, None] + step, cache)[:, 0]
        found.append(state.to(accumulator))
    return torch.stack(found, dim=1)


def _vectors(backbone: Backbone, layout: Layout, batch: Batch) -> Float[Tensor, "batch dim"]:
    """Return the unit vector at the last read-out of each row of a batch that is padded on the right."""
    aside = steps_aside(batch)
    cache = DynamicCache() if layout.latent_steps and bool(aside.any()) else None
    states = right_padded_states(backbone, layout, batch, cache)
    vectors = _read_out(states, batch, layout)
    if cache is None:
        return vectors
    latent = normalise(latent_states(backbone, layout, batch, states, cache).mean(dim=1))
    return torch.where(aside[:, None], latent, vectors)


def _read_out(
    states: Float[Tensor, "batch seq dim"], batch: Batch, layout: Layout
) -> Float[Tensor, "batch dim"]:
    # a batch padded on the right is ragged with rows of `seq` tokens, of which spans are read
    rows, seq = batch.mask.shape
    offsets = torch.arange(rows + 1, device=states.device) * seq
    end = offsets[:-1] + 1 + (0 if layout.readout == "first" else batch.last)
    begin = offsets[:-1] if layout.readout == "mean" else end - 1
    return pool_spans(states.flatten(0, 1), offsets, begin, end)


def within_memory(
    lengths: Sequence[int],
    tokens: int,
    run: Callable[[list[int]], None],
    *,
    real: float = 0.0,
    rows: int | None = None,
) -> int:
    """Run every index in groups of similar length and at most `tokens`; return the budget that fitted.

    `real` is the least share of a group that is no padding, `rows` its most indices. A group that runs out of
    memory is split and run again, so `run` must keep its results only at its end. Raises what `run` raises:
    every other error, and out of memory on a single index.
    """
    waiting = set(range(len(lengths)))
    while waiting:
        order = sorted(waiting)
        for places in by_length([lengths[index] for index in order], tokens, real=real, rows=rows):
            group = [order[place] for place in places]
            if not _fits(run, group):
                tokens = max(lengths[index] for index in group) * len(group) // 2
                break
            waiting.difference_update(group)
    return tokens


def _fits(run: Callable[[list[int]], None], group: list[int]) -> bool:
    try:
        run(group)
    except RuntimeError as error:
        # the CPU allocator has no type of its own; these are its messages on Linux and elsewhere
        full = isinstance(error, torch.OutOfMemoryError) or any(
            words in str(error) for words in ("can't allocate memory", "not enough memory")
        )
        if len(group) == 1 or not full:
            raise
    else:
        return True
    # after the handler, whose traceback still holds the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
