"""The program behind every command: parsing, help, exit codes, signals, and outputs that are not inputs.

```python
main = Program("o1-vote", {"elect": (elect, "elect a thought for each query")}, version=__version__)
```
A command is a module with `declare(parser)` and `run(args) -> int`. It declares its files with `reads` and
`writes`; before it runs, the program refuses an output that is an input or another output, and a pipe as an
input that is read more than once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from o1_records.files import InputError, InputWarning, MissingExtraError, is_folder

if TYPE_CHECKING:  # imported at run time only where it is used, so that `import o1_records` stays light
    from argparse import Action, ArgumentParser, HelpFormatter, Namespace, _ActionsContainer
    from types import FrameType

BEIR = ("corpus.jsonl*", "queries.jsonl*", "qrels/*", "collection.json", "excluded*")
"""What is read inside a folder of queries, documents or judgements."""
EVERYTHING = ("**/*",)
"""What is read inside a checkpoint, an index or a folder of vectors."""


class Command(Protocol):
    """A module with one command."""

    def declare(self, command: ArgumentParser, /) -> None:
        """Add the options."""

    def run(self, args: Namespace, /) -> int:
        """Run the command and return its exit code. `args.typed` is the command line."""


Commands: TypeAlias = "Mapping[str, tuple[Command | Commands, str]]"
"""Commands by name, each with one line for `--help`. A command with steps is itself such a mapping."""


@dataclass(frozen=True)
class Program:
    """A command-line program; call it with the arguments (default: `sys.argv[1:]`) for its exit code.

    Exit codes: 0 done, 2 wrong usage, 3 partly done, 4 bad input or a broken environment (disk, missing
    file, missing extra), 130 interrupted by Ctrl-C, 143 ended by SIGTERM.

    A command module with `own_parser = True` parses its arguments itself, from `args.typed`, and calls
    `refuse_overwriting` itself.
    """

    name: str
    commands: Commands
    version: str
    description: str | None = None

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the command that `argv` names and return its exit code."""
        return run_command(self._run, argv)

    def parser(self) -> ArgumentParser:
        """Return the parser of all commands."""
        from argparse import ArgumentParser

        parser = ArgumentParser(self.name, description=self.description, formatter_class=_formatter())
        parser.add_argument("--version", action="version", version=self.version)
        _add_commands(parser, self.commands)
        return parser

    def _run(self, argv: Sequence[str]) -> int:
        from argparse import Namespace

        first = self.commands.get(argv[0], (None, ""))[0] if argv else None
        if first is not None and not isinstance(first, Mapping) and getattr(first, "own_parser", False):
            return first.run(Namespace(typed=list(argv)))
        args = self.parser().parse_args(argv)
        args.typed = list(argv)
        # removed, because a module cannot be sent to another process
        chosen, parser = vars(args).pop("chosen_command")
        refuse_conflicts(parser, args)
        code: int = chosen.run(args)
        return code


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run `main` and turn errors that a user can correct into one line on stderr and an exit code.

    The exit codes are those of `Program`. An InputWarning is a line on stderr, too, once for each message.
    """
    try:
        with _terminable(), _notes():
            return main(sys.argv[1:] if argv is None else argv)
    except (InputError, MissingExtraError) as error:
        message = str(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
    except Terminated:
        print("terminated; run the same command again to resume", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    print(f"error: {message}", file=sys.stderr)
    return 4


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: treated like Ctrl-C, with an exit code of its own."""


@contextlib.contextmanager
def gentle(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at the first Ctrl-C or SIGTERM, so that work in flight is finished; the next one ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def finish(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()
        print("finishing what is in flight; Ctrl-C again to stop at once", file=sys.stderr)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, finish)
    try:
        yield
    finally:
        restore()


# --- options ------------------------------------------------------------------------------------------


def reads(
    command: _ActionsContainer,
    *flags: str,
    inside: Sequence[str] = BEIR,
    beside: Sequence[str] = (),
    once: bool = False,
    paths: Callable[[Any], Iterable[str | Path]] | None = None,
    **options: Any,
) -> Action:
    """Add an option (`add_argument`'s arguments) that names a file or folder the command reads.

    Args:
        command: the parser or group.
        *flags: the option's names.
        inside: glob patterns of what is read where the value is a folder.
        beside: suffixes of further files that are read next to it.
        once: the file is read a single time from start to end, so a pipe will do.
        paths: returns the paths that a value names, where the value is not a path itself.
        **options: for `add_argument`; the type is Path unless given.
    """
    if paths is None:
        options.setdefault("type", Path)
    action = command.add_argument(*flags, **options)
    setattr(action, _ROLE, _Input(tuple(inside), tuple(beside), once, paths or _paths))
    return action


def writes(
    command: _ActionsContainer, *flags: str, folder: bool = False, beside: Sequence[str] = (), **options: Any
) -> Action:
    """Add an option (`add_argument`'s arguments) that names a file, or a `folder`, the command writes.

    `beside` are suffixes of further files that are written next to it, such as ".failures.jsonl".
    """
    options.setdefault("type", Path)
    action = command.add_argument(*flags, **options)
    setattr(action, _ROLE, _Output(folder, tuple(beside)))
    return action


def new_job(command: _ActionsContainer) -> None:
    """Add `--new-job`, the answer to earlier work with other settings."""
    command.add_argument(
        "--new-job",
        action="store_true",
        help="move earlier work with other settings aside, to NAME.old1, and start again; nothing is deleted",
    )


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number of `least` or more."""

    def whole(text: str) -> int:
        from argparse import ArgumentTypeError

        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return number

    return whole


def between(low: float, high: float, *, open_low: bool = False) -> Callable[[str], float]:
    """Return an argparse type: a number from `low` (with `open_low`, above it) to `high`."""

    def number(text: str) -> float:
        from argparse import ArgumentTypeError

        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (low < value if open_low else low <= value) or not value <= high:
            lower = f"above {low:g} and at most" if open_low else f"between {low:g} and"
            raise ArgumentTypeError(f"must be {lower} {high:g}, got {text!r}")
        return value

    return number


# --- outputs are not inputs ---------------------------------------------------------------------------


class _Input(NamedTuple):
    inside: tuple[str, ...]
    beside: tuple[str, ...]
    once: bool
    paths: Callable[[Any], Iterable[str | Path]]


class _Output(NamedTuple):
    folder: bool
    beside: tuple[str, ...]


_ROLE = "o1_role"


def role_of(action: Action) -> _Input | _Output | None:
    """Return what `reads` or `writes` declared about an option."""
    role: _Input | _Output | None = getattr(action, _ROLE, None)
    return role


def refuse_conflicts(parser: ArgumentParser, args: Namespace) -> None:
    """Raise InputError where a declared output is an input or another output.

    Also where an input that is read more than once is a pipe.
    """
    inputs: list[tuple[str, Path, Sequence[str]]] = []
    outputs: list[tuple[str, Path, bool]] = []
    for action in parser._actions:
        role, value = role_of(action), getattr(args, action.dest, None)
        name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)
        if role is None or value is None:
            continue
        if isinstance(role, _Output):
            for path in _paths(value):
                outputs.append((name, Path(path), role.folder))
                outputs += [
                    (f"the {suffix} file of {name}", Path(f"{path}{suffix}"), False) for suffix in role.beside
                ]
            continue
        for path in role.paths(value):
            inputs += [(name, Path(f"{path}{suffix}"), role.inside) for suffix in ("", *role.beside)]
            if not role.once and _is_stream(Path(path)):
                raise InputError(
                    f"{name} {path} is a pipe, which can be read only once, and this command reads its input "
                    "more than once; write it to a file and name that"
                )
    _refuse(inputs, outputs)


def refuse_overwriting(
    inputs: Mapping[str, str | Path | None], outputs: Mapping[str, str | Path | None]
) -> None:
    """Raise InputError where an output is a file of an input, another output, or a folder.

    Both map an option to its path. Of an input that is a folder, the files of a BEIR collection count.
    Symbolic links are followed.
    """
    _refuse(
        [(option, Path(path), BEIR) for option, path in inputs.items() if path is not None],
        [(option, Path(path), False) for option, path in outputs.items() if path is not None],
    )


def _refuse(
    inputs: Iterable[tuple[str, Path, Sequence[str]]], outputs: Sequence[tuple[str, Path, bool]]
) -> None:
    for option, out, folder in outputs:
        if folder and out.is_file():
            raise InputError(f"{option} {out} is a file; name a folder")
        if is_folder(out) and not folder:
            raise InputError(f"{option} {out} is a folder; name a file")
    for (option, out, _), (other, again, _) in combinations(outputs, 2):
        if option != other and _same(out, again):
            raise InputError(f"{option} and {other} are one file, {out}; choose another for one of them")
    for option, path, inside in inputs:
        for name, out, _ in outputs:
            if _same(path, out) or (path.is_dir() and _within(out, path, inside)):
                asked = name.rpartition(" of ")[2]  # of a file beside an output: the output's option
                raise InputError(
                    f"{name} {out} would overwrite the input of {option}, {path}; choose another {asked}"
                )


def _within(out: Path, folder: Path, patterns: Sequence[str]) -> bool:
    """Return whether `out` is one of the files that a command reads in `folder`, existing or not."""
    try:
        inside = out.resolve().relative_to(folder.resolve())
    except ValueError:
        return False
    return tuple(patterns) == EVERYTHING or any(inside.match(pattern) for pattern in patterns)


def _same(file: Path, other: Path) -> bool:
    if file.exists() and other.exists():
        return file.samefile(other)
    return file.resolve() == other.resolve()


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _paths(value: Any) -> list[str | Path]:
    return list(value) if isinstance(value, list | tuple) else [value]


# --- the parser ---------------------------------------------------------------------------------------


def _add_commands(parser: ArgumentParser, commands: Commands) -> None:
    choices = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (chosen, purpose) in commands.items():
        command = choices.add_parser(name, help=purpose, description=purpose, formatter_class=_formatter())
        if isinstance(chosen, Mapping):
            _add_commands(command, chosen)
        else:
            command.set_defaults(chosen_command=(chosen, command))
            chosen.declare(command)


def _formatter() -> type[HelpFormatter]:
    from argparse import SUPPRESS, HelpFormatter

    class Formatter(HelpFormatter):
        """Show the default of every option that has one."""

        def _get_help_string(self, action: Action) -> str | None:
            default = action.default  # 0 is shown, which equals False
            shown = default is not None and default is not False and default not in (SUPPRESS, "", [], {}, ())
            if action.help and action.option_strings and shown and "default" not in action.help:
                return f"{action.help} (default: %(default)s)"
            return action.help

    return Formatter


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Show each InputWarning once, as a line on stderr."""
    import warnings

    told = set()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, InputWarning):
                others(message, category, *place, **more)
            elif str(message) not in told:
                told.add(str(message))
                print(f"note: {message}", file=sys.stderr)

        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that locks and temporary files are released."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
