"""The `o1-model` command: train, think, embed, gate, serve, verify."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import o1_model
from o1_model.commands import embed, gate, serve, think, train, verify
from o1_records import run_command

COMMANDS = {
    "think": (think, "write thoughts about queries"),
    "embed": (embed, "write vectors of a corpus or of queries"),
    "gate": (gate, "learn for which queries thinking pays"),
    "serve": (serve, "serve /v1/embeddings"),
    "verify": (verify, "compare a checkpoint's vectors with its certificate"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    if argv and argv[0] == "train":
        return train.run(argv[1:])
    args = _parser().parse_args(argv)
    args.typed = argv  # what resumes an interrupted run
    code: int = args.run(args)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-model", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_model.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("train", help="joint training; --help lists transformers' flags too")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run=module.run)
        module.declare(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
