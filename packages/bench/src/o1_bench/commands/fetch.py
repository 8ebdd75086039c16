"""`o1-bench fetch`: build or download a collection, or those of a suite."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from o1_bench import suites
from o1_bench.commands.options import say
from o1_bench.commands.partly import Partly
from o1_bench.datasets.stdlib import build_stdlib


def declare(command: argparse.ArgumentParser) -> None:
    """What to build or download, and where."""
    command.add_argument("name", help="stdlib, a collection or a suite, such as bright/biology or bright")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="of stdlib; else the folder of all data"
    )


def run(args: argparse.Namespace) -> int:
    """Fetch one after the other; what cannot be had is listed."""
    if args.name == "stdlib":
        build_stdlib(args.out)
        say(f"{args.out}: ready")
        return 0
    names = suites.expand([args.name])
    work = Partly()
    for name in names:
        folder = work.attempt(name, partial(suites.fetch, name, args.out))
        if folder is not None:
            say(f"{folder}: ready")
    return work.code
