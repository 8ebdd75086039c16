"""`o1-index serve`: an HTTP server of an index, or of several as one."""

from __future__ import annotations

import argparse
import math
import signal
import sys

from o1_index.servers import AT_A_TIME, TIMEOUT, Servers
from o1_index.vector_store import VectorStore, open_shards
from o1_records import InputError
from o1_records.kit.command import EVERYTHING, at_least, reads


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    index_options(command)
    options(command)
    command.add_argument("--mmap", action="store_true", help="leave the vectors on disk")
    command.add_argument("--device", default="cpu", help="where to search: cpu, auto, cuda, cuda:0,1")


def index_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say where an index is: in folders, or on servers."""
    reads(
        command,
        "--index",
        nargs="+",
        inside=EVERYTHING,
        help="folder of the index; of several, each with a part of the collection, hits are merged",
    )
    command.add_argument(
        "--servers",
        nargs="+",
        metavar="ADDRESS",
        help="or servers of indexes (`serve`), each with a part of the collection, such as http://10.0.0.1:8081",
    )
    command.add_argument(
        "--timeout", type=float, help=f"with --servers: seconds to wait for an answer; by default {TIMEOUT:g}"
    )


def options(command: argparse.ArgumentParser) -> None:
    """Add the options of every server."""
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=int, default=8081, help="port to listen on")
    command.add_argument(
        "--threads",
        type=at_least(1),
        help=f"searches at a time; by default one a core, with --servers {AT_A_TIME}",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    if (args.index is None) == (args.servers is None):
        raise InputError("give --index, or --servers, which have the indexes")
    if args.servers is not None:
        if args.mmap or args.device != "cpu":
            raise InputError("--mmap and --device have no effect with --servers; give them to those")
        with on_servers(args) as together:
            return until_terminated(together, args)
    if args.timeout is not None:
        raise InputError("--timeout has no effect without --servers; leave it out")
    return until_terminated(open_shards(args.index, mmap=args.mmap, device=args.device), args)


def on_servers(args: argparse.Namespace) -> Servers:
    """Return what searches on the servers that were given."""
    timeout = TIMEOUT if args.timeout is None else args.timeout
    if not 0 < timeout < math.inf:
        raise InputError(f"--timeout must be above 0, got {timeout:g}")
    return Servers(args.servers, timeout=timeout)


def until_terminated(store: VectorStore | Servers, args: argparse.Namespace) -> int:
    """Serve a store until SIGTERM."""
    from o1_index.serve import serve

    # uvicorn drains, then raises the signal again for whoever listened before it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    serve(store, host=args.host, port=args.port, threads=args.threads)
    return 0
