"""What a streamed token costs the client: `o1_synth.think` against the OpenAI SDK and plain httpx2.

    python benchmarks/synth_stream.py                       # 64 streams of 200 tokens, one each 20 ms
    python benchmarks/synth_stream.py --streams 256 --gap 0.05

The server, a process of its own, sends an event for each token to every stream. Prints one JSON line
each: seconds and their `share` of the ideal (tokens * gap), the client's CPU time for a token in
microseconds, and how many tokens a second one core could therefore take. Last, the ratios of CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKEN = {"model": "echo", "choices": [{"index": 0, "delta": {"content": " word"}}]}
END = {"model": "echo", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--gap", type=float, default=0.02, help="seconds between the tokens of a stream")
    parser.add_argument("--serve", action="store_true", help="be the server")
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args))
        return
    server = subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        base_url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        ways = {"o1_synth.think": ours, "OpenAI SDK": openai_sdk, "plain httpx2": plain_httpx2}
        costs = {name: measured(name, way, base_url, args) for name, way in ways.items()}
    finally:
        server.kill()
        server.wait()
    base = costs["o1_synth.think"]
    print(json.dumps({"name": "times o1_synth.think", **{n: round(c / base, 2) for n, c in costs.items()}}))


def measured(name, way, base_url, args):
    way(base_url, args, 2)  # imports and connections
    began, cpu = time.perf_counter(), time.process_time()
    way(base_url, args, args.streams)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    tokens = args.streams * args.tokens
    line = {
        "name": name,
        "items": tokens,
        "seconds": round(seconds, 3),
        "share": round(args.tokens * args.gap / seconds, 3),
        "cpu_us_per_token": round(1e6 * cpu / tokens, 1),
        "tokens_per_s_and_core": round(tokens / cpu),
    }
    print(json.dumps(line), flush=True)
    return cpu / tokens


def ours(base_url, args, streams):
    from o1_records import Query
    from o1_synth import ChatExpert, think

    queries = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(streams)]
    with tempfile.TemporaryDirectory() as folder:
        expert = ChatExpert(base_url, "echo")
        out = Path(folder) / "t.jsonl"
        summary = think(queries, expert, out=out, samples=1, concurrency=streams)
    assert summary.thoughts == streams, summary


def openai_sdk(base_url, args, streams):
    from openai import AsyncOpenAI

    async def one(client):
        messages = [{"role": "user", "content": "how"}]
        stream = await client.chat.completions.create(model="echo", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == " word" * args.tokens

    async def all_of_them():
        async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
            await asyncio.gather(*(one(client) for _ in range(streams)))

    asyncio.run(all_of_them())


def plain_httpx2(base_url, args, streams):
    import httpx2

    async def one(client):
        async with client.stream("POST", f"{base_url}/chat/completions", content=b"{}") as response:
            lines = [line[6:] async for line in response.aiter_lines() if line.startswith("data: {")]
        text = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines]
        assert "".join(text) == " word" * args.tokens

    async def all_of_them():
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(timeout=None, limits=limits) as client:
            await asyncio.gather(*(one(client) for _ in range(streams)))

    asyncio.run(all_of_them())


async def serve(args):
    """Answer with the models, or with a stream of tokens."""
    token, end = event(TOKEN), event(END) + b"6\r\ndata: \r\n8\r\n[DONE]\n\n\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    models = json.dumps({"object": "list", "data": [{"id": "echo"}]}).encode()

    async def answer(reader, writer):
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                if asked.startswith(b"GET"):
                    size = b"content-length: %d\r\n\r\n" % len(models)
                    writer.write(b"HTTP/1.1 200 OK\r\n" + size + models)
                    continue
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", asked, re.IGNORECASE)[1]))
                writer.write(head)
                due = asyncio.get_running_loop().time()
                for _ in range(args.tokens):
                    due += args.gap
                    await asyncio.sleep(due - asyncio.get_running_loop().time())
                    writer.write(token)
                writer.write(end)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def event(body):
    """A server-sent event as a chunk of HTTP."""
    data = b"data: " + json.dumps(body).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


if __name__ == "__main__":
    main()
