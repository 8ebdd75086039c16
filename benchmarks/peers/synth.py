"""Asking a server for thoughts: `o1_synth.think` against a plain aiohttp client that throws answers away.

The server (tests/faults/server.py) answers after a fixed time and has a process of its own; its CPU time
counts in both. Ours checks every answer, files it and publishes a file.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Arrays, Disagreement, Job, Side, Size, Work, main

SERVER = Path(__file__).parents[2] / "tests" / "faults" / "server.py"


def asked(size: Size) -> list[str]:
    return [f"how does number {number} work" for number in range(size["queries"])]


def serving(size: Size) -> str:
    """Start a server and return its base_url; it ends with this process, which holds its stdin."""
    command = [sys.executable, str(SERVER), "--delay", str(size["latency"])]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _SERVERS.append(server)
    assert server.stdout is not None
    return str(json.loads(server.stdout.readline())["base_url"])


_SERVERS: list[subprocess.Popen[str]] = []  # a Popen that is forgotten closes the stdin of its server


def ours(folder: Path, size: Size) -> Work:
    from o1_records import Query, Thought, read_jsonl
    from o1_synth import ChatExpert, Checks, Job, think

    base_url, texts = serving(size), asked(size)
    # what the server says differs from sample to sample only in the seed: no sample is drawn twice
    checks = Checks(names=("refusal", "echo", "loop", "language"))

    def work() -> Callable[[], Arrays]:
        out = Path(tempfile.mkdtemp(dir=folder)) / "thoughts.jsonl"
        think(
            (Query(query_id=f"q{number:07}", text=text) for number, text in enumerate(texts)),
            ChatExpert(base_url, "echo", stream=False),
            out=out,
            samples=size["samples"],
            concurrency=size["concurrency"],
            job=Job(checks=checks),
        )
        return lambda: answers([thought.text for thought in read_jsonl(out, Thought)])

    return work


def plain(_folder: Path, size: Size) -> Work:
    import aiohttp

    base_url, texts = serving(size), asked(size)

    async def every() -> list[str]:
        pairs = iter([(text, seed) for text in texts for seed in range(size["samples"])])
        found: list[str] = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

            async def worker() -> None:
                for text, seed in pairs:
                    message = {"role": "user", "content": f"```\n{text}\n```\n"}
                    body = {"model": "echo", "messages": [message], "seed": seed}
                    async with client.post(f"{base_url}/chat/completions", json=body) as response:
                        answer = json.loads(await response.read())
                    found.append(answer["choices"][0]["message"]["content"])

            await asyncio.gather(*(worker() for _ in range(size["concurrency"])))
        return found

    def work() -> Callable[[], Arrays]:
        found = asyncio.run(every())
        return lambda: answers(found)

    return work


def answers(texts: list[str]) -> Arrays:
    """Return what was said, without the seed at its end, sorted."""
    return {"said": np.array(sorted(text.rpartition(" with seed ")[0] for text in texts))}


def agree(found: dict[str, Arrays], size: Size) -> dict[str, str]:
    own, theirs = found["ours"]["said"], found["aiohttp"]["said"]
    if len(own) != size["queries"] * size["samples"] or not np.array_equal(own, theirs):
        raise Disagreement(f"{len(own)} and {len(theirs)} answers, or other ones")
    return {"aiohttp": f"the same {len(own):,} answers"}


JOB = Job(
    name="synth",
    file=__file__,
    what="{queries:,} queries x {samples}, {concurrency} at once, a server that takes {latency} s",
    unit="requests",
    items=lambda size: size["queries"] * size["samples"],
    sides={"ours": Side(ours, ["o1-synth", "aiohttp"]), "aiohttp": Side(plain, ["aiohttp"])},
    prepare=lambda _folder, _size: None,
    agree=agree,
    full={"queries": 1000, "samples": 3, "concurrency": 64, "latency": 0.05},
    smoke={"queries": 4, "samples": 2, "concurrency": 4, "latency": 0.01},
    goal=0.97,
    repeats=3,
)
JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
