"""The `o1-synth` command: thoughts of a language model about queries, keyed and resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import o1_synth
from o1_records import run_command
from o1_synth.commands import export, status, think

COMMANDS = {
    "think": (think, "write several thoughts about each query"),
    "status": (status, "say how a job stands"),
    "export": (export, "write the thoughts that a job has so far"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    args.argv = list(argv)  # to say how to resume
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-synth", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_synth.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run=module.run)
        module.declare(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
