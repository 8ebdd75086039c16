"""Reading speed of records, and the memory of reading many keys.

    python benchmarks/records.py                        # 20,000 examples of 6 KB, 1,000,000 keys
    python benchmarks/records.py --keys 8800000         # as many as MS MARCO has passages

Prints one JSON line each for the decoder alone (msgspec), for `read_jsonl` (every check) and for
`json.loads` of the same file, then one for the memory of a `KeySet`. Goals: 20,000 examples decode
in 0.2 s; 8.8 million keys take well under 500 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import msgspec

from o1_records import Document, Example, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.keys import KeySet


def example(number, size, rng):
    words = [f"word{rng.randrange(5000)}" for _ in range(size // 18)]
    text = " ".join(words)
    documents = tuple(Document(doc_id=f"d{number}-{n}", text=text) for n in range(2))
    query_id = f"q{number}"
    source = Source(model="model", seed=number)
    thought = Thought(query_id=query_id, thought_id=f"{query_id}#0", text=text[: size // 8], source=source)
    query = Query(query_id=query_id, text=" ".join(words[:8]))
    return Example(query=query, positives=documents[:1], negatives=documents[1:], thought=thought)


def timed(name, items, work, repeats):
    """The best of several runs: the machine only adds."""
    seconds = min(_seconds(work) for _ in range(repeats))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {
        "name": name,
        "items": items,
        "seconds": round(seconds, 4),
        "items_per_s": round(items / seconds),
        "peak_rss_mb": round(peak),
    }
    print(json.dumps(line), flush=True)


def _seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def decode(lines):
    decoder = msgspec.json.Decoder(Example)
    for line in lines:
        decoder.decode(line)


def consume(items):
    for _ in items:
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=6_000, help="of an example")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "examples.jsonl"
        write_jsonl(path, (example(number, args.bytes, rng) for number in range(args.examples)))
        shape = f"{args.examples} examples of {path.stat().st_size // args.examples} bytes"
        lines = path.read_bytes().splitlines()
        timed(f"decode, {shape}", args.examples, partial(decode, lines), args.repeats)
        del lines
        whole = f"read_jsonl with every check, {shape}"
        timed(whole, args.examples, lambda: consume(read_jsonl(path, Example)), args.repeats)
        with open(path, "rb") as file:
            plain = [json.loads(line) for line in file][:1]
        assert plain[0]["query"]["query_id"] == "q0"
        baseline = lambda: consume(map(json.loads, open(path, "rb")))  # noqa: E731
        timed(f"json.loads, {shape}", args.examples, baseline, args.repeats)
    keys = KeySet()
    timed(f"KeySet, {args.keys} keys", args.keys, lambda: consume(map(keys.add, _names(args.keys))), 1)


def _names(count):
    return ((f"document-{number}",) for number in range(count))


if __name__ == "__main__":
    main()
