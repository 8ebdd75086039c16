"""`o1-model verify`: does a checkpoint give its certificate's vectors, here and elsewhere?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from o1_model.commands import options

RUNTIMES = ("o1", "sentence-transformers")


def declare(command: ArgumentParser) -> None:
    """Add which checkpoint, and where to try it."""
    options.checkpoint(command)
    command.add_argument(
        "--runtime", action="append", choices=RUNTIMES, help="repeatable; by default o1, or the server"
    )
    command.add_argument(
        "--server",
        metavar="URL",
        help="a server of this model: TEI, vLLM, o1-model serve; gets OPENAI_API_KEY, if set",
    )


def run(args: Namespace) -> int:
    """Print a line for each runtime; exits 4 when one differs."""
    from o1_model.verify import RUNTIMES as KNOWN
    from o1_model.verify import in_server, verify

    names = args.runtime or ([] if args.server else ["o1"])
    runtimes = [KNOWN[name] for name in names] + ([in_server(args.server)] if args.server else [])
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
