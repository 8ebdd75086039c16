"""`o1-model serve`: an OpenAI-compatible server of one checkpoint, and a page that searches with it."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from o1_model.commands import options
from o1_model.serving.settings import Serving
from o1_records import InputError
from o1_records.kit.command import EVERYTHING, at_least, reads

if TYPE_CHECKING:
    from o1_model.embedder import Embedder
    from o1_model.retriever.retriever import ThinkingRetriever

KEY = "O1_MODEL_API_KEY"


def declare(command: ArgumentParser) -> None:
    """Add where to listen, under which name, how to think, and how much to take."""
    options.model(command, "a checkpoint, a sentence-transformers model, or http://HOST/v1#NAME")
    add = command.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8080, help="port to listen on")
    add("--served-model-name", nargs="+", default=[], help="the model's names here, if not the checkpoint's")
    add("--api-key", action="append", help=f"that clients must send; repeatable; or {KEY} in the environment")
    add(
        "--cors-origin",
        action="append",
        default=[],
        help="origin whose pages may send requests, or '*'; repeatable",
    )
    add("--token-ids", action="store_true", help="take token ids too, of this checkpoint's tokenizer")
    add(
        "--default-input-type",
        choices=("query", "document"),
        default=Serving.default_input_type,
        help="what a text is when the client does not say",
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--think", action="store_true", help="think about queries unless the client says otherwise"
    )
    options.mixture(command, how)
    reads(command, "--gate", once=True, help="think only about queries that this file opens for (`gate`)")
    options.thinking(command)
    options.engine(command)
    reads(
        command,
        "--index",
        inside=EVERYTHING,
        help="answer GET / with a page that searches: a folder of vectors (`embed`), or an index of o1-index",
    )
    reads(
        command,
        "--corpus",
        once=True,
        help="the documents of --index, a BEIR folder or JSONL; kept in memory",
    )
    add("--max-searches", type=at_least(1), default=Serving.max_searches, help="searches at a time; then 429")
    add("--batch-tokens", type=at_least(1), default=Serving.batch_tokens, help="tokens of a shared batch")
    add("--max-waiting", type=at_least(1), default=Serving.max_waiting, help="inputs in the queue; then 429")
    add("--max-inputs", type=at_least(1), default=Serving.max_inputs, help="inputs of a request; then 413")
    add("--max-body", type=at_least(1), default=Serving.max_body, help="bytes of a request; then 413")
    add("--drain-seconds", type=at_least(0), default=30, help="time to finish after SIGTERM")


def run(args: Namespace) -> int:
    """Serve until SIGTERM."""
    options.refuse_idle_thinking(args)
    if (args.index is None) != (args.corpus is None):
        raise InputError("--index and --corpus are for the page that searches; give both, or none")
    from o1_model.serving.search import Collection
    from o1_model.serving.server import serve
    from o1_model.thinking.gate import load_gate
    from o1_model.thinking.records import ThoughtCache

    keys = args.api_key or [key for key in os.environ.get(KEY, "").split(",") if key]
    mixed = options.mixes(args)
    serving = Serving(
        default_input_type=args.default_input_type,
        batch_tokens=args.batch_tokens,
        max_waiting=args.max_waiting,
        max_inputs=args.max_inputs,
        max_body=args.max_body,
        think=options.thinking_of(args) if args.think and not mixed else None,
        gate=None if args.gate is None else load_gate(args.gate),
        names=tuple(args.served_model_name),
        api_keys=tuple(keys),
        cors_origins=tuple(args.cors_origin),
        token_ids=args.token_ids,
        max_searches=args.max_searches,
    )
    model: Embedder | ThinkingRetriever
    if mixed:
        idle = [
            f for f in ("gate", "vllm", "base_url", "served_name", "cache", "token_ids") if getattr(args, f)
        ]
        if idle:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise InputError(f"{flags}: only for a checkpoint whose thoughts are not mixed in; leave it out")
        model = options.retriever(args)
    else:
        model = options.load(args)
        model.decoder.engine = options.engine_of(args)
        if args.cache is not None:
            model.decoder.cache = ThoughtCache(args.cache)
    collection = None if args.index is None else Collection(args.index, args.corpus)
    if collection is not None:
        print(f"search in a browser: http://{args.host}:{args.port}/", file=sys.stderr)
    # uvicorn drains, then raises the signal again for whoever listened before it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    where = {"host": args.host, "port": args.port, "drain_seconds": args.drain_seconds}
    serve(model, serving, **where, collection=collection)
    return 0
