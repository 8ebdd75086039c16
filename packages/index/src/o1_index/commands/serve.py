"""`o1-index serve`: an HTTP server of one index."""

from __future__ import annotations

import argparse
import signal
import sys

from o1_index.index import open_index
from o1_index.vector_store import Searchable
from o1_records.kit.command import EVERYTHING, at_least, reads


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--index", required=True, inside=EVERYTHING, help="folder of the index")
    options(command)
    command.add_argument("--mmap", action="store_true", help="leave the vectors on disk")
    command.add_argument("--device", default="cpu", help="where to search: cpu, auto, cuda, cuda:0,1")


def options(command: argparse.ArgumentParser) -> None:
    """Add the options of every server."""
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=int, default=8081, help="port to listen on")
    command.add_argument("--threads", type=at_least(1), help="searches at a time; by default one a core")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    return until_terminated(open_index(args.index, mmap=args.mmap, device=args.device), args)


def until_terminated(store: Searchable, args: argparse.Namespace) -> int:
    """Serve a store until SIGTERM."""
    from o1_index.serve import serve

    # uvicorn drains, then raises the signal again for whoever listened before it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    serve(store, host=args.host, port=args.port, threads=args.threads)
    return 0
