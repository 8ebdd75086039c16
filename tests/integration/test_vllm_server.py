"""`o1-synth think` against a real vLLM server on the CPU (nox -s vllm).

The model is a LLaMA whose weights are written down rather than trained, so that what it says can
be checked: every query has four words that no other query has, the model's uniform attention
counts words, and its head can only say query words. A thought is then made of its own query's
words, and a thought filed under another query shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from o1_records import Query, Thought, read_jsonl, write_jsonl

pytestmark = pytest.mark.vllm

QUERIES, SAMPLES, WORDS = 50, 3, 4
TOKENS = 12
STARTUP_SECONDS = 300  # 80 s on two busy cores; an early end is noticed at once
SPECIALS = ["<unk>", "<s>", "</s>"]


def words_of(number: int) -> list[str]:
    return [f"{stem}{number}" for stem in ("amber", "birch", "cedar", "dune")]


def query(number: int) -> Query:
    return Query(query_id=f"q{number}", text=" ".join(words_of(number)))


def write_counting_llama(folder: Path) -> None:
    """A one-layer LLaMA that says the query words of its prompt, the frequent ones first.

    Token i is the unit vector e_i (special tokens: zero). Queries and keys are zero, so attention
    is uniform and its output, moved by o_proj to the upper half, is the count of each word. The
    head reads the upper half alone.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = SPECIALS + [word for number in range(QUERIES) for word in words_of(number)]
    width = 256
    assert len(vocabulary) <= width
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=2 * width,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    spoken = range(len(SPECIALS), len(vocabulary))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        layer = model.model.layers[0].self_attn
        for token in spoken:
            model.model.embed_tokens.weight[token, token] = 1.0
            layer.v_proj.weight[token, token] = 1.0
            layer.o_proj.weight[width + token, token] = 10.0
            model.lm_head.weight[token, width + token] = 4.0
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


@contextlib.contextmanager
def vllm_server(model: Path, log: Path):
    """Start the server in a process group of its own, yield its base URL, kill the group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--served-model-name", "counting-llama"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "32"]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with open(log, "wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        wait_until_it_answers(server, port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        # pytest shows this only when the test fails.
        print(log.read_text(errors="replace")[-8000:])


def wait_until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended early with code {server.returncode}"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the server did not answer within {STARTUP_SECONDS} s")


def o1_synth_think(base_url: str, folder: Path, model: str = "counting-llama"):
    script = str(Path(sys.executable).with_name("o1-synth"))
    command = [script, "think", "--base-url", base_url]
    command += ["--model", model, "--queries", str(folder / "queries.jsonl")]
    command += ["--out", str(folder / "thoughts.jsonl"), "--samples", str(SAMPLES)]
    command += ["--max-tokens", str(TOKENS), "--temperature", "1", "--top-p", "1"]
    command += ["--checks", "none"]  # the counting model only ever says words of the query
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def ask_directly(base_url: str, thought: Thought) -> str:
    """What the server says when it is asked for this one thought alone, without o1-synth."""
    from o1_synth import Prompt

    body = {
        "model": "counting-llama",
        "messages": Prompt().messages(query(int(thought.query_id[1:]))),
        "temperature": 1,
        "max_tokens": TOKENS,
        "seed": thought.source.seed,
    }
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"].strip()


def test_every_thought_of_a_real_vllm_server_belongs_to_its_query(tmp_path):
    model = tmp_path / "model"
    write_counting_llama(model)
    write_jsonl(tmp_path / "queries.jsonl", (query(number) for number in range(QUERIES)))
    with vllm_server(model, tmp_path / "server.log") as base_url:
        unknown = o1_synth_think(base_url, tmp_path, model="another")
        assert unknown.returncode == 4
        assert "'another'" in unknown.stderr and "counting-llama" in unknown.stderr
        assert not (tmp_path / "thoughts.jsonl").exists()

        run = o1_synth_think(base_url, tmp_path)
        assert run.returncode == 0, run.stderr
        thoughts = list(read_jsonl(tmp_path / "thoughts.jsonl", Thought))
        keys = sorted((t.query_id, t.thought_id) for t in thoughts)
        wanted = [(f"q{n}", f"q{n}#{s}") for n in range(QUERIES) for s in range(SAMPLES)]
        assert keys == sorted(wanted)
        for thought in thoughts:
            own = set(words_of(int(thought.query_id[1:])))
            said = thought.text.split()
            assert len(said) == thought.source.completion_tokens == TOKENS
            assert set(said) <= own, f"{thought.query_id} got {thought.text!r}"
            assert thought.source.finish_reason == "length"
            assert thought.source.revision == str(model)

        # Samples are filed under the seed that made them: the same request again, one at a time.
        assert len({thought.source.seed for thought in thoughts}) == len(thoughts)
        assert len({thought.text for thought in thoughts}) > QUERIES
        for thought in thoughts[::5]:
            assert ask_directly(base_url, thought) == thought.text

        again = o1_synth_think(base_url, tmp_path)
        assert again.returncode == 0, again.stderr
        assert list(read_jsonl(tmp_path / "thoughts.jsonl", Thought)) == thoughts
