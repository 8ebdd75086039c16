"""Thinking about any number of prompts: from the cache, in batches of a token budget, or with an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from tqdm import tqdm

from o1_model.encoding.encode import PACE, Pace, Reader, within_memory
from o1_model.layout import Row, thought_row, thoughtless_row
from o1_model.thinking.decode import Decoded, Told, Trace, think_rows
from o1_model.thinking.engines import Engine
from o1_model.thinking.gate import Opens
from o1_model.thinking.records import ThoughtCache, entry_key
from o1_model.thinking.settings import Thinking
from o1_records import InputError
from o1_records.kit.onednn import fast_linear

Asked = tuple[str, tuple[int, ...]]  # a query_id and its prompt
THINKING_TOKENS = 32_768  # cached columns of one batch: 1.9 GB of keys and values for a 7B model in bf16


@dataclass
class Decoder:
    """Thinks with the backbone of a reader, in batches that fit into memory.

    `tokens` bounds the cached tokens of a batch, thoughts of all samples included, as the reader's
    `batch_tokens` does; it is halved when memory runs out and stays so. `engine` writes the thoughts instead
    of the backbone; `cache` keeps them, filed under `digest`, which names the checkpoint.
    """

    reader: Reader
    suppress: Sequence[int]
    digest: str
    tokens: int = THINKING_TOKENS
    engine: Engine | None = None
    cache: ThoughtCache | None = None

    def __call__(
        self,
        prompts: Sequence[Row],
        names: Sequence[str],
        thinking: Thinking,
        gate: Opens | None = None,
        pace: Pace = PACE,
        told: Told | None = None,
    ) -> list[Decoded]:
        """Return the outcome of each prompt, in their order; where the gate is shut there are no traces.

        `names` are the query_ids, for the gate's signals; `told` hears every token (see `think_rows`). Raises
        InputError when there is a cache but no digest to file under.
        """
        self.reader.refuse_longer(prompts, room=thinking.max_tokens + 2)
        # equal queries are thought about once
        asked = {(name, row.ids): row for name, row in zip(names, prompts, strict=True)}
        keys: dict[Asked, bytes] = {}
        done: dict[Asked, Decoded] = {}
        if self.cache is not None:
            origin = self._origin(thinking)
            keys = {(name, ids): entry_key(origin, ids) for name, ids in asked}
            for each, key in keys.items():
                known = self.cache.get(key, thinking.samples)
                if known is not None:
                    signal = msgspec.structs.replace(known.signal, query_id=each[0])
                    shut = gate is not None and not gate(signal)
                    done[each] = replace(known, signal=signal, traces=[] if shut else known.traces)
        missing = [each for each in asked if each not in done]

        def run(places: list[int]) -> None:
            group = [missing[place] for place in places]
            rows, names = [asked[each] for each in group], [name for name, _ in group]
            made = dict(zip(group, self._think(rows, names, thinking, gate, told), strict=True))
            if self.cache is not None:
                self.cache.put((keys[each], decoded) for each, decoded in made.items() if decoded.traces)
            done.update(made)
            bar.update(len(places))

        longest = thinking.max_tokens + 2
        lengths = [(len(ids) + longest) * thinking.samples for _, ids in missing]
        budget = min(self.tokens, self.reader.batch_tokens or self.tokens)
        # states of linear attention would see the padding before a prompt: only equal lengths together
        real = 1.0 if self.reader.backbone.recurrent else 0.0
        with tqdm(total=len(missing), unit="query", desc="think", disable=not pace.bar) as bar:
            fitted = within_memory(lengths, budget, run, real=real, rows=pace.rows)
        if fitted < budget:
            self.tokens = fitted
        return [done[name, row.ids] for name, row in zip(names, prompts, strict=True)]

    def _think(
        self,
        prompts: Sequence[Row],
        names: Sequence[str],
        thinking: Thinking,
        gate: Opens | None,
        told: Told | None,
    ) -> list[Decoded]:
        layout = self.reader.layout
        with fast_linear():
            decoded = think_rows(
                self.reader.backbone,
                layout,
                prompts,
                thinking,
                names=names,
                pad_id=self.reader.pad_id,
                suppress=self.suppress,
                # an engine writes the thoughts: here only the prompts are read
                gate=gate if self.engine is None else lambda signal: False,
                told=told,
            )
        thought = sum(len(trace.token_ids) + 2 for each in decoded for trace in each.traces)
        self.reader.tokens_read += sum(len(row.ids) for row in prompts) + thought
        if self.engine is not None:
            decoded = self._with_engine(self.engine, prompts, decoded, thinking, gate)
        if layout.two_read_outs and not layout.latent_steps:
            return decoded
        # v_q has a row of its own: the prompt without <thought>, which ends with <emb> or latent steps
        vectors = self.reader.read([thoughtless_row(layout, row) for row in prompts])
        return [replace(each, v_q=torch.from_numpy(v)) for each, v in zip(decoded, vectors, strict=True)]

    def _with_engine(
        self,
        engine: Engine,
        prompts: Sequence[Row],
        decoded: Sequence[Decoded],
        thinking: Thinking,
        gate: Opens | None,
    ) -> list[Decoded]:
        """Let the engine write, and read v_t here in a full pass."""
        layout = self.reader.layout
        chosen = [n for n, each in enumerate(decoded) if gate is None or gate(each.signal)]
        written = engine.write(
            [prompts[n].ids for n in chosen],
            thinking,
            eos=layout.eos,
            banned=sorted({*self.suppress, *layout.control_ids}),
        )
        rows = [
            thought_row(layout, prompts[n], each.token_ids)
            for n, own in zip(chosen, written, strict=True)
            for each in own
        ]
        vectors = iter(self.reader.read(rows))
        traces = {
            n: [Trace(each.token_ids, each.finished, torch.from_numpy(next(vectors))) for each in own]
            for n, own in zip(chosen, written, strict=True)
        }
        return [replace(each, traces=traces.get(n, [])) for n, each in enumerate(decoded)]

    def _origin(self, thinking: Thinking) -> tuple[object, ...]:
        if not self.digest:
            raise InputError("thoughts are filed under their checkpoint; save this model and load it first")
        return (
            self.digest,
            msgspec.json.encode(self.reader.layout),
            str(next(self.reader.backbone.parameters()).dtype),
            "" if self.engine is None else self.engine.name,
            (thinking.temperature, thinking.top_p, thinking.max_tokens, thinking.seed),
        )
