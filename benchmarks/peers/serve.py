"""Serving embeddings: `o1-model serve` against infinity; clients that ask one short query after another.

O1_INFINITY_PYTHON names the Python of an environment with infinity-emb, sentence-transformers and aiohttp;
infinity asks for numpy 1. The CPU time of client and server are counted in both.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Arrays,
    Job,
    Side,
    Size,
    Work,
    main,
    minilm,
    passages,
    refuse_other_directions,
)

STARTS_WITHIN = 300.0  # seconds


def prepare(folder: Path, size: Size) -> None:
    texts = passages(size["requests"], size["words"])
    (folder / "texts.json").write_text(json.dumps(texts))


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def asking(command: list[str], port: int, folder: Path, size: Size) -> Work:
    """Start a server, wait until it answers, and return a load of requests."""
    texts: list[str] = json.loads((folder / "texts.json").read_text())
    server = subprocess.Popen([sys.executable, "-m", *command], stdout=sys.stderr)
    atexit.register(server.terminate)
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    began = time.monotonic()
    while not asyncio.run(_answers(url)):
        if server.poll() is not None or time.monotonic() - began > STARTS_WITHIN:
            raise SystemExit(f"{command[0]} does not answer at {url}")
        time.sleep(0.2)
    work = _Load(url, texts, size["clients"])
    _Load(url, texts[: size["clients"]], size["clients"])()
    return work


async def _answers(url: str) -> bool:
    import aiohttp

    try:
        async with aiohttp.ClientSession() as client:
            await _embedded(client, url, "is anybody there")
    except aiohttp.ClientError:
        return False
    return True


async def _embedded(client: Any, url: str, text: str) -> list[float]:
    async with client.post(url, json={"input": text, "model": "minilm"}) as response:
        response.raise_for_status()
        answer = json.loads(await response.read())
    vector: list[float] = answer["data"][0]["embedding"]
    return vector


class _Load:
    """Clients that share a list of texts and ask one at a time."""

    def __init__(self, url: str, texts: list[str], clients: int) -> None:
        self.url, self.texts, self.clients = url, texts, clients

    def __call__(self) -> Arrays:
        return asyncio.run(self._run())

    async def _run(self) -> Arrays:
        import aiohttp

        vectors: list[list[float]] = [[] for _ in self.texts]
        seconds = np.zeros(len(self.texts))
        remaining = iter(range(len(self.texts)))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def client() -> None:
                for place in remaining:
                    began = time.perf_counter()
                    vectors[place] = await _embedded(session, self.url, self.texts[place])
                    seconds[place] = time.perf_counter() - began

            await asyncio.gather(*(client() for _ in range(self.clients)))
        return {"vectors": np.array(vectors, dtype=np.float32), "seconds": seconds}


def ours(folder: Path, size: Size) -> Work:
    port = free_port()
    command = ["o1_model", "serve", "--model", minilm(), "--port", str(port), "--device", "cpu"]
    return asking([*command, "--served-model-name", "minilm"], port, folder, size)


def infinity(folder: Path, size: Size) -> Work:
    port = free_port()
    command = ["infinity_emb.cli", "v2", "--model-id", minilm(), "--served-model-name", "minilm"]
    command += ["--port", str(port), "--url-prefix", "/v1", "--engine", "torch", "--device", "cpu"]
    command += ["--dtype", "float32", "--no-bettertransformer", "--no-model-warmup"]
    command += ["--log-level", "warning"]  # a line for each request costs time
    return asking(command, port, folder, size)


def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    own = found["ours"]
    told = {}
    for side, each in found.items():
        p99 = float(np.quantile(each["seconds"], 0.99)) * 1000
        shared = "" if side == "ours" else refuse_other_directions(own["vectors"], each["vectors"], 0.9999)
        told[side] = ", ".join(filter(None, [f"p99 {p99:.0f} ms", shared]))
    return told


JOB = Job(
    name="serve",
    file=__file__,
    what="{clients} clients, {requests} queries of some {words} words, MiniLM",
    unit="requests",
    items=lambda size: size["requests"],
    sides={
        "ours": Side(ours, ["o1-model", "torch", "aiohttp"], "float32"),
        "infinity": Side(
            infinity,
            ["infinity-emb", "sentence-transformers", "torch", "aiohttp"],
            "float32",
            "O1_INFINITY_PYTHON",
        ),
    },
    prepare=prepare,
    agree=agree,
    full={"clients": 64, "requests": 800, "words": 22},
    smoke={"clients": 2, "requests": 4, "words": 5},
    repeats=3,
)
JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
