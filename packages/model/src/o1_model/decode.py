"""Thinking about any number of prompts: the cache first, then batches of a token budget, or an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch

from o1_model.aggregate import Vectors
from o1_model.backbone import Backbone
from o1_model.encode import encode_rows
from o1_model.engines import Engine
from o1_model.gate import Signal
from o1_model.layout import Layout, Row
from o1_model.memory import within_memory
from o1_model.onednn import fast_linear
from o1_model.think import Decoded, Thinking, Trace, think_rows
from o1_model.thought_cache import ThoughtCache, entry_key
from o1_records import InputError

Asked = tuple[str, tuple[int, ...]]  # a query_id and its prompt
THINKING_TOKENS = 32_768  # cached columns of one batch: 1.9 GB of keys and values for a 7B model in bf16


@dataclass
class Decoder:
    """Thinks with a backbone, in batches that fit into memory.

    `tokens` bounds the cached tokens of a batch, thoughts of all samples included; it is halved when
    memory runs out and stays so. `engine` writes the thoughts in the backbone's place; `cache` keeps
    them, under `digest`, which names the checkpoint.
    """

    backbone: Backbone
    layout: Layout
    pad_id: int
    suppress: Sequence[int]
    digest: str
    tokens: int = THINKING_TOKENS
    engine: Engine | None = None
    cache: ThoughtCache | None = None

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.backbone.config.hidden_size)

    def __call__(
        self,
        prompts: Sequence[Row],
        names: Sequence[str],
        thinking: Thinking,
        gate: Callable[[Signal], bool] | None = None,
    ) -> list[Decoded]:
        """What came of each prompt, in their order; where the gate is shut there are no traces.

        Raises InputError when the cache cannot name the checkpoint.
        """
        # equal queries are thought about once
        asked = {(name, row.ids): row for name, row in zip(names, prompts, strict=True)}
        keys: dict[Asked, bytes] = {}
        done: dict[Asked, Decoded] = {}
        if self.cache is not None:
            origin = self._origin(thinking)
            keys = {each: entry_key(origin, *each) for each in asked}
            found = ((each, self.cache.get(key, thinking.samples)) for each, key in keys.items())
            done = {each: _gated(known, gate) for each, known in found if known is not None}
        missing = [each for each in asked if each not in done]

        def run(places: list[int]) -> None:
            group = [missing[place] for place in places]
            rows, names = [asked[each] for each in group], [name for name, _ in group]
            made = dict(zip(group, self._think(rows, names, thinking, gate), strict=True))
            if self.cache is not None:
                self.cache.put((keys[each], decoded) for each, decoded in made.items() if decoded.traces)
            done.update(made)

        longest = thinking.max_tokens + 2
        lengths = [(len(ids) + longest) * thinking.samples for _, ids in missing]
        self.tokens = within_memory(lengths, self.tokens, run)
        return [done[name, row.ids] for name, row in zip(names, prompts, strict=True)]

    def _think(
        self,
        prompts: Sequence[Row],
        names: Sequence[str],
        thinking: Thinking,
        gate: Callable[[Signal], bool] | None,
    ) -> list[Decoded]:
        with fast_linear():
            decoded = think_rows(
                self.backbone,
                self.layout,
                prompts,
                names,
                thinking,
                pad_id=self.pad_id,
                suppress=self.suppress,
                gate=gate if self.engine is None else _shut,
            )
        if self.engine is not None:
            decoded = self._with_engine(self.engine, prompts, decoded, thinking, gate)
        if self.layout.two_read_outs:
            return decoded
        # v_q has a row of its own: the prompt with <emb> in the place of <thought>
        rows = [
            Row((*row.ids[:-1], self.layout.emb), row.first + 1, row.first + 1, range(0)) for row in prompts
        ]
        vectors = self._read(rows)
        return [replace(each, v_q=torch.from_numpy(v)) for each, v in zip(decoded, vectors, strict=True)]

    def _with_engine(
        self,
        engine: Engine,
        prompts: Sequence[Row],
        decoded: Sequence[Decoded],
        thinking: Thinking,
        gate: Callable[[Signal], bool] | None,
    ) -> list[Decoded]:
        """Let the engine write, and read v_t here with a full pass."""
        chosen = [n for n, each in enumerate(decoded) if gate is None or gate(each.signal)]
        banned = sorted({*self.suppress, *self.layout.control_ids})
        asked = [prompts[n].ids for n in chosen]
        seeds = [decoded[n].signal.query_id for n in chosen]
        written = engine.write(asked, seeds, thinking, eos=self.layout.eos, banned=banned)
        rows = [
            thought_row(self.layout, prompts[n], each.token_ids)
            for n, own in zip(chosen, written, strict=True)
            for each in own
        ]
        vectors = iter(self._read(rows))
        traces = {
            n: [Trace(each.token_ids, each.finished, torch.from_numpy(next(vectors))) for each in own]
            for n, own in zip(chosen, written, strict=True)
        }
        return [replace(each, traces=traces.get(n, [])) for n, each in enumerate(decoded)]

    def _read(self, rows: Sequence[Row]) -> Vectors:
        return encode_rows(self.backbone, self.layout, rows, pad_id=self.pad_id)

    def _origin(self, thinking: Thinking) -> tuple[object, ...]:
        if not self.digest:
            raise InputError("thoughts are cached by checkpoint; save this model and load it first")
        return (
            self.digest,
            msgspec.json.encode(self.layout),
            str(next(self.backbone.parameters()).dtype),
            "" if self.engine is None else self.engine.name,
            (thinking.temperature, thinking.top_p, thinking.max_tokens, thinking.seed),
        )


def thought_row(layout: Layout, prompt: Row, thought: Sequence[int]) -> Row:
    """The whole query side of a prompt and the thought that was decoded from it."""
    ids = (*prompt.ids, *thought[: layout.thought_length], layout.eos, layout.emb)
    last = len(ids) - 1
    return Row(ids, prompt.first if layout.two_read_outs else last, last, range(0))


def _gated(known: Decoded, gate: Callable[[Signal], bool] | None) -> Decoded:
    return known if gate is None or gate(known.signal) else replace(known, traces=[])


def _shut(signal: Signal) -> bool:
    return False
