"""Decoding thoughts on a live KV cache, and reading v_t from the same cache.

The prompt `[bos] <query> q <emb> <thought>` is prefilled once and its samples share it. Each thought
is decoded; then `<eos>` and `<emb>` are fed to the live cache in the shared step, so that embedding
after thinking costs two token-forwards per thought. Finished rows leave the batch, and no logits are
computed for a row whose next token is certain.

In this file: `think_rows` and its rows in flight, the cache with room for the tokens to come, the sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from o1_model.backbone import Backbone
from o1_model.batch import Batch, collate
from o1_model.encoding.pooling import READ_OUTS, normalise
from o1_model.layout import Layout, Row
from o1_model.thinking.gate import Signal
from o1_model.thinking.settings import Thinking

Told = Callable[[Sequence[int], Sequence[int]], None]
"""Hears what is chosen while it is chosen: numbers of rows (prompts x samples) and their next tokens."""
Aloud = Callable[[int, str], None]
"""Hears a thought while it is written: the number of its sample and its text so far."""

TRIES = 6  # uniform draws a step; at top-p 0.9, 0.1 ** 6 of the steps need more


@dataclass(frozen=True)
class Trace:
    """One thought: its token ids (without EOS), whether EOS was chosen, and v_t [dim].

    `log_likelihood` is that of the whole thought under the model (with EOS if it was chosen), at
    temperature 1; None for a thought that something else wrote.
    """

    token_ids: tuple[int, ...]
    finished: bool
    vector: Float[Tensor, "dim"]
    log_likelihood: float | None = None


@dataclass(frozen=True)
class Decoded:
    """The outcome of one prompt: v_q [dim], the gate's signals, and the traces in the order of the samples.

    For a layout with a single read-out or latent steps, `think_rows` cannot read v_q, and this holds
    something else.
    """

    v_q: Float[Tensor, "dim"]
    signal: Signal
    traces: list[Trace]


@torch.inference_mode()
def think_rows(
    backbone: Backbone,
    layout: Layout,
    prompts: Sequence[Row],
    thinking: Thinking,
    *,
    pad_id: int,
    names: Sequence[str] | None = None,
    suppress: Sequence[int] = (),
    gate: Callable[[Signal], bool] | None = None,
    told: Told | None = None,
) -> list[Decoded]:
    """Think about each prompt that the gate opens for; the others get no traces.

    A prompt's token ids, the seed and the number of the sample are all that the random draws depend on.
    `names` are the query_ids, for the gate's signals; `suppress` are ids that are never chosen, besides the
    control tokens. Where states or logits are no finite numbers, the vectors are none either.
    """
    names = [""] * len(prompts) if names is None else names
    chooser = _Chooser(backbone, layout, thinking, suppress)
    # left padding keeps each row's tokens contiguous, as sliding windows expect
    batch = collate(prompts, pad_id, left=True).to(backbone.device)
    cache = DynamicCache(config=backbone.config)
    states = backbone.encode(batch, layout, cache)
    raw = READ_OUTS[layout.readout](states, batch.mask, batch.first).float()
    logits = chooser.logits(states[:, -1])
    measured = zip(names, raw.norm(dim=-1).tolist(), entropy(logits).tolist(), strict=True)
    signals = [Signal(query_id=name, norm=norm, entropy=nats) for name, norm, nats in measured]
    # nothing can be thought where states are no numbers; v_q shows it
    sound = raw.isfinite().all(dim=-1).tolist()
    opened = [gate is None or gate(signal) for signal in signals]
    chosen = [number for number, opens in enumerate(opened) if opens and sound[number]]
    traces: list[list[Trace]] = [[] for _ in prompts]
    if chosen:
        live = _live(batch, states, cache, chosen, thinking)
        draws = torch.stack(
            [
                stream(thinking.seed, prompts[number].ids, sample, thinking.max_tokens)
                for number in chosen
                for sample in range(thinking.samples)
            ]
        ).to(states.device)
        rows = iter(_decode(backbone, layout, live, chooser, logits[chosen], draws, told))
        for number in chosen:
            traces[number] = list(islice(rows, thinking.samples))
    vectors = normalise(raw).cpu()
    return [Decoded(*parts) for parts in zip(vectors, signals, traces, strict=True)]


def in_text(text: Callable[[Sequence[int]], str], samples: int, aloud: Aloud) -> Told:
    """Return what hears the tokens of one prompt's samples and says them to `aloud`, as `text` reads them.

    A character of several tokens is said when it is whole.
    """
    ids: list[list[int]] = [[] for _ in range(samples)]

    def told(rows: Sequence[int], tokens: Sequence[int]) -> None:
        for sample, token in zip(rows, tokens, strict=True):
            ids[sample].append(token)
            if not (said := text(ids[sample])).endswith("\N{REPLACEMENT CHARACTER}"):
                aloud(sample, said)

    return told


# --- the decoding loop --------------------------------------------------------------------------------


def _decode(
    backbone: Backbone,
    layout: Layout,
    live: _Live,
    chooser: _Chooser,
    first: Float[Tensor, "prompts vocab"],
    draws: Float[Tensor, "rows steps tries"],
    told: Told | None,
) -> list[Trace]:
    """Decode every row to its end; `first` are the logits after the prompts."""
    assert layout.emb is not None  # a layout that thinks has one
    book = _Book(draws, live.summed)
    first[:, layout.eos] = float("-inf")  # a thought has at least one token
    logits = first.repeat_interleave(len(draws) // len(first), dim=0)
    free = live.which
    while len(live.which):
        if len(free):
            live.token[free] = chosen = book.write(live.which[free], chooser, logits, layout.eos)
            if told is not None:
                more = chosen != layout.eos
                told(live.which[free][more].tolist(), chosen[more].tolist())
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
        """Run one token of every row through the backbone."""
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
        select(self.cache, order)
        return order


def _live(batch: Batch, states: Tensor, cache: DynamicCache, chosen: list[int], thinking: Thinking) -> _Live:
    """Return the chosen prompts after the prefill, each once for every sample."""
    n, room = thinking.samples, thinking.max_tokens + 2  # <eos> and <emb>
    if len(chosen) < len(states):
        select(cache, torch.tensor(chosen, device=states.device))
    spread(cache, len(chosen), n, room)
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
        """Return every row as a Trace, in the order they began."""
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
            # a thought that was chosen by logits that are no numbers has no vector
            Trace(tuple(ids[:count]), finished, vector + 0 * likelihood, likelihood)
            for ids, count, finished, vector, likelihood in columns
        ]


# --- a cache with room for the tokens to come ---------------------------------------------------------


def spread(cache: DynamicCache, rows: int, samples: int, room: int) -> None:
    """Repeat each of the `rows` of a prefilled cache `samples` times, with room for `room` more columns.

    Layers other than plain attention (sliding windows) grow as transformers lets them; those of linear
    attention do not grow.
    """
    layers: list[Any] = cache.layers
    every = torch.arange(rows).repeat_interleave(samples)
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[number] = RoomyLayer(layer, samples, room)
        else:
            layer.reorder_cache(every)


def select(cache: DynamicCache, rows: Int[Tensor, "kept"]) -> None:
    """Keep these rows of a cache, in this order."""
    layers: list[Any] = cache.layers
    for layer in layers:
        # linear attention has no batch_select_indices (transformers issue 48305)
        layer.reorder_cache(rows)


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer that writes each step into its room, where DynamicLayer copies all it holds."""

    def __init__(self, layer: DynamicLayer, samples: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        assert layer.keys is not None and layer.values is not None
        self._keys, self._values = (
            _with_room(states, samples, room) for states in (layer.keys, layer.values)
        )
        self._show(len(self._keys), layer.keys.shape[2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the states of a step in place."""
        rows, start = len(key_states), self.get_seq_length()
        stop = start + key_states.shape[2]
        self._keys[:rows, :, start:stop] = key_states
        self._values[:rows, :, start:stop] = value_states
        return self._show(rows, stop)

    def reorder_cache(self, beam_idx: Int[Tensor, "kept"]) -> None:
        """Keep these rows, each at most once, in this order. One that keeps its place costs nothing."""
        length = self.get_seq_length()
        moved = (beam_idx != torch.arange(len(beam_idx), device=beam_idx.device)).nonzero()[:, 0]
        source = beam_idx[moved]
        self._keys[moved, :, :length] = self._keys[source, :, :length]
        self._values[moved, :, :length] = self._values[source, :, :length]
        self._show(len(beam_idx), length)

    def _show(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._keys[:rows, :, :length], self._values[:rows, :, :length]
        return self.keys, self.values


def filled(kept: Int[Tensor, "kept"]) -> Int[Tensor, "kept"]:
    """Return the kept rows (ascending) in an order in which most keep their place: the last fill the gaps."""
    count = len(kept)
    stay, move = kept[kept < count], kept[kept >= count]
    order = torch.empty_like(kept)
    order[stay] = stay
    gaps = torch.ones(count, dtype=torch.bool, device=kept.device)
    gaps[stay] = False
    order[gaps] = move
    return order


def _with_room(
    states: Float[Tensor, "rows heads seq size"], samples: int, room: int
) -> Float[Tensor, "more heads longer size"]:
    rows, heads, length, size = states.shape
    roomy = states.new_empty(rows * samples, heads, length + room, size)
    roomy[:, :, :length] = states.repeat_interleave(samples, dim=0)
    return roomy


# --- sampling -----------------------------------------------------------------------------------------


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
        chosen, gained = zip(*(self._choose(*block) for block in blocks(logits, draws)), strict=True)
        return torch.cat(chosen), torch.cat(gained)

    def _choose(self, logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        chosen = choose(logits, draws, self._temperature, self._top_p)
        log_likelihood = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1)
        return chosen, log_likelihood


def stream(seed: int, prompt: Sequence[int], sample: int, steps: int) -> Float[Tensor, "steps tries"]:
    """Return uniform draws in [0, 1) that depend on the seed, the prompt and the sample alone."""
    generator = torch.Generator().manual_seed(stream_number(seed, prompt, sample))
    return torch.rand(steps, TRIES, generator=generator)


def stream_number(seed: int, prompt: Sequence[int], sample: int) -> int:
    """Return what the random stream of a sample begins with: a number below 2 ** 63."""
    label = f"{seed}\0{','.join(map(str, prompt))}\0{sample}".encode()
    return int.from_bytes(hashlib.sha256(label).digest()[:8], "big") >> 1


def blocks(
    logits: Float[Tensor, "rows vocab"], draws: Float[Tensor, "rows tries"]
) -> Iterator[tuple[Float[Tensor, "few vocab"], Float[Tensor, "few tries"]]]:
    """Yield a few rows at a time: the copies that sampling makes of their logits stay in a CPU's cache.

    (192 rows of 49,152 tokens on one core: 28 ms with 8 rows at a time, 106 ms at once.)
    """
    at_once = max(1, (2**19 if logits.device.type == "cpu" else 2**26) // logits.shape[1])
    return zip(torch.split(logits, at_once), torch.split(draws, at_once), strict=True)


def choose(
    logits: Float[Tensor, "rows vocab"], draws: Float[Tensor, "rows tries"], temperature: float, top_p: float
) -> Int[Tensor, "rows"]:
    """Choose one token a row: the likeliest at a temperature of 0, else one of its nucleus."""
    if temperature < 1e-6:  # a smaller one overflows
        return logits.argmax(dim=-1)
    return nucleus(logits / temperature, draws, top_p)


def nucleus(
    logits: Float[Tensor, "rows vocab"], draws: Float[Tensor, "rows tries"], top_p: float
) -> Int[Tensor, "rows"]:
    """Choose one token a row from its nucleus: tokens with less than `top_p` of the mass above them.

    (Holtzman et al. 2020, arXiv 1904.09751; equal tokens are in or out together.) A token drawn from
    the whole distribution is kept if it lies in the nucleus, else it is drawn again: exact, and
    without sorting the vocabulary, which costs more than a small model's forward pass. The last draw
    is made inside the nucleus.
    """
    probabilities = logits.softmax(dim=-1)
    chosen = _drawn(probabilities, draws[:, 0])
    if top_p == 1:
        return chosen
    outside = (~_inside(probabilities, chosen, top_p)).nonzero()[:, 0]
    for column in range(1, draws.shape[1]):
        if not len(outside):
            return chosen
        left = probabilities[outside]
        last = column == draws.shape[1] - 1
        again = _drawn(_only_nucleus(left, top_p) if last else left, draws[outside, column])
        chosen[outside] = again
        outside = outside[~_inside(left, again, top_p)]
    return chosen


def entropy(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows"]:
    """Return the entropy of the next token in nats, at temperature 1."""
    probabilities = logits.softmax(dim=-1)
    terms: Tensor = torch.special.xlogy(probabilities, probabilities)
    return -terms.sum(dim=-1)


def _drawn(masses: Float[Tensor, "rows vocab"], draws: Float[Tensor, "rows"]) -> Int[Tensor, "rows"]:
    # inverse transform; a draw is below 1, so that the place is before the end and its mass is not 0
    cumulative = masses.cumsum(dim=-1)
    place = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
    # (of logits that are no numbers it would be beyond the end)
    return place.clamp(max=masses.shape[1] - 1)


def _inside(
    probabilities: Float[Tensor, "rows vocab"], chosen: Int[Tensor, "rows"], top_p: float
) -> Bool[Tensor, "rows"]:
    own = probabilities.gather(1, chosen[:, None])
    # ones and zeros in the probabilities' own type: 15 times as fast as torch.where on a CPU
    above = torch.gt(probabilities, own, out=torch.empty_like(probabilities))
    return above.mul_(probabilities).sum(dim=-1) < top_p


def _only_nucleus(probabilities: Float[Tensor, "rows vocab"], top_p: float) -> Float[Tensor, "rows vocab"]:
    ordered = probabilities.sort(dim=-1, descending=True).values
    before = ordered.cumsum(dim=-1) - ordered
    smallest = torch.where(before < top_p, ordered, torch.inf).amin(dim=-1, keepdim=True)
    return torch.where(probabilities >= smallest, probabilities, 0)
