"""`o1-model serve`: an OpenAI-compatible server of one checkpoint."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, Namespace

from o1_model.commands import options
from o1_model.serving.settings import Serving
from o1_records.kit.command import at_least


def declare(command: ArgumentParser) -> None:
    """Add where to listen, and how much to take."""
    options.model(command)
    add = command.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8080, help="port to listen on")
    add(
        "--default-input-type",
        choices=("query", "document"),
        default=Serving.default_input_type,
        help="what a text is when the client does not say",
    )
    add("--batch-tokens", type=at_least(1), default=Serving.batch_tokens, help="tokens of a shared batch")
    add("--max-waiting", type=at_least(1), default=Serving.max_waiting, help="inputs in the queue; then 429")
    add("--max-inputs", type=at_least(1), default=Serving.max_inputs, help="inputs of a request; then 413")
    add("--drain-seconds", type=at_least(0), default=30, help="time to finish after SIGTERM")


def run(args: Namespace) -> int:
    """Serve until SIGTERM."""
    from o1_model.serving.server import serve

    serving = Serving(
        default_input_type=args.default_input_type,
        batch_tokens=args.batch_tokens,
        max_waiting=args.max_waiting,
        max_inputs=args.max_inputs,
    )
    embedder = options.load(args)
    # uvicorn drains, then raises the signal again for whoever listened before it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    serve(embedder, serving, host=args.host, port=args.port, drain_seconds=args.drain_seconds)
    return 0
