"""Continuing prompts with any language model of transformers: text only, no vectors.

What all prompts of a batch begin with (an instruct model's system message and task) is read once, its samples
share a prompt, and a row leaves the batch as soon as it ends: at one of several tokens, at a text, at its
length. Greedy continuations are those of transformers' `generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from o1_model.thinking.decode import Told, blocks, choose, filled, select, spread, stream
from o1_model.thinking.engines import Written
from o1_model.thinking.settings import Thinking


@dataclass(frozen=True)
class Ends:
    """Where a continuation ends, besides its length.

    `tokens` end it and are not part of it. `reached` is asked after every token that `may_reach` says could
    complete what it looks for, with all token ids so far; the last of them is part of the continuation.
    """

    tokens: Sequence[int]
    may_reach: Callable[[int], bool] = lambda token: False
    reached: Callable[[Sequence[int]], bool] = lambda ids: False


@torch.inference_mode()
def generate(
    lm: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    thinking: Thinking,
    ends: Ends,
    *,
    banned: Sequence[int] = (),
    pad_id: int = 0,
    told: Told | None = None,
) -> list[list[Written]]:
    """Return `thinking.samples` continuations of each prompt, in one batch.

    A prompt's token ids, the seed and the number of the sample are all that the random draws depend on.
    `banned` ids are never chosen; `told` hears every token that does not end its continuation.
    """
    device, samples, longest = lm.device, thinking.samples, thinking.max_tokens
    batch = _prefilled(lm, prompts, pad_id)
    spread(batch.cache, len(prompts), samples, longest)
    never = torch.tensor(sorted(set(banned)), dtype=torch.long, device=device)
    last = torch.tensor(sorted(set(ends.tokens)), dtype=torch.long, device=device)
    draws = torch.stack(
        [
            stream(thinking.seed, tuple(prompt), sample, longest)
            for prompt in prompts
            for sample in range(samples)
        ]
    ).to(device)
    live = torch.arange(len(draws), device=device)  # the rows that go on, by the number they began with
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(prompts), longest)], dim=1)
    mask, positions = (each.repeat_interleave(samples, dim=0) for each in (mask, batch.positions))
    logits = batch.logits.repeat_interleave(samples, dim=0)
    said: list[list[int]] = [[] for _ in range(len(draws))]
    finished = [False] * len(draws)
    for step in range(longest):
        chosen = _choose(logits, never, draws[live, step], thinking)
        going = torch.ones_like(live, dtype=torch.bool)
        rows = zip(live.tolist(), chosen.tolist(), torch.isin(chosen, last).tolist(), strict=True)
        for place, (row, token, ended) in enumerate(rows):
            if not ended:
                said[row].append(token)
            if ended or (ends.may_reach(token) and ends.reached(said[row])):
                finished[row], going[place] = True, False
        if told is not None:
            more = ~torch.isin(chosen, last)
            told(live[more].tolist(), chosen[more].tolist())
        if not going.any() or step == longest - 1:
            break
        if not going.all():
            order = filled(going.nonzero()[:, 0])
            live, chosen, mask, positions = (each[order] for each in (live, chosen, mask, positions))
            select(batch.cache, order)
        length = batch.mask.shape[1] + step + 1
        logits = _forward(lm, chosen[:, None], mask[:, :length], positions[:, None], batch.cache)
        positions = positions + 1
    written = [Written(tuple(ids), done) for ids, done in zip(said, finished, strict=True)]
    return [written[start : start + samples] for start in range(0, len(written), samples)]


@dataclass
class _Batch:
    """Prompts that are read: their cache, which of its columns are theirs, and what comes next.

    `positions` [prompts] are those of the next token, `logits` [prompts, vocab] its.
    """

    cache: DynamicCache
    mask: Int[Tensor, "prompts columns"]
    positions: Int[Tensor, "prompts"]
    logits: Float[Tensor, "prompts vocab"]


def _prefilled(lm: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> _Batch:
    """Read prompts: what all of them begin with once, the rest padded on the left."""
    cache = DynamicCache(config=lm.config)
    shared = _shared(prompts) if len(prompts) > 1 and _plain(cache) else 0
    if shared:
        first = torch.tensor([list(prompts[0][:shared])], device=lm.device)
        places = torch.arange(shared, device=lm.device)[None]
        _forward(lm, first, torch.ones_like(first), places, cache)
        layers: list[Any] = cache.layers
        for layer in layers:
            layer.batch_repeat_interleave(len(prompts))
    lengths = [len(prompt) - shared for prompt in prompts]
    width = max(lengths)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    own = torch.zeros_like(ids)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        ids[row, width - length :] = torch.tensor(list(prompt[shared:]), dtype=torch.long)
        own[row, width - length :] = 1
    ids, own = ids.to(lm.device), own.to(lm.device)
    mask = torch.cat([own.new_ones(len(prompts), shared), own], dim=1)
    places = shared + (own.cumsum(dim=1) - 1).clamp(min=0)
    logits = _forward(lm, ids, mask, places, cache)
    return _Batch(cache, mask, torch.tensor(lengths, device=lm.device) + shared, logits)


def _forward(
    lm: PreTrainedModel,
    ids: Int[Tensor, "rows seq"],
    mask: Int[Tensor, "rows columns"],
    places: Int[Tensor, "rows seq"],
    cache: DynamicCache,
) -> Float[Tensor, "rows vocab"]:
    """Feed tokens; return the logits after the last one of each row."""
    takes = inspect.signature(lm.forward).parameters
    given: dict[str, Any] = {"position_ids": places} if "position_ids" in takes else {}
    if "logits_to_keep" in takes:
        given["logits_to_keep"] = 1
    output: Any = lm(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
    logits: Tensor = output.logits[:, -1]
    return logits


def _choose(
    logits: Float[Tensor, "rows vocab"],
    never: Int[Tensor, "banned"],
    draws: Float[Tensor, "rows tries"],
    thinking: Thinking,
) -> Int[Tensor, "rows"]:
    chosen = []
    for some, tries in blocks(logits, draws):
        allowed = some.float().index_fill(1, never, float("-inf"))
        chosen.append(choose(allowed, tries, thinking.temperature, thinking.top_p))
    return torch.cat(chosen)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all prompts begin with, at least one less than the shortest has."""
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    most = min(map(len, prompts)) - 1
    return next((place for place in range(most) if low[place] != high[place]), most)


def _plain(cache: DynamicCache) -> bool:
    """Return whether every layer keeps all columns: a window or a state would see the padding between."""
    layers: list[Any] = cache.layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
