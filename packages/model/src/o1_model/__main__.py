"""The `o1-model` command: train, think, embed."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from o1_model import Embedder, Thinking, __version__
from o1_model.embedder import Vectors
from o1_model.stream import batched, embed_stream
from o1_records import (
    Query,
    Thought,
    open_documents,
    open_queries,
    read_jsonl,
    run_command,
    sha256_file,
    write_jsonl,
)
from o1_records.vectors import VectorWriter


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    if argv and argv[0] == "train":
        return _train(argv[1:])
    args = _parser().parse_args(argv)
    return _think(args) if args.command == "think" else _embed(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-model", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="joint training; --help lists transformers' flags too")
    think = commands.add_parser("think", help="write thoughts about queries")
    embed = commands.add_parser("embed", help="write vectors of a corpus or of queries")
    for command in (think, embed):
        command.add_argument("--model", required=True, help="folder of a checkpoint")
        command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")
        command.add_argument("--samples", type=int, default=3)
        command.add_argument("--max-tokens", type=int, default=64)
        command.add_argument("--temperature", type=float, default=0.7)
        command.add_argument("--top-p", type=float, default=0.9)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
        command.add_argument("--out", required=True)
    think.add_argument("--queries", required=True, help="BEIR folder or JSONL of Query records")
    what = embed.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", help="BEIR folder or JSONL of Document records")
    what.add_argument("--queries", help="BEIR folder or JSONL of Query records")
    how = embed.add_mutually_exclusive_group()
    how.add_argument("--thoughts", help="JSONL of Thought records to embed the queries with")
    how.add_argument("--think", action="store_true", help="let the model write the thoughts")
    embed.add_argument("--with-query", action="store_true", help="average v_q with the v_t")
    return parser


def _train(argv: Sequence[str]) -> int:
    from transformers import HfArgumentParser, TrainingArguments

    from o1_model.train import ModelArguments, train

    parser = HfArgumentParser((ModelArguments, TrainingArguments), prog="o1-model train")  # type: ignore[arg-type]
    model, args = parser.parse_args_into_dataclasses(list(argv))
    train(model, args)
    return 0


def _think(args: argparse.Namespace) -> int:
    if _done(args.out):
        return 0
    embedder = Embedder.from_pretrained(args.model, device=args.device)
    queries = list(open_queries(args.queries, args.split))
    thinking = _thinking(args)
    thoughts: list[Thought] = []
    with tqdm(total=len(queries), unit="query", desc="think") as progress:
        for batch in batched(queries, 64):
            thoughts += embedder.think(batch, thinking)
            progress.update(len(batch))
    write_jsonl(args.out, thoughts)
    blank = len(queries) * thinking.samples - len(thoughts)
    if blank:
        print(f"{blank} thoughts came out blank and were left out", file=sys.stderr)
    return 3 if blank else 0


def _embed(args: argparse.Namespace) -> int:
    if _done(args.out):
        return 0
    embedder = Embedder.from_pretrained(args.model, device=args.device)
    if args.corpus:
        encoder = embedder.fingerprint(role="document")
        writer = VectorWriter(args.out, encoder=encoder)
        embed_stream(writer, open_documents(args.corpus), embedder.encode_document)
    else:
        encode, thoughts = _query_encoder(embedder, args)
        writer = VectorWriter(args.out, encoder=embedder.fingerprint(role="query", thoughts=thoughts))
        embed_stream(writer, open_queries(args.queries, args.split), encode)
    writer.close()
    return 0


def _query_encoder(
    embedder: Embedder, args: argparse.Namespace
) -> tuple[Callable[[Sequence[Query]], Vectors], str]:
    """How to encode queries, and what to call the thoughts in the fingerprint."""
    if args.think:
        thinking = _thinking(args)
        encode = partial(embedder.encode_query, think=thinking, with_query=args.with_query)
        return encode, repr(thinking)
    if not args.thoughts:
        return embedder.encode_query, ""
    own: defaultdict[str, list[str]] = defaultdict(list)
    for thought in read_jsonl(args.thoughts, Thought):
        own[thought.query_id].append(thought.text)

    def encode_with_thoughts(queries: Sequence[Query]) -> Vectors:
        texts = [own.get(query.query_id, []) for query in queries]
        return embedder.encode_query(queries, thoughts=texts, with_query=args.with_query)

    return encode_with_thoughts, f"sha256:{sha256_file(args.thoughts)}"


def _thinking(args: argparse.Namespace) -> Thinking:
    return Thinking(
        samples=args.samples,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )


def _done(out: str) -> bool:
    if Path(out).exists():
        print(f"{out} is there already; nothing to do", file=sys.stderr)
    return Path(out).exists()


if __name__ == "__main__":
    sys.exit(main())
