"""Synthesis speed: `o1_synth.think` against a server of fixed latency, and against the ideal.

    python benchmarks/synth.py                              # 1,000 queries x 3, 50 ms, 64 at a time
    python benchmarks/synth.py --queries 1000000 --plan     # memory of a large job, nothing asked

The server (tests/faults/server.py) has a process of its own. Prints one JSON line each for
- the ideal, requests * latency / concurrency: a client that costs nothing;
- a plain client: aiohttp in as many coroutines, answers thrown away; once with a single coroutine, which
  says how long the server really takes;
- ours: a fresh job, from the first request to the published file; its `share` of the ideal and of
  the plain client (goals: 95 % of each), its journal's share of the time (goal: at most 5 %).
With `--plan`, planning and listing a job of that many queries instead; run it at several sizes to
see that the memory stays flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from o1_records import Query
from o1_synth import ChatExpert, Checks, Job, think
from o1_synth.job.journal import Journal

SERVER = Path(__file__).parents[1] / "tests" / "faults" / "server.py"
# triples of words differ from sample to sample only in the seed: no sample is drawn twice
CHECKS = Checks(names=("refusal", "echo", "loop", "language"))


def report(name, items, seconds, **more):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {
        "name": name,
        "items": items,
        "seconds": round(seconds, 3),
        "items_per_s": round(items / seconds, 1),
        "peak_rss_mb": round(peak),
    }
    print(json.dumps({**line, **more}), flush=True)


def queries(count):
    return (Query(query_id=f"q{n:07}", text=f"how does number {n} work") for n in range(count))


async def plain_client(base_url, requests, concurrency):
    numbers = iter(range(requests))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def worker():
            for number in numbers:
                prompt = f"```\nhow does number {number} work\n```\n"
                body = {"model": "echo", "messages": [{"role": "user", "content": prompt}], "seed": number}
                async with client.post(f"{base_url}/chat/completions", json=body) as response:
                    json.loads(await response.read())

        await asyncio.gather(*(worker() for _ in range(concurrency)))


class TimedJournal:
    """How long all commits of a run took."""

    def __init__(self):
        self.seconds = 0.0
        record = Journal.record

        def timed(journal, *args, **options):
            began = time.perf_counter()
            record(journal, *args, **options)
            self.seconds += time.perf_counter() - began

        Journal.record = timed


def ours(base_url, args, folder, stream):
    journal = TimedJournal()
    expert = ChatExpert(base_url, "echo", stream=stream)
    began = time.perf_counter()
    summary = think(
        queries(args.queries),
        expert,
        out=folder / f"t{stream}.jsonl",
        samples=args.samples,
        concurrency=args.concurrency,
        job=Job(checks=CHECKS),
    )
    seconds = time.perf_counter() - began
    if summary.thoughts != args.queries * args.samples:
        sys.exit(f"{summary}")
    return seconds, journal.seconds


def ask(args):
    command = [sys.executable, str(SERVER), "--delay", str(args.latency), "--stream"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    base_url = json.loads(server.stdout.readline())["base_url"]
    requests = args.queries * args.samples
    ideal = requests * args.latency / args.concurrency
    report("ideal", requests, ideal)
    try:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            asyncio.run(plain_client(base_url, requests, args.concurrency))
            plain = time.perf_counter() - began
            report("plain aiohttp client", requests, plain, share_of_ideal=round(ideal / plain, 3))
            began = time.perf_counter()
            asyncio.run(plain_client(base_url, 40, 1))
            report("one at a time", 40, time.perf_counter() - began)
            for stream in (False, True):
                seconds, journal = ours(base_url, args, Path(folder), stream)
                report(
                    "o1_synth.think, streamed" if stream else "o1_synth.think",
                    requests,
                    seconds,
                    share_of_ideal=round(ideal / seconds, 3),
                    share_of_plain=round(plain / seconds, 3),
                    journal_share=round(journal / seconds, 3),
                )
    finally:
        server.stdin.close()
        server.wait(20)


def plan(args):
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with Journal(Path(folder) / "t.jsonl", Query, {}) as journal:
            journal.plan(queries(args.queries))
            listed = sum(1 for _ in journal.remaining(args.samples, 1))
        report("plan and list", listed, time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds of the server")
    parser.add_argument("--plan", action="store_true", help="measure planning alone")
    args = parser.parse_args()
    if args.plan:
        plan(args)
    else:
        ask(args)


if __name__ == "__main__":
    main()
