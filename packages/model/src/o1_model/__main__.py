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
from o1_model.aggregate import Vectors
from o1_model.stream import batched, embed_stream
from o1_records import (
    InputError,
    Query,
    Thought,
    open_documents,
    open_queries,
    read_jsonl,
    run_command,
    sha256_file,
    write_jsonl,
)
from o1_records.vectors import VectorSet, VectorWriter, refuse_other_origin


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
        command.add_argument("--max-tokens", type=int, default=64, help="the layout may keep fewer")
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
    embedder = Embedder.from_pretrained(args.model, device=args.device)
    queries = list(open_queries(args.queries, args.split))
    thinking = embedder.capped(_thinking(args))
    if Path(args.out).exists():
        thoughts = _thoughts_of_this_run(args.out, embedder, thinking, queries)
    else:
        thoughts = []
        with tqdm(total=len(queries), unit="query", desc="think") as progress:
            for batch in batched(queries, 64):
                thoughts += embedder.think(batch, thinking)
                progress.update(len(batch))
        write_jsonl(args.out, thoughts)
    blank = len(queries) * thinking.samples - len(thoughts)
    if blank:
        print(f"{blank} thoughts came out blank and were left out", file=sys.stderr)
    return 3 if blank else 0


def _thoughts_of_this_run(
    out: str, embedder: Embedder, thinking: Thinking, queries: Sequence[Query]
) -> list[Thought]:
    """What an earlier run wrote. Raises InputError when another model, sampling or query set did."""
    thoughts = list(read_jsonl(out, Thought))
    asked = {query.query_id for query in queries}
    ours = (embedder.digest, thinking.temperature, thinking.top_p, thinking.max_tokens, thinking.seed)
    for thought in thoughts:
        made = thought.source
        theirs = (made.revision, made.temperature, made.top_p, made.max_tokens, made.seed)
        if theirs != ours or thought.query_id not in asked:
            raise InputError(
                f"{out}: has thought {thought.thought_id!r} of model {made.model!r} with {theirs}, "
                f"this run is {embedder.name!r} with {ours}; remove the file or choose another name"
            )
    print(f"{out} is there already; nothing to do", file=sys.stderr)
    return thoughts


def _embed(args: argparse.Namespace) -> int:
    if args.with_query and not (args.think or args.thoughts):
        raise InputError("--with-query averages v_q with thoughts; give --think or --thoughts too")
    embedder = Embedder.from_pretrained(args.model, device=args.device)
    if args.corpus:
        encoder, source = embedder.fingerprint(role="document"), input_digest(args.corpus, "corpus.jsonl")
    else:
        encode, thoughts = _query_encoder(embedder, args)
        encoder = embedder.fingerprint(role="query", thoughts=thoughts)
        source = f"{input_digest(args.queries, 'queries.jsonl')} {args.split or ''}".strip()
    if Path(args.out).exists():
        refuse_other_origin(VectorSet(args.out), encoder, source)
        print(f"{args.out} is there already; nothing to do", file=sys.stderr)
        return 0
    writer = VectorWriter(args.out, encoder=encoder, source=source)
    if args.corpus:
        embed_stream(writer, open_documents(args.corpus), embedder.encode_document)
    else:
        embed_stream(writer, open_queries(args.queries, args.split), encode)
    writer.close()
    return 0


def _query_encoder(
    embedder: Embedder, args: argparse.Namespace
) -> tuple[Callable[[Sequence[Query]], Vectors], str]:
    """How to encode queries, and what to call the thoughts in the fingerprint."""
    mean = " with v_q" if args.with_query else ""
    if args.think:
        thinking = embedder.capped(_thinking(args))
        encode = partial(embedder.encode_query, think=thinking, with_query=args.with_query)
        return encode, f"{thinking}{mean}"
    if not args.thoughts:
        return embedder.encode_query, ""
    own: defaultdict[str, list[str]] = defaultdict(list)
    for thought in read_jsonl(args.thoughts, Thought):
        own[thought.query_id].append(thought.text)
    if not any(query.query_id in own for query in open_queries(args.queries, args.split)):
        raise InputError(
            f"{args.thoughts}: none of its {len(own)} queries is in {args.queries}; "
            "do the thoughts belong to these queries?"
        )

    def encode_with_thoughts(queries: Sequence[Query]) -> Vectors:
        texts = [own.get(query.query_id, []) for query in queries]
        return embedder.encode_query(queries, thoughts=texts, with_query=args.with_query)

    return encode_with_thoughts, f"sha256:{sha256_file(args.thoughts)}{mean}"


def input_digest(path: str, name: str) -> str:
    """sha256 of a file of records, or of the file `name` of a BEIR folder."""
    return f"sha256:{sha256_file(Path(path) / name if Path(path).is_dir() else path)}"


def _thinking(args: argparse.Namespace) -> Thinking:
    return Thinking(
        samples=args.samples,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )


if __name__ == "__main__":
    sys.exit(main())
