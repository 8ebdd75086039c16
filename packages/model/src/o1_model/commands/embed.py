"""`o1-model embed`: write vectors of a corpus or of queries."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from o1_model.aggregate import Vectors
from o1_model.commands import options
from o1_model.commands.gate import margins_of
from o1_model.devices import checked_devices, encode_on
from o1_model.embedder import Embedder
from o1_model.gate import load_gate
from o1_model.stream import Encoded, write_shards
from o1_model.thinker import Opens
from o1_records import (
    InputError,
    Query,
    Thought,
    open_documents,
    open_queries,
    read_jsonl,
    sha256_file,
)
from o1_records.command import at_least
from o1_records.vectors import VectorSet, VectorWriter, refuse_other_origin


def declare(command: argparse.ArgumentParser) -> None:
    """What to embed, with which thoughts."""
    options.model(command)
    command.add_argument("--devices", help="cuda:0,cuda:1: one process each, instead of --device")
    command.add_argument("--batch-tokens", type=at_least(1), help="tokens of a forward pass")
    command.add_argument(
        "--shard-rows", type=at_least(1), help="lost at most, on each device (default: CPU 1024, GPU 8192)"
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", help="BEIR folder or JSONL of Document records")
    what.add_argument("--queries", help="BEIR folder or JSONL of Query records")
    command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--thoughts", help="JSONL of Thought records to embed the queries with")
    how.add_argument("--think", action="store_true", help="let the model write the thoughts")
    command.add_argument("--with-query", action="store_true", help="average v_q with the v_t")
    command.add_argument(
        "--gate", help="with --think: only about the queries this file of `o1-model gate` opens for"
    )
    command.add_argument("--hits", help="with --gate: v_q's run, where the gate looks at its margins")
    options.thinking(command)
    command.add_argument("--out", required=True)


def run(args: argparse.Namespace) -> int:
    """Embed; an unfinished earlier run is continued."""
    if args.corpus and (args.think or args.thoughts or args.split):
        raise InputError("--think, --thoughts and --split are for --queries; documents are not thought about")
    if args.with_query and not (args.think or args.thoughts):
        raise InputError("--with-query averages v_q with thoughts; give --think or --thoughts too")
    if (args.gate and not args.think) or (args.hits and not args.gate):
        raise InputError("--gate decides for --think, and --hits are for --gate; give them together")
    if args.device and args.devices:
        raise InputError(f"give --device {args.device} or --devices {args.devices}, not both")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    devices = checked_devices(args.devices or args.device or default)
    several, on_cpu = len(devices) > 1, devices[0].startswith("cpu")
    # with several devices it says here who it is and runs there
    embedder = _load(args, "cpu" if several else devices[0])
    encode, thoughts = _encoder(embedder, args)
    encoder = embedder.fingerprint(role="document" if args.corpus else "query", thoughts=thoughts)
    source, total = _source(args)
    if Path(args.out).exists():
        refuse_other_origin(VectorSet(args.out), encoder, source)
        print(f"{args.out} is there already; nothing to do", file=sys.stderr)
        return 0
    writer = VectorWriter(args.out, encoder=encoder, source=source)
    items: Iterator[Any] = (
        open_documents(args.corpus) if args.corpus else open_queries(args.queries, args.split)
    )
    encode_all: Any = partial(map, encode)
    if several:
        del embedder, encode
        encode_all = partial(encode_on, devices, partial(_encode_there, args))
    shard_rows = args.shard_rows or (1024 if on_cpu else 8192)
    write_shards(writer, items, encode_all, shard_rows=shard_rows, total=total)
    writer.close()
    return 0


def _load(args: argparse.Namespace, device: str) -> Embedder:
    embedder = options.load(args, device)
    embedder.batch_tokens = args.batch_tokens
    return embedder


def _encode_there(args: argparse.Namespace, device: str) -> Callable[[list[Any]], Encoded]:
    return _encoder(_load(args, device), args)[0]


def _encoder(embedder: Embedder, args: argparse.Namespace) -> tuple[Callable[[list[Any]], Encoded], str]:
    """How to encode a shard's items, and what to call their thoughts in the fingerprint."""
    encode: Callable[[list[Any]], Vectors] = embedder.encode_document
    thoughts = ""
    if args.queries:
        encode, thoughts = _query_encoder(embedder, args)

    def counted(items: list[Any]) -> Encoded:
        before = embedder.tokens_read
        vectors = encode(items)
        return Encoded(vectors, embedder.tokens_read - before)

    return counted, thoughts


def _source(args: argparse.Namespace) -> tuple[str, int]:
    """What is encoded, for the manifest, and about how many rows it has."""
    if args.corpus:
        return input_digest(args.corpus, "corpus.jsonl"), _lines(args.corpus, "corpus.jsonl")
    rows = sum(1 for _ in open_queries(args.queries, args.split))
    return f"{input_digest(args.queries, 'queries.jsonl')} {args.split or ''}".strip(), rows


def _query_encoder(
    embedder: Embedder, args: argparse.Namespace
) -> tuple[Callable[[Sequence[Query]], Vectors], str]:
    """How to encode queries, and what to call the thoughts in the fingerprint."""
    mean = " with v_q" if args.with_query else ""
    if args.think:
        thinking = embedder.capped(options.thinking_of(args))
        opens, gate = _gate(args)
        encode = partial(embedder.encode_query, think=thinking, gate=opens, with_query=args.with_query)
        return encode, f"{thinking}{mean}{gate}"
    if not args.thoughts:
        return embedder.encode_query, ""
    own: defaultdict[str, list[Thought]] = defaultdict(list)
    for thought in read_jsonl(args.thoughts, Thought):
        own[thought.query_id].append(thought)
    if not any(query.query_id in own for query in open_queries(args.queries, args.split)):
        raise InputError(
            f"{args.thoughts}: none of its {len(own)} queries is in {args.queries}; "
            "do the thoughts belong to these queries?"
        )

    def encode_with_thoughts(queries: Sequence[Query]) -> Vectors:
        thoughts = [own.get(query.query_id, []) for query in queries]
        return embedder.encode_query(queries, thoughts=thoughts, with_query=args.with_query)

    return encode_with_thoughts, f"sha256:{sha256_file(args.thoughts)}{mean}"


def _gate(args: argparse.Namespace) -> tuple[Opens | None, str]:
    """Which queries to think about, and what the fingerprint says of it."""
    if args.gate is None:
        return None, ""
    gate, said = load_gate(args.gate), f" gate sha256:{sha256_file(args.gate)}"
    if args.hits is None:
        return gate, said
    return gate.given(margins_of(args.hits)), f"{said} hits sha256:{sha256_file(args.hits)}"


def input_digest(path: str, name: str) -> str:
    """sha256 of a file of records, or of the file `name` of a BEIR folder."""
    return f"sha256:{sha256_file(_file(path, name))}"


def _lines(path: str, name: str) -> int:
    with open(_file(path, name), "rb") as file:
        return sum(1 for _ in file)


def _file(path: str, name: str) -> Path:
    return Path(path) / name if Path(path).is_dir() else Path(path)
