"""How the cost of each stage grows: seconds, memory and disk at 1, 10 and 100 times the input.

    python benchmarks/scale.py [--only embed,build] [--base 100] [--out scale.jsonl]
    python benchmarks/scale.py --report scale.jsonl > docs/scale.md

Each command runs in a process of its own on made-up input (words drawn as often as Zipf says, a random LLaMA
of 32 dimensions, random vectors, a server that answers at once). A JSON line a run: {stage, grows, rows,
seconds, cpu_seconds, peak_rss_mb, disk_mb}; cpu_seconds are those of the command and depend little on what
else the machine does. Then a line a stage with the exponents of `cost = a + b * rows ** exponent`, fitted
through the three runs; a stage whose seconds grow faster than n log n is marked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from o1_records import Document, Qrel, Query, Source, Thought, write_jsonl

TIMES = (1, 10, 100)
DIM = 64
PROBED = 200  # queries of a search, or of an election over a corpus that grows
CORPUS = 2_000  # documents of a stage whose queries grow
# n log n between 10 and 100 times 100 rows, fitted by a power; the rest is for noise
WORST = 1.35

Command = list[str]


def main() -> None:
    args = arguments()
    if args.report:
        report([json.loads(line) for line in args.report.read_text().splitlines()])
        return
    chosen = [name.strip() for name in args.only.split(",")] if args.only else list(STAGES)
    lines: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name, answering() as url:
        for stage in chosen:
            grows, per_base, prepare = STAGES[stage]
            runs = []
            for times in TIMES:
                folder = Path(name) / f"{stage} {times}".replace(" ", "-").replace(",", "")
                folder.mkdir()
                rows = args.base * per_base * times
                runs.append(
                    {"stage": stage, "grows": grows, "rows": rows, **cost(prepare(folder, rows, url), folder)}
                )
                print(json.dumps(runs[-1]), flush=True)
            seconds, memory = (
                exponent([float(run[key]) for run in runs]) for key in ("cpu_seconds", "peak_rss_mb")
            )
            fit = {"stage": stage, "seconds_exponent": seconds, "memory_exponent": memory}
            if seconds is not None and seconds > WORST:
                fit["worse_than_n_log_n"] = True
            print(json.dumps(fit), flush=True)
            lines += [*runs, fit]
            if args.out:
                args.out.write_text("".join(json.dumps(line) + "\n" for line in lines))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"of {', '.join(STAGES)}, with commas between")
    parser.add_argument("--base", type=int, default=100, help="rows at 1 times, of the smallest stage")
    parser.add_argument("--out", type=Path, help="JSONL with all lines")
    parser.add_argument(
        "--report", type=Path, help="print docs/scale.md from such a file, and measure nothing"
    )
    return parser.parse_args()


def cost(command: Command, folder: Path) -> dict[str, float]:
    """Run a command; return what it took, and what it left behind."""
    before, began = size(folder), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "stderr").open("w") as said:
        running = subprocess.Popen(
            [sys.executable, *command], stdout=said, stderr=said, cwd=folder, env=environment
        )
        _, status, used = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{(folder / 'stderr').read_text()[-3000:]}")
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_rss_mb": round(used.ru_maxrss / 1024),
        "disk_mb": round((size(folder) - before) / 1024**2, 2),
    }


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def exponent(costs: list[float]) -> float | None:
    """Return p of `a + b * n ** p` through the costs at 1, 10 and 100; None where start-up hides it."""
    small, middle, large = costs
    if middle - small <= 0.1 * small or large <= middle:
        return None
    grown = (large - small) / (middle - small)
    low, high = 1e-3, 4.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if (100**p - 1) / (10**p - 1) < grown else (low, p)
    return round(low, 2)


@contextmanager
def answering() -> Iterator[str]:
    """An OpenAI-compatible server in a thread that answers at once."""
    from aiohttp import web

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" not in body:
            return web.json_response({"error": {"message": "no messages"}}, status=400)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text(random.Random(body.get("seed", 0)), 40)},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 60, "completion_tokens": 60}
        return web.json_response({"choices": [choice], "usage": usage, "model": body["model"]})

    loop, ready = asyncio.new_event_loop(), threading.Event()
    place: list[int] = []

    async def start() -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        place.append(runner.addresses[0][1])
        ready.set()

    def serve() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    threading.Thread(target=serve, daemon=True).start()
    ready.wait()
    yield f"http://127.0.0.1:{place[0]}/v1"
    loop.call_soon_threadsafe(loop.stop)


# --- the stages ---------------------------------------------------------------------------------------

WORDS = [f"w{number:04d}" for number in range(5_000)]
WEIGHTS = list(np.cumsum([1 / (number + 1) for number in range(len(WORDS))]))


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, cum_weights=WEIGHTS, k=words))


def write_queries(folder: Path, count: int, corpus: int = 0) -> None:
    rng = random.Random(1)
    queries = [Query(query_id=f"q{n:07d}", text=text(rng, 8)) for n in range(count)]
    write_jsonl(folder / "queries.jsonl", queries)
    if corpus:
        judged = (
            Qrel(query_id=q.query_id, doc_id=f"d{n % corpus:07d}", relevance=1) for n, q in enumerate(queries)
        )
        write_jsonl(folder / "qrels.jsonl", judged)
        source = Source(model="none")
        write_jsonl(
            folder / "thoughts.jsonl",
            (
                Thought(query_id=q.query_id, thought_id=str(n), text=text(rng, 30), source=source)
                for q in queries
                for n in range(2)
            ),
        )


def write_corpus(folder: Path, count: int) -> None:
    rng = random.Random(2)
    documents = (Document(doc_id=f"d{n:07d}", text=text(rng, 60)) for n in range(count))
    write_jsonl(folder / "corpus.jsonl", documents)


def write_vectors(folder: Path, count: int, prefix: str) -> None:
    from o1_records.vectors import Encoder, VectorWriter

    encoder = Encoder(model="random", digest="0", layout="none", pooling="none", max_length=1)
    rng = np.random.default_rng(len(prefix))
    with VectorWriter(folder, encoder=encoder, source="random") as writer:
        for start in range(0, count, 8192):
            rows = min(8192, count - start)
            vectors = rng.standard_normal((rows, DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            writer.write([f"{prefix}{start + n:08d}" for n in range(rows)], vectors)
        writer.close()


def think(folder: Path, rows: int, url: str) -> Command:
    write_queries(folder, rows)
    asked = ["--base-url", url, "--model", "m", "--no-stream", "--samples", "1"]
    return ["-m", "o1_synth", "think", "--queries", "queries.jsonl", "--out", "thoughts.jsonl", *asked]


def elect(queries: int, documents: int) -> Callable[[Path, int, str], Command]:
    def prepare(folder: Path, rows: int, url: str) -> Command:
        corpus = documents or rows
        write_corpus(folder, corpus)
        write_queries(folder, queries or rows, corpus)
        given = ["--queries", "queries.jsonl", "--qrels", "qrels.jsonl", "--corpus", "corpus.jsonl"]
        more = ["--thoughts", "thoughts.jsonl", "--member", "bm25", "--out", "examples.jsonl"]
        return ["-m", "o1_vote", "elect", *given, *more]

    return prepare


def mine(queries: int, documents: int) -> Callable[[Path, int, str], Command]:
    def prepare(folder: Path, rows: int, url: str) -> Command:
        corpus = documents or rows
        write_corpus(folder, corpus)
        write_queries(folder, queries or rows, corpus)
        given = ["--queries", "queries.jsonl", "--qrels", "qrels.jsonl", "--corpus", "corpus.jsonl"]
        more = ["--member", "bm25", "--out", "mined.jsonl", "--reasons", "reasons.jsonl"]
        return ["-m", "o1_vote", "mine", *given, *more]

    return prepare


def embed(folder: Path, rows: int, url: str) -> Command:
    write_corpus(folder, rows)
    make = folder / "make.py"
    make.write_text(MODEL)
    done = subprocess.run([sys.executable, str(make), str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    read = ["--corpus", "corpus.jsonl", "--device", "cpu", "--document-length", "32"]
    return ["-m", "o1_model", "embed", "--model", "model", *read, "--out", "vectors"]


MODEL = """
import sys
from pathlib import Path
sys.path.insert(0, "{tests}")
from helpers.tiny import save_model, word_tokenizer
from o1_model import Embedder
folder = Path(sys.argv[1])
words = [f"w{{n:04d}}" for n in range(5000)]
save_model(folder / "plain", tokenizer=word_tokenizer(words))
Embedder.from_backbone(folder / "plain").save_pretrained(folder / "model")
""".format(tests=Path(__file__).parents[1] / "tests")


def build(folder: Path, rows: int, url: str) -> Command:
    write_vectors(folder / "vectors", rows, "d")
    return ["-m", "o1_index", "build", "--vectors", "vectors", "--factory", "HNSW32", "--out", "index"]


def search(queries: int, documents: int, factory: str) -> Callable[[Path, int, str], Command]:
    def prepare(folder: Path, rows: int, url: str) -> Command:
        write_vectors(folder / "vectors", documents or rows, "d")
        write_vectors(folder / "asked", queries or rows, "q")
        how = ["--factory", factory, "--out", "index"]
        build = [sys.executable, "-m", "o1_index", "build", "--vectors", "vectors", *how]
        subprocess.run(build, cwd=folder, check=True, capture_output=True)
        return [
            "-m",
            "o1_index",
            "search",
            "--index",
            "index",
            "--vectors",
            "asked",
            "--k",
            "10",
            "--out",
            "run.trec",
        ]

    return prepare


STAGES: dict[str, tuple[str, int, Callable[[Path, int, str], Command]]] = {
    "think": ("queries", 1, think),
    "elect": ("queries", 1, elect(0, CORPUS)),
    "elect by corpus": ("documents", 10, elect(PROBED, 0)),
    "mine": ("queries", 1, mine(0, CORPUS)),
    "mine by corpus": ("documents", 10, mine(PROBED, 0)),
    "embed": ("documents", 2, embed),
    "build": ("vectors", 10, build),
    "search": ("queries", 1, search(0, CORPUS, "Flat")),
    "search by corpus": ("vectors", 10, search(PROBED, 0, "Flat")),
    "search a graph": ("vectors", 10, search(PROBED, 0, "HNSW32")),
}
"""What grows, rows at 1 times for each of --base, and what is run."""


# --- what follows for collections that are not here -----------------------------------------------------

COLLECTIONS = {"MS MARCO": 8_841_823, "100 M": 100_000_000, "1 B": 1_000_000_000}
ASSUMED = {
    "parameters": (0.6e9, "of the embedding model, as Qwen3-Embedding-0.6B has"),
    "dim": (1024, "of its vectors, float32"),
    "tokens": (80, "in a document, about what a passage of MS MARCO has"),
    "flops": (989e12, "a second of one H100 SXM in bfloat16, by its data sheet"),
    "share": (0.4, "of these that a forward pass reaches; nothing of ours was measured on a GPU"),
    "gpu_price": (3.0, "dollars an hour for an H100"),
    "core_price": (0.05, "dollars an hour for a core with 4 GB"),
    "links": (64, "neighbours of a vector in the lowest layer of HNSW32, 4 bytes each"),
}


def report(lines: list[dict[str, object]]) -> None:
    """Print docs/scale.md."""
    runs: dict[str, list[dict[str, float]]] = {}
    for line in lines:
        if "rows" in line:
            runs.setdefault(str(line["stage"]), []).append(line)  # type: ignore[arg-type]
    print(HEAD)
    print("| stage | what grows | rows | cpu seconds | peak MB | disk MB | exponent of time, of memory |")
    print("|---|---|---|---|---|---|---|")
    for stage, own in runs.items():
        told = [" / ".join(f"{run[key]:,g}" for run in own) for key in ("rows", *KEYS)]
        fit = [exponent([run[key] for run in own]) for key in ("cpu_seconds", "peak_rss_mb")]
        powers = ", ".join("-" if power is None else f"{power:g}" for power in fit)
        marked = " **(worse than n log n)**" if fit[0] is not None and fit[0] > WORST else ""
        print(f"| {stage} | {own[0]['grows']} | {' | '.join(told)} | {powers}{marked} |")
    print(MIDDLE)
    print("| | " + " | ".join(COLLECTIONS) + " | from |")
    print("|---" * (len(COLLECTIONS) + 2) + "|")
    for name, figure, source in projected({stage: slope(own) for stage, own in runs.items()}):
        print(f"| {name} | " + " | ".join(figure(count) for count in COLLECTIONS.values()) + f" | {source} |")
    print("\nAssumed:\n")
    for name, (value, why) in ASSUMED.items():
        print(f"- `{name}` {value:,g}: {why}")


KEYS = ("cpu_seconds", "peak_rss_mb", "disk_mb")


def slope(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return what a row adds between 10 and 100 times: cpu seconds, bytes of memory, bytes of disk."""
    _, middle, large = runs
    rows = large["rows"] - middle["rows"]
    return {
        key: max(0.0, large[key] - middle[key]) / rows * (1 if key == "cpu_seconds" else 1024**2)
        for key in KEYS
    }


def projected(
    slopes: dict[str, dict[str, float]],
) -> Iterator[tuple[str, Callable[[int], str], str]]:
    """Yield name, figure for so many documents, and where it comes from."""
    at = {name: value for name, (value, _) in ASSUMED.items()}
    gpu = at["tokens"] * 2 * at["parameters"] / (at["flops"] * at["share"])  # seconds a document
    dollars, cores = at["gpu_price"] / 3600, at["core_price"] / 3600
    yield "embed: hours on 8 H100", lambda n: f"{n * gpu / 8 / 3600:,.1f}", "`flops`, `share`, `tokens`"
    yield "embed: dollars", lambda n: f"{n * gpu * dollars:,.0f}", "`gpu_price`"
    yield "vectors on disk", lambda n: amount(n * at["dim"] * 4), "`dim`"
    graph = at["dim"] * 4 + at["links"] * 4
    yield "memory of an HNSW32 index", lambda n: amount(n * graph), "`dim`, `links`"
    if own := slopes.get("build"):
        seconds = own["cpu_seconds"]
        yield (
            f"build of it: core-hours, vectors of {DIM} dimensions",
            lambda n: f"{n * seconds * math.log(n) / math.log(1e4) / 3600:,.1f}",
            "build, as n log n",
        )
    for stage in ("elect by corpus", "mine by corpus"):
        if own := slopes.get(stage):
            seconds, held = own["cpu_seconds"], own["peak_rss_mb"]
            yield (
                f"{stage}: core-hours for {PROBED} queries with BM25",
                lambda n, seconds=seconds: f"{n * seconds / 3600:,.1f}",  # type: ignore[misc]
                stage,
            )
            yield f"{stage}: memory", lambda n, held=held: amount(n * held), stage  # type: ignore[misc]
    for stage in ("think", "elect", "mine", "search"):
        if own := slopes.get(stage):
            seconds = own["cpu_seconds"]
            over = "" if stage == "think" else f" over {CORPUS:,} documents"
            yield (
                f"{stage}: core-hours for so many queries{over}",
                lambda n, seconds=seconds: f"{n * seconds / 3600:,.1f}",  # type: ignore[misc]
                stage,
            )
            yield (
                f"{stage}: dollars",
                lambda n, seconds=seconds: f"{n * seconds * cores:,.1f}",  # type: ignore[misc]
                "`core_price`",
            )


def amount(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} PB"


HEAD = """# How cost grows

What each stage takes at 1, 10 and 100 times its input, and what follows for collections that are not here.
All of this page is printed by `python benchmarks/scale.py --report scale.jsonl`, the measurements by
`python benchmarks/scale.py --base 20 --out scale.jsonl`, with 60 where the corpus of an election or of
mining grows (2026-11-28, 2 cores AMD EPYC, AVX2, 24 GiB, no GPU, while other work kept the machine busy:
cpu seconds are given, which depend little on that). Start-up is part of the seconds; the exponents leave it
out. The input is made up: documents of 60 words, queries of 8, two thoughts of 30 words each, vectors of 64
dimensions, BM25 as the only member, a random model of 32 dimensions, a language model that answers at once.
Queries that grow have a corpus of 2,000 documents, a corpus that grows has 200 queries. What is spread over
a cluster (`--ray`) divides its hours by the workers.
"""

MIDDLE = """
What grows faster than n log n is a bug, and is marked. `-` is growth that start-up hides at this size.

## MS MARCO, a hundred million, a billion

Seconds, memory and disk of a row between 10 and 100 times, times the rows of the collection; for GPUs,
which were not at hand, arithmetic from the assumptions below. What does not fit into the memory of a
machine is built and searched in shards.
"""

if __name__ == "__main__":
    main()
