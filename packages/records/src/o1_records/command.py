"""Old place of `o1_records.kit.command`, until the siblings have moved."""

from argparse import ArgumentParser
from collections.abc import Sequence

from o1_records.kit.command import Commands as Commands
from o1_records.kit.command import Program
from o1_records.kit.command import at_least as at_least
from o1_records.kit.command import run_command as run_command


def parser_of(commands: Commands, *, prog: str, version: str, description: str | None) -> ArgumentParser:
    """Old."""
    return Program(prog, commands, version, description).parser()


def run_chosen(parser: ArgumentParser, argv: Sequence[str]) -> int:
    """Old."""
    from o1_records.kit.command import refuse_conflicts

    args = parser.parse_args(argv)
    args.typed = list(argv)
    chosen, own = vars(args).pop("chosen_command")
    refuse_conflicts(own, args)
    code: int = chosen.run(args)
    return code
