"""Thinking: decode thoughts on a live KV cache and read v_t from the same cache.

The prompt `[bos] <query> q <emb> <thought>` is prefilled once and its samples share it. Each thought
is decoded; then `<eos>` and `<emb>` are fed to the live cache in the shared step, so that embedding
after thinking costs two token-forwards per thought. Finished rows leave the batch, and no logits are
computed for a row whose next token is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from o1_model.backbone import Backbone
from o1_model.batch import Batch, collate
from o1_model.gate import Signal
from o1_model.layout import Layout, Row
from o1_model.live_cache import filled, spread
from o1_model.pooling import READ_OUTS, normalise
from o1_model.sampling import entropy, log_likelihood, nucleus, stream
from o1_records import InputError

HOTTEST = 1e6  # every token is as likely as the next by then; float32 overflows at 1e38


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
            ("temperature", self.temperature, 0 <= self.temperature <= HOTTEST),
            ("top_p", self.top_p, 0 < self.top_p <= 1),
        ):
            if not fits:
                raise InputError(f"cannot think with {name} {value}")


@dataclass(frozen=True)
class Trace:
    """One thought: its token ids (without EOS), whether EOS was chosen, and v_t [dim].

    `log_likelihood` is the model's own of the whole thought (with EOS where it was chosen), at
    temperature 1; None where another engine wrote it.
    """

    token_ids: tuple[int, ...]
    finished: bool
    vector: Float[Tensor, "dim"]
    log_likelihood: float | None = None


@dataclass(frozen=True)
class Decoded:
    """What came of one prompt: v_q [dim], the gate's signals, and the traces in sample order.

    Where the layout reads v_q in a pass of its own, `think_rows` leaves here what is no v_q.
    """

    v_q: Float[Tensor, "dim"]
    signal: Signal
    traces: list[Trace]


@torch.inference_mode()
def think_rows(
    backbone: Backbone,
    layout: Layout,
    prompts: Sequence[Row],
    names: Sequence[str],
    thinking: Thinking,
    *,
    pad_id: int,
    suppress: Sequence[int] = (),
    gate: Callable[[Signal], bool] | None = None,
) -> list[Decoded]:
    """Think about each prompt that the gate opens for; the others have no traces.

    `names` seed the random streams (the query_ids); `suppress` are ids that are never chosen beside
    the control tokens.
    """
    chooser = _Chooser(backbone, layout, thinking, suppress)
    # left padding keeps each row's tokens contiguous, as sliding windows expect
    batch = collate(prompts, pad_id, left=True).to(backbone.device)
    cache = DynamicCache(config=backbone.config)
    states = backbone.encode(batch, layout, cache)
    raw = READ_OUTS[layout.readout](states, batch.mask, batch.first).float()
    logits = chooser.logits(states[:, -1])
    measured = zip(names, raw.norm(dim=-1).tolist(), entropy(logits).tolist(), strict=True)
    signals = [Signal(query_id=name, norm=norm, entropy=spread) for name, norm, spread in measured]
    chosen = [number for number, signal in enumerate(signals) if gate is None or gate(signal)]
    traces: list[list[Trace]] = [[] for _ in prompts]
    if chosen:
        live = _live(batch, states, cache, chosen, thinking)
        draws = _draws(thinking, [names[number] for number in chosen]).to(states.device)
        rows = iter(_decode(backbone, layout, live, chooser, logits[chosen], draws))
        for number in chosen:
            traces[number] = list(islice(rows, thinking.samples))
    vectors = normalise(raw).cpu()
    return [Decoded(*parts) for parts in zip(vectors, signals, traces, strict=True)]


class _Chooser:
    """Turns states into tokens, and says how likely they were."""

    def __init__(
        self, backbone: Backbone, layout: Layout, thinking: Thinking, suppress: Sequence[int]
    ) -> None:
        self._head = backbone.logits
        self._temperature, self._top_p = thinking.temperature, thinking.top_p
        banned = sorted({*suppress, *layout.control_ids})
        self._banned = torch.tensor(banned, dtype=torch.long, device=backbone.device)

    def logits(self, states: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocab"]:
        logits = self._head(states).float()
        return logits.index_fill_(1, self._banned, float("-inf"))

    def choose(
        self, logits: Float[Tensor, "rows vocab"], draws: Float[Tensor, "rows tries"]
    ) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"]]:
        # in blocks: sampling makes several copies of the logits, which then stay in a CPU's cache
        at_once = max(1, (2**20 if logits.device.type == "cpu" else 2**26) // logits.shape[1])
        blocks = zip(torch.split(logits, at_once), torch.split(draws, at_once), strict=True)
        chosen, gained = zip(*(self._choose(*block) for block in blocks), strict=True)
        return torch.cat(chosen), torch.cat(gained)

    def _choose(self, logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        if self._temperature < 1e-6:  # a smaller one overflows
            chosen = logits.argmax(dim=-1)
        else:
            chosen = nucleus(logits / self._temperature, draws, self._top_p)
        return chosen, log_likelihood(logits, chosen)


@dataclass
class _Live:
    """The rows still decoding, one entry a row in every tensor.

    `which` numbers the rows from 0 as they began, `token` is fed next, `length` counts fed tokens,
    `summed` adds up their states; `column` counts cached columns.
    """

    which: Int[Tensor, "live"]
    token: Int[Tensor, "live"]
    length: Int[Tensor, "live"]
    summed: Float[Tensor, "live dim"]
    mask: Int[Tensor, "live total"]
    cache: DynamicCache
    column: int

    def feed(self, backbone: Backbone) -> Float[Tensor, "live dim"]:
        """One token-forward of every row."""
        self.column += 1
        states = backbone.hidden(
            self.token[:, None], self.mask[:, : self.column], self.length[:, None], self.cache
        )[:, 0]
        self.length = self.length + 1
        self.summed = self.summed + states.float()
        return states

    def keep(self, rows: Bool[Tensor, "live"]) -> Int[Tensor, "kept"]:
        """Drop the other rows; returns where each kept row was."""
        order = filled(rows.nonzero()[:, 0])
        for name in ("which", "token", "length", "summed", "mask"):
            setattr(self, name, getattr(self, name)[order])
        self.cache.batch_select_indices(order)
        return order


def _live(batch: Batch, states: Tensor, cache: DynamicCache, chosen: list[int], thinking: Thinking) -> _Live:
    """The chosen prompts after the prefill, each once for every sample."""
    n, room = thinking.samples, thinking.max_tokens + 2  # <eos> and <emb>
    if len(chosen) < len(states):
        cache.batch_select_indices(torch.tensor(chosen, device=states.device))
    spread(cache, n, room)
    mask = batch.mask[chosen]
    summed = torch.einsum("bsd,bs->bd", states[chosen].float(), mask.float())
    which = torch.arange(len(chosen) * n, device=states.device)
    return _Live(
        which=which,
        token=torch.zeros_like(which),
        length=mask.sum(dim=1).repeat_interleave(n),
        summed=summed.repeat_interleave(n, dim=0),
        mask=torch.cat([mask, mask.new_ones(len(mask), room)], dim=1).repeat_interleave(n, dim=0),
        cache=cache,
        column=mask.shape[1],
    )


def _decode(
    backbone: Backbone,
    layout: Layout,
    live: _Live,
    chooser: _Chooser,
    first: Float[Tensor, "prompts vocab"],
    draws: Float[Tensor, "rows steps tries"],
) -> list[Trace]:
    """Decode every row to its end; `first` are the logits after the prompts."""
    book = _Book(draws, live.summed)
    first[:, layout.eos] = float("-inf")  # a thought has at least one token
    logits = first.repeat_interleave(len(draws) // len(first), dim=0)
    free = live.which
    while len(live.which):
        if len(free):
            live.token[free] = book.write(live.which[free], chooser, logits, layout.eos)
        state = live.feed(backbone)
        done = live.token == layout.emb
        if done.any():
            readings = live.summed / live.length[:, None] if layout.readout == "mean" else state
            book.vectors[live.which[done]] = normalise(readings[done])
            state = state[live.keep(~done)]
        ended = live.token == layout.eos
        # what certainly follows; the free rows choose
        live.token = torch.where(ended, layout.emb, layout.eos)
        free = (~ended & (book.counts[live.which] < book.longest)).nonzero()[:, 0]
        if len(free):
            logits = chooser.logits(state[free])
    return book.traces()


class _Book:
    """What every row has said so far, by the number it began with."""

    def __init__(self, draws: Float[Tensor, "rows steps tries"], like: Float[Tensor, "rows dim"]) -> None:
        self._draws = draws
        rows, self.longest = draws.shape[:2]
        self._ids = torch.zeros(rows, self.longest, dtype=torch.long, device=draws.device)
        self.counts = torch.zeros(rows, dtype=torch.long, device=draws.device)
        self._finished = torch.zeros(rows, dtype=torch.bool, device=draws.device)
        self._likelihood = torch.zeros(rows, device=draws.device)
        self.vectors = torch.zeros_like(like)

    def write(
        self, rows: Int[Tensor, "free"], chooser: _Chooser, logits: Tensor, eos: int
    ) -> Int[Tensor, "free"]:
        """Choose and note the next token of these rows."""
        step = self.counts[rows]
        chosen, gained = chooser.choose(logits, self._draws[rows, step])
        ended = chosen == eos
        self._ids[rows, step] = chosen
        self.counts[rows] = step + (~ended).long()
        self._finished[rows] = ended
        self._likelihood[rows] += gained
        return chosen

    def traces(self) -> list[Trace]:
        """Every row as a Trace, in the order they began."""
        counts, vectors = self.counts.tolist(), self.vectors.cpu()
        columns = zip(
            self._ids.tolist(),
            counts,
            self._finished.tolist(),
            vectors,
            self._likelihood.tolist(),
            strict=True,
        )
        return [
            Trace(tuple(ids[:count]), finished, vector, likelihood)
            for ids, count, finished, vector, likelihood in columns
        ]


def _draws(thinking: Thinking, names: Sequence[str]) -> Float[Tensor, "rows steps tries"]:
    own = [
        stream(thinking.seed, name, sample, thinking.max_tokens)
        for name in names
        for sample in range(thinking.samples)
    ]
    return torch.stack(own)
