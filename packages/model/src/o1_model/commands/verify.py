"""`o1-model verify`: does a checkpoint give its certificate's vectors, here and elsewhere?"""

from __future__ import annotations

import argparse

from o1_model.verify import RUNTIMES, in_server, verify


def declare(command: argparse.ArgumentParser) -> None:
    """Which checkpoint, and where to try it."""
    command.add_argument("--model", required=True, help="folder or hub id of a checkpoint")
    command.add_argument("--revision", help="of a hub id")
    command.add_argument(
        "--runtime", action="append", choices=sorted(RUNTIMES), help="repeatable (default: o1, or the server)"
    )
    command.add_argument("--server", metavar="URL", help="a server of this model: TEI, vLLM, o1-model serve")


def run(args: argparse.Namespace) -> int:
    """Print a line for each runtime; 4 when one differs."""
    names = args.runtime or ([] if args.server else ["o1"])
    runtimes = [RUNTIMES[name] for name in names] + ([in_server(args.server)] if args.server else [])
    code = 0
    for runtime in runtimes:
        verdict = verify(args.model, runtime, revision=args.revision)
        figures = (
            f"{verdict.checked} vectors, lowest cosine {verdict.lowest_cosine:.6f}, "
            f"{verdict.order:.1%} of the documents in order"
        )
        print(f"{verdict.runtime}: {'fail' if verdict.difference else 'pass'} ({figures})")
        if verdict.difference:
            print(f"  {verdict.difference}")
            code = 4
    return code
