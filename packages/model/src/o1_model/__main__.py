"""The `o1-model` command: train, think, embed, gate, serve, verify."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import o1_model
from o1_model.commands import embed, gate, serve, think, train, verify
from o1_records.command import parser_of, run_chosen, run_command

COMMANDS = {
    "train": (train, "joint training; --help lists transformers' flags too"),
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
    if argv and argv[0] == "train":  # transformers' parser reads the rest
        return train.run(Namespace(typed=argv))
    return run_chosen(_parser(), argv)


def _parser() -> ArgumentParser:
    return parser_of(COMMANDS, prog="o1-model", version=o1_model.__version__, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
