"""What all commands share: their parser, their exit codes, the check of a number."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from o1_records.files import InputError, MissingExtraError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace  # at work only, so that `import o1_records` stays light


class Command(Protocol):
    """A module with one command."""

    def declare(self, command: ArgumentParser, /) -> None:
        """Add its options."""

    def run(self, args: Namespace, /) -> int:
        """Do it and return the exit code. `args.typed` is the command line."""


# by name, with what `--help` says of it; a command in several steps is such a mapping itself
Commands: TypeAlias = "Mapping[str, tuple[Command | Commands, str]]"


def parser_of(commands: Commands, *, prog: str, version: str, description: str | None) -> ArgumentParser:
    """The parser of a program that has several commands."""
    from argparse import ArgumentParser

    parser = ArgumentParser(prog=prog, description=description)
    parser.add_argument("--version", action="version", version=version)
    add_commands(parser, commands)
    return parser


def add_commands(parser: ArgumentParser, commands: Commands) -> None:
    """Let a parser go on with one of several commands."""
    choices = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (chosen, purpose) in commands.items():
        command = choices.add_parser(name, help=purpose, description=purpose)
        if isinstance(chosen, Mapping):
            add_commands(command, chosen)
        else:
            command.set_defaults(chosen_command=chosen)
            chosen.declare(command)


def run_chosen(parser: ArgumentParser, argv: Sequence[str]) -> int:
    """Run the command that a command line names, with a parser of `parser_of`."""
    args = parser.parse_args(argv)
    args.typed = list(argv)
    chosen: Command = vars(args).pop("chosen_command")  # a module cannot go to another process
    return chosen.run(args)


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command; turn what a user can mend into one line on stderr and an exit code.

    Returns 0 done, 2 usage (argparse), 3 partly done, 4 bad input or a broken surrounding
    (disk, missing file, missing extra), 130 interrupted.
    """
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except (InputError, MissingExtraError) as error:
        message = str(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    print(f"error: {message}", file=sys.stderr)
    return 4


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `least`."""

    def whole(text: str) -> int:
        from argparse import ArgumentTypeError  # here, so that `import o1_records` stays light

        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return number

    return whole
