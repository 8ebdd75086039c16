"""Queries a second when the model thinks first: ours against generate, decode and encode again.

    python benchmarks/think.py                       # 64 queries, 3 thoughts of 128 tokens
    python benchmarks/think.py --queries 8 --tokens 16

A Qwen2 of 25 million parameters (vocabulary 16,384, random weights). Every line of JSON comes from a
process of its own: {name, items, seconds, items_per_s, peak_rss_mb}. The baseline is the plain way:
transformers' `generate` in batches of 16 rows, every sample with a prefill of its own, then text,
tokens again and a second pass over query and thought. The lines after "ours" take one thing away
each; the last line says how much each is worth. With random weights no thought ends early, so "ends
early" is measured on its own, with EOS made as likely as one token in half a thought.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LogitsProcessorList, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import o1_model.thinking.decoder
from o1_model import Embedder, Thinking, aggregate
from o1_model.backbone import Backbone
from o1_model.layout import new_layout, prompt_row, query_row, text_ids
from o1_model.thinking.aggregate import stacked

VOCABULARY = 16_384
BATCH = 16
ONE_AT_A_TIME = {
    "without shared prefill": "shared prefill",
    "without cache read-out": "cache read-out",
    "in batches of 16 rows": "large batches",
    "without oneDNN": "linear layers through oneDNN (where there is AVX-512)",
}


class Likely:
    """Makes EOS as likely as one token in `length`, whatever the model says of the others."""

    def __init__(self, eos: int, length: int) -> None:
        self.eos, self.share = eos, 1 / length

    def __call__(self, _ids: Any, logits: torch.Tensor) -> torch.Tensor:
        """The logits with another one for EOS; as transformers calls a LogitsProcessor."""
        logits[:, self.eos] = logits.logsumexp(dim=-1) + math.log(self.share / (1 - self.share))
        return logits


def the_model(args: argparse.Namespace) -> Embedder:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", *(f"w{number}" for number in range(VOCABULARY - 8))]
    backend = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    layout = new_layout(tokenizer, thought_length=args.tokens)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1408, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    lm = Qwen2ForCausalLM(config).to(getattr(torch, args.dtype))
    embedder = Embedder(Backbone(lm, layout.control_ids), layout, tokenizer, name="random Qwen2")
    if args.ends_early:
        plain, likely = embedder.backbone.logits, Likely(layout.eos, args.tokens // 2)
        embedder.backbone.logits = lambda states: likely(None, plain(states))
    return embedder


def the_queries(count: int) -> list[str]:
    numbers = np.random.default_rng(0)
    return [
        " ".join(f"w{word}" for word in numbers.integers(0, VOCABULARY - 8, size=length))
        for length in numbers.integers(8, 31, size=count)
    ]


def ours(embedder: Embedder, queries: Sequence[str], thinking: Thinking) -> None:
    embedder.encode_query(queries, think=thinking)


def without_shared_prefill(embedder: Embedder, queries: Sequence[str], thinking: Thinking) -> None:
    ids = text_ids(embedder.tokenizer, queries)
    rows = [prompt_row(embedder.layout, own) for own in ids for _ in range(thinking.samples)]
    names = [f"{n}" for n in range(len(rows))]  # equal prompts of one name would be read once
    decoded = embedder.decoder(rows, names, replace(thinking, samples=1))
    aggregate(np.stack([each.v_q.numpy() for each in decoded]), stacked([each.traces for each in decoded]))


def without_cache_readout(embedder: Embedder, queries: Sequence[str], thinking: Thinking) -> None:
    _, traces = embedder.decode(queries, thinking)
    ids = text_ids(embedder.tokenizer, queries)
    pairs = [(own, trace.token_ids) for own, row in zip(ids, traces, strict=True) for trace in row]
    embedder.read([query_row(embedder.layout, own, thought) for own, thought in pairs])


def in_small_batches(embedder: Embedder, queries: Sequence[str], thinking: Thinking) -> None:
    prompt = max(len(ids) for ids in text_ids(embedder.tokenizer, queries)) + 4
    embedder.decoder.tokens = BATCH * (prompt + thinking.max_tokens + 2)
    embedder.encode_query(queries, think=thinking)


def without_onednn(embedder: Embedder, queries: Sequence[str], thinking: Thinking) -> None:
    o1_model.thinking.decoder.fast_linear = nullcontext
    embedder.encode_query(queries, think=thinking)


def without_thinking(embedder: Embedder, queries: Sequence[str], _: Thinking) -> None:
    embedder.encode_query(queries)


@torch.inference_mode()
def baseline(embedder: Embedder, queries: Sequence[str], thinking: Thinking) -> None:
    lm, layout, tokenizer = embedder.backbone.lm, embedder.layout, embedder.tokenizer
    ids = [own for own in text_ids(tokenizer, queries) for _ in range(thinking.samples)]
    texts = []
    for batch in _of_sixteen([list(prompt_row(layout, own).ids) for own in ids]):
        padded, mask = _padded(batch, left=True)
        output = lm.generate(
            input_ids=padded, attention_mask=mask, do_sample=True, temperature=thinking.temperature,
            top_p=thinking.top_p, top_k=0, max_new_tokens=thinking.max_tokens, eos_token_id=layout.eos,
            pad_token_id=0, logits_processor=_processors(embedder),
        )  # fmt: skip
        texts += tokenizer.batch_decode(output[:, padded.shape[1] :], skip_special_tokens=True)
    again = text_ids(tokenizer, texts)
    rows = [list(query_row(layout, own, thought).ids) for own, thought in zip(ids, again, strict=True)]
    vectors = []
    for batch in _of_sixteen(rows):
        padded, mask = _padded(batch, left=False)
        states = lm.model(input_ids=padded, attention_mask=mask).last_hidden_state
        last = states[torch.arange(len(batch)), mask.sum(dim=1) - 1]
        vectors.append(torch.nn.functional.normalize(last.float(), dim=-1))
    torch.cat(vectors).view(len(queries), thinking.samples, -1).mean(dim=1)


def _processors(embedder: Embedder) -> LogitsProcessorList:
    early = embedder.backbone.logits.__name__ == "<lambda>"
    return LogitsProcessorList(
        [Likely(embedder.layout.eos, embedder.layout.thought_length // 2)] if early else []
    )


def _of_sixteen(rows: list[list[int]]) -> list[list[list[int]]]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def _padded(rows: list[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    padding = [[0] * (width - len(row)) for row in rows]
    pairs = [(pad, row) if left else (row, pad) for pad, row in zip(padding, rows, strict=True)]
    real = [([0] * len(pad), [1] * len(row)) for pad, row in zip(padding, rows, strict=True)]
    mask = [pad + row if left else row + pad for pad, row in real]
    return torch.tensor([first + second for first, second in pairs]), torch.tensor(mask)


WAYS: dict[str, Callable[[Embedder, Sequence[str], Thinking], None]] = {
    "baseline": baseline,
    "ours": ours,
    "without shared prefill": without_shared_prefill,
    "without cache read-out": without_cache_readout,
    "in batches of 16 rows": in_small_batches,
    "without oneDNN": without_onednn,
    "without thinking": without_thinking,
}


def measure(args: argparse.Namespace) -> None:
    embedder, queries = the_model(args), the_queries(args.queries)
    thinking = Thinking(samples=args.samples, max_tokens=args.tokens)
    way = WAYS[args.way]
    way(embedder, queries[:2], replace(thinking, max_tokens=2))
    embedder = the_model(args)
    start = time.perf_counter()
    way(embedder, queries, thinking)
    seconds = time.perf_counter() - start
    name = f"{args.way}{', thoughts end early' if args.ends_early else ''} ({args.dtype})"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "name": name,
                "items": len(queries),
                "seconds": round(seconds, 3),
                "items_per_s": round(len(queries) / seconds, 3),
                "peak_rss_mb": round(peak),
            }
        )
    )


def apart(args: argparse.Namespace, way: str, *, dtype: str = "float32", ends_early: bool = False) -> float:
    """Seconds of one way in a process of its own; its line is printed."""
    command = [sys.executable, __file__, "--way", way, "--dtype", dtype]
    command += ["--queries", str(args.queries), "--samples", str(args.samples), "--tokens", str(args.tokens)]
    run = subprocess.run(
        [*command, *(["--ends-early"] if ends_early else [])], check=True, stdout=subprocess.PIPE, text=True
    )
    line = run.stdout.splitlines()[-1]
    print(line, flush=True)
    seconds: float = json.loads(line)["seconds"]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--way", choices=sorted(WAYS), help="measure this one, in this process")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--ends-early", action="store_true")
    args = parser.parse_args()
    if args.way is not None:
        measure(args)
        return
    plain, fast = apart(args, "baseline"), apart(args, "ours")
    worth = {what: round(apart(args, way) / fast, 2) for way, what in ONE_AT_A_TIME.items()}
    worth["bfloat16 instead of float32"] = round(fast / apart(args, "ours", dtype="bfloat16"), 2)
    early = [apart(args, way, ends_early=True) for way in ("baseline", "ours")]
    quick = apart(args, "without thinking")
    print(
        json.dumps(
            {
                "name": "think, ours against the baseline",
                "times_as_fast": round(plain / fast, 2),
                "times_as_fast_where_thoughts_end_early": round(early[0] / early[1], 2),
                "worth_of_each": worth,
                "thinking_costs_as_much_as_queries_without": round(fast / quick, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
