"""What the tests of vLLM share (nox -s vllm): its surroundings on a CPU, its server, a model that counts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from o1_records import Query

ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
STARTUP_SECONDS = 300  # 80 s on two busy cores; an early end is noticed at once
SPECIALS = ["<unk>", "<s>", "</s>"]
QUERIES = 50


@pytest.fixture
def vllm_on_a_cpu(monkeypatch):
    """Settings of vLLM for this process and those that it starts."""
    for name, value in ON_A_CPU.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def vllm_server(vllm_on_a_cpu, tmp_path):
    """Starts a server: `with vllm_server(model, served_name, *options) as address`."""

    @contextlib.contextmanager
    def serve(model: Path, name: str, *options: str) -> Iterator[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(model), "--served-model-name", name, *options]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
        command += ["--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "32"]
        log = tmp_path / "server.log"
        with open(log, "wb") as file:
            server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            wait_until_it_answers(server, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            # pytest shows this only when the test fails.
            print(log.read_text(errors="replace")[-8000:])

    return serve


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


def words_of(number: int) -> list[str]:
    return [f"{stem}{number}" for stem in ("amber", "birch", "cedar", "dune")]


@dataclass(frozen=True)
class CountingLlama:
    """A model whose weights are written down rather than trained, so that what it says can be checked.

    Every query has four words that no other query has, the model's uniform attention counts words,
    and its head can only say query words. A thought is then made of its own query's words, and a
    thought filed under another query shows.
    """

    folder: Path
    queries: list[Query]

    def words(self, query_id: str) -> set[str]:
        """What it can say about a query."""
        return set(words_of(int(query_id[1:])))


@pytest.fixture
def counting_llama(tmp_path):
    folder = tmp_path / "counting-llama"
    write_counting_llama(folder)
    queries = [Query(query_id=f"q{n}", text=" ".join(words_of(n))) for n in range(QUERIES)]
    return CountingLlama(folder, queries)


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
