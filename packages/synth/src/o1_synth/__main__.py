"""The `o1-synth` command: thoughts of a language model about queries, keyed and resumable."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import o1_synth
from o1_records.command import Commands, parser_of, run_chosen, run_command
from o1_synth.commands import export, status, think
from o1_synth.commands.remix import STEPS

COMMANDS: Commands = {
    "think": (think, "write several thoughts about each query"),
    "remix": (STEPS, "training data made of documents: clean, write, mine, annotate"),
    "status": (status, "say how a job stands"),
    "export": (export, "write the thoughts that a job has so far"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    return run_chosen(_parser(), argv)


def _parser() -> ArgumentParser:
    return parser_of(COMMANDS, prog="o1-synth", version=o1_synth.__version__, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
