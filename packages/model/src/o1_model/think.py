"""Thinking: decode thoughts on a live KV cache and read v_t from the same cache.

The prompt `[bos] <query> q <emb> <thought>` is prefilled once and its samples share it. Each thought
is decoded; then `<eos>` and `<emb>` are fed to the live cache in the shared step, so that embedding
after thinking costs two token-forwards per thought. Finished rows leave the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from o1_model.backbone import Backbone
from o1_model.batch import collate
from o1_model.layout import Layout, Row
from o1_model.pooling import READ_OUTS, normalise
from o1_records import InputError


@dataclass(frozen=True)
class Thinking:
    """How to think. Temperature 0 is greedy; each (query_id, sample) has a random stream of its own."""

    samples: int = 3
    max_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        for name, value, fits in (
            ("samples", self.samples, self.samples >= 1),
            ("max_tokens", self.max_tokens, self.max_tokens >= 1),
            ("temperature", self.temperature, self.temperature >= 0),
            ("top_p", self.top_p, 0 < self.top_p <= 1),
        ):
            if not fits:
                raise InputError(f"cannot think with {name} {value}")


@dataclass(frozen=True)
class Trace:
    """One decoded thought: its token ids (without EOS), whether EOS was chosen, and v_t [dim]."""

    token_ids: tuple[int, ...]
    finished: bool
    vector: Float[Tensor, "dim"]


@dataclass
class _Live:
    """The rows still decoding. `column` counts cached columns; every tensor has one entry a row."""

    which: Int[Tensor, "live"]
    token: Int[Tensor, "live"]
    length: Int[Tensor, "live"]
    summed: Float[Tensor, "live dim"]
    mask: Int[Tensor, "live total"]
    cache: DynamicCache
    column: int

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.which, self.token = self.which[rows], self.token[rows]
        self.length, self.summed = self.length[rows], self.summed[rows]
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)


@torch.inference_mode()
def think_rows(
    backbone: Backbone,
    layout: Layout,
    prompts: Sequence[Row],
    names: Sequence[str],
    thinking: Thinking,
    *,
    pad_id: int,
    suppress: Sequence[int],
) -> tuple[Float[Tensor, "prompts dim"], list[list[Trace]]]:
    """v_q of each prompt, and its decoded thoughts in sample order.

    `names` seed the random streams (the query_ids); `suppress` are ids that are never chosen beside
    the control tokens.
    """
    v_q, live, state = _prefill(backbone, layout, prompts, thinking, pad_id)
    uniform = torch.stack([_stream(thinking, name, s) for name in names for s in range(thinking.samples)]).to(
        state.device
    )
    banned = torch.tensor(sorted({*suppress, *layout.control_ids}), device=state.device)
    ids: list[list[int]] = [[] for _ in live.which]
    vectors: dict[int, Tensor] = {}
    finished: set[int] = set()
    read = _mean_state if layout.readout == "mean" else _last_state
    choose = _chooser(backbone, thinking, uniform, banned, layout.eos)
    live.token = choose(state, live.which, ids)
    while len(live.which):
        state = _feed(backbone, live)
        readings = normalise(read(state, live))
        for position, (row, token) in enumerate(zip(live.which.tolist(), live.token.tolist(), strict=True)):
            if token == layout.emb:
                vectors[row] = readings[position].cpu()
            elif token != layout.eos:
                ids[row].append(token)
        fed = live.token
        live.token = choose(state, live.which, ids)
        full = torch.tensor([len(ids[row]) >= thinking.max_tokens for row in live.which.tolist()])
        live.token[full.to(fed.device)] = layout.eos
        live.token[fed == layout.eos] = layout.emb
        chosen_eos = (live.token == layout.eos) & ~full.to(fed.device)
        finished.update(live.which[chosen_eos].tolist())
        going = (fed != layout.emb).nonzero()[:, 0]
        if len(going) < len(live.which):
            live.keep(going)
    rows = [Trace(tuple(ids[row]), row in finished, vectors[row]) for row in range(len(ids))]
    n = thinking.samples
    return v_q, [rows[start : start + n] for start in range(0, len(rows), n)]


def _prefill(
    backbone: Backbone, layout: Layout, prompts: Sequence[Row], thinking: Thinking, pad_id: int
) -> tuple[Tensor, _Live, Tensor]:
    # left padding keeps each row's tokens contiguous, as sliding windows expect
    batch = collate(prompts, pad_id, left=True).to(backbone.device)
    cache = DynamicCache(config=backbone.config)
    states = backbone.encode(batch, layout, cache)
    v_q = normalise(READ_OUTS[layout.readout](states, batch.mask, batch.first))
    n = thinking.samples
    cache.batch_repeat_interleave(n)
    summed = torch.einsum("bsd,bs->bd", states.float(), batch.mask.float())
    extra = torch.ones(len(prompts), thinking.max_tokens + 2, dtype=torch.long)
    live = _Live(
        which=torch.arange(len(prompts) * n, device=states.device),
        token=torch.empty(0),
        length=batch.mask.sum(dim=1).repeat_interleave(n),
        summed=summed.repeat_interleave(n, dim=0),
        mask=torch.cat([batch.mask, extra.to(states.device)], dim=1).repeat_interleave(n, dim=0),
        cache=cache,
        column=batch.mask.shape[1],
    )
    return v_q, live, states[:, -1].repeat_interleave(n, dim=0)


def _feed(backbone: Backbone, live: _Live) -> Float[Tensor, "live dim"]:
    live.column += 1
    states = backbone.hidden(
        live.token[:, None], live.mask[:, : live.column], live.length[:, None], live.cache
    )[:, 0]
    live.length = live.length + 1
    live.summed = live.summed + states.float()
    return states


def _last_state(state: Tensor, live: _Live) -> Tensor:
    return state


def _mean_state(state: Tensor, live: _Live) -> Tensor:
    return live.summed / live.length[:, None]


def _chooser(
    backbone: Backbone, thinking: Thinking, uniform: Tensor, banned: Tensor, eos: int
) -> Callable[[Tensor, Tensor, list[list[int]]], Tensor]:
    def choose(state: Tensor, which: Tensor, ids: list[list[int]]) -> Tensor:
        logits = backbone.logits(state).float()
        logits[:, banned] = float("-inf")
        step = torch.tensor([len(ids[row]) for row in which.tolist()], device=state.device)
        # a thought has at least one token
        logits[step == 0, eos] = float("-inf")
        if thinking.temperature == 0:
            return logits.argmax(dim=-1)
        draws = uniform[which, step.clamp(max=thinking.max_tokens - 1)]
        return nucleus(logits / thinking.temperature, draws, thinking.top_p)

    return choose


def nucleus(
    logits: Float[Tensor, "rows vocab"],
    draws: Float[Tensor, "rows"],
    top_p: float,
    *,
    first: int = 256,
) -> Int[Tensor, "rows"]:
    """Choose one token a row from the smallest set whose probability reaches `top_p`.

    Inverse transform of one uniform draw in [0, 1) a row, over tokens sorted by probability (equal
    ones in the order torch.topk gives them). Only the `first` likeliest tokens are sorted, unless a
    row's set is larger: a full sort of a large vocabulary costs more than a small model's forward.
    """
    vocabulary = logits.shape[-1]
    first = min(first, vocabulary)
    probabilities = logits.softmax(dim=-1)
    likely, order = probabilities.topk(first, dim=-1)
    before = likely.cumsum(dim=-1) - likely
    kept = likely * (before < top_p)
    cumulative = kept.cumsum(dim=-1)
    place = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    last = (kept > 0).sum(dim=-1, keepdim=True) - 1
    chosen = order.gather(1, torch.minimum(place, last))[:, 0]
    larger = (likely.sum(dim=-1) < top_p).nonzero()[:, 0]
    if first < vocabulary and len(larger):
        chosen[larger] = nucleus(logits[larger], draws[larger], top_p, first=vocabulary)
    return chosen


def _stream(thinking: Thinking, name: str, sample: int) -> Float[Tensor, "max_tokens"]:
    label = f"{thinking.seed}\0{name}\0{sample}".encode()
    seed = int.from_bytes(hashlib.sha256(label).digest()[:8], "big") >> 1
    return torch.rand(thinking.max_tokens, generator=torch.Generator().manual_seed(seed))
