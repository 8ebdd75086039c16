"""`o1-model think`: write thoughts about queries."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from o1_model.commands import options
from o1_model.embedder import Embedder
from o1_model.engines import VLLM, CompletionServer
from o1_model.stream import batched
from o1_model.think import Thinking
from o1_model.thought_cache import ThoughtCache
from o1_records import InputError, Query, Thought, open_queries, read_jsonl, write_jsonl

CHUNK = 256  # queries sorted by length together


def declare(command: argparse.ArgumentParser) -> None:
    """What to think about, how, and where the thoughts are written."""
    options.model(command)
    command.add_argument("--queries", required=True, help="BEIR folder or JSONL of Query records")
    command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")
    options.thinking(command)
    engine = command.add_mutually_exclusive_group()
    engine.add_argument("--vllm", action="store_true", help="let vLLM in this process write them")
    engine.add_argument("--base-url", help="let an OpenAI-compatible server with this checkpoint write them")
    command.add_argument(
        "--served-name", help="what the checkpoint is called at --base-url (default: --model)"
    )
    command.add_argument(
        "--cache", help="keep what was thought here (default: beside --out until it is done)"
    )
    command.add_argument("--out", required=True)


def run(args: argparse.Namespace) -> int:
    """Think; exits 3 when thoughts came out blank, or on Ctrl-C with the command that goes on."""
    embedder = options.load(args)
    thinking = embedder.capped(options.thinking_of(args))
    if Path(args.out).exists():
        count = _refuse_other_run(args, embedder, thinking)
        print(f"{args.out} is there already; nothing to do", file=sys.stderr)
        return _told(args, thinking, count)
    if args.vllm:
        embedder.decoder.engine = VLLM(args.model)
    elif args.base_url:
        embedder.decoder.engine = CompletionServer(args.base_url, args.served_name or args.model)
    path = Path(args.cache or f"{args.out}.thinking.sqlite")
    path.parent.mkdir(parents=True, exist_ok=True)
    embedder.decoder.cache = cache = ThoughtCache(path)
    try:
        count = write_jsonl(args.out, _thoughts(args, embedder, thinking))
    except KeyboardInterrupt:
        print(f"interrupted; {path} holds what was thought. To go on:\n{_again(args)}", file=sys.stderr)
        return 3
    cache.close()
    if not args.cache:
        path.unlink()
    return _told(args, thinking, count)


def _thoughts(args: argparse.Namespace, embedder: Embedder, thinking: Thinking) -> Iterator[Thought]:
    total = sum(1 for _ in _queries(args))
    with tqdm(total=total, unit="query", desc="think") as progress:
        for chunk in batched(_queries(args), CHUNK):
            yield from embedder.think(chunk, thinking)
            progress.update(len(chunk))


def _told(args: argparse.Namespace, thinking: Thinking, count: int) -> int:
    blank = sum(1 for _ in _queries(args)) * thinking.samples - count
    if blank:
        print(f"{blank} thoughts came out blank and were left out", file=sys.stderr)
    return 3 if blank else 0


def _refuse_other_run(args: argparse.Namespace, embedder: Embedder, thinking: Thinking) -> int:
    """How many thoughts an earlier run wrote. Raises InputError when it was another run."""
    asked = {query.query_id for query in _queries(args)}
    ours = (embedder.digest, thinking.temperature, thinking.top_p, thinking.max_tokens, thinking.seed)
    count = samples = 0
    for count, thought in enumerate(read_jsonl(args.out, Thought), start=1):  # noqa: B007
        made = thought.source
        theirs = (made.revision, made.temperature, made.top_p, made.max_tokens, made.seed)
        if theirs != ours or thought.query_id not in asked:
            raise InputError(
                f"{args.out}: has thought {thought.thought_id!r} of model {made.model!r} with {theirs}, "
                f"this run is {embedder.name!r} with {ours}; remove the file or choose another name"
            )
        samples = max(samples, int(thought.thought_id.rpartition("#")[2]) + 1)
    if count and samples != thinking.samples:
        raise InputError(
            f"{args.out}: has {samples} thoughts a query, this run asks for {thinking.samples}; "
            "remove the file or choose another name"
        )
    return count


def _queries(args: argparse.Namespace) -> Iterator[Query]:
    return open_queries(args.queries, args.split)


def _again(args: argparse.Namespace) -> str:
    return shlex.join(["o1-model", *args.typed])
