"""What several commands share: options, and how they talk."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from o1_bench._partly import PartlyDoneError
from o1_bench.datasets.suites import files_read
from o1_bench.protocol import PROTOCOLS
from o1_bench.results.result import EXCLUDED, QRELS, RESULT, RUN, THOUGHTS, Result, find_results
from o1_bench.results.trace import TRACE
from o1_bench.score import Measure, parse_measure
from o1_records import InputError
from o1_records.kit.command import at_least, between, reads

RESULT_FILES = (RUN, QRELS, EXCLUDED, THOUGHTS, RESULT, TRACE)
COLLECTION = "a BEIR folder, or ROOT/NAME such as data/bright/biology"


def collection(command: Any, flag: str, **options: Any) -> None:
    """Add an option that names a collection, or its judgements."""
    reads(command, flag, type=Path, inside=(), paths=files_read, **options)


def split(command: Any) -> None:
    """Add `--split` and `--protocol`."""
    command.add_argument(
        "--split", metavar="NAME", help="split of a BEIR folder; by default test, or dev of MS MARCO"
    )
    command.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        metavar="NAME",
        help=f"how it is evaluated: {', '.join(PROTOCOLS)}; else its own (collection.json, or by its name)",
    )


def measures(command: Any, says: str) -> None:
    """Add `--measures`."""
    command.add_argument(
        "--measures", nargs="+", type=measure, metavar="MEASURE",
        help=f"such as nDCG@10 R_cap@100 RR(rel=2)@10, {says}",
    )  # fmt: skip


def tests(command: Any) -> None:
    """Add the settings of significance tests."""
    command.add_argument("--seed", type=at_least(0), metavar="N", help="seed of the tests; else 0")
    command.add_argument(
        "--permutations", type=at_least(1), metavar="N",
        help="random sign flips and bootstrap samples of each test; else 10000",
    )  # fmt: skip


def tested(args: argparse.Namespace) -> dict[str, int]:
    """Return the settings of tests that were given."""
    settings = {"seed": args.seed, "permutations": args.permutations}
    return {name: value for name, value in settings.items() if value is not None}


def given_of_tests(args: argparse.Namespace) -> list[str]:
    """Return the options of tests that were given."""
    return [f"--{name}" for name in tested(args)]


def usage(text: str) -> NoReturn:
    """Raise InputError: options do not belong together."""
    raise InputError(text)


def lexical(command: Any) -> None:
    """Add the settings of BM25."""
    command.add_argument("--split-identifiers", action="store_true", help="BM25: for code")
    command.add_argument("--k1", type=between(0, math.inf), default=0.9, help="BM25: k1")
    command.add_argument("--b", type=between(0, 1), default=0.4, help="BM25: b")
    command.add_argument(
        "--query-weights",
        action="store_true",
        help="BM25: weigh the terms of queries too, as BRIGHT's published baseline does",
    )


def unescaped(text: str) -> str:
    r"""Return text of the command line with \n and \t as a new line and a tab, as FlagEmbedding does."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def milliseconds(command: Any, flag: str, text: str) -> None:
    """Add an option for a time per query."""
    command.add_argument(flag, type=between(0, math.inf), metavar="MS", help=text)


def results(command: Any, *flags: str, **options: Any) -> None:
    """Add an option that names results."""
    reads(command, *flags, inside=RESULT_FILES, **options)


def qrels(command: Any, *, required: bool) -> None:
    """Add `--qrels` and `--split`, which say what runs are scored against."""
    collection(
        command, "--qrels", required=required, metavar="PATH", help=f"a TREC qrels file, or {COLLECTION}"
    )
    split(command)


def measure(text: str) -> Measure:
    """Return a measure on the command line; a wrong one is a usage error."""
    try:
        return parse_measure(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def found(paths: Sequence[Path]) -> list[Path]:
    """Return the results in paths, and say which were left out."""
    there = find_results(paths)
    if there.moved_aside:
        say(f"left out, moved aside by --new-job: {', '.join(map(str, there.moved_aside))}")
    return there.results


def warn(results: Iterable[Result]) -> None:
    """Say what a reader of the results should know."""
    for result in results:
        for sentence in result.said:
            say(f"{result.collection.name}, {result.name}: {sentence}")


@dataclass
class Outcome:
    """How a command ended."""

    code: int = 0


@contextlib.contextmanager
def partly() -> Iterator[Outcome]:
    """Say what was not done of several items; the exit code is 3 if some were done, 4 if none was."""
    outcome = Outcome()
    try:
        yield outcome
    except PartlyDoneError as error:
        say(str(error))
        outcome.code = 3 if error.done else 4


def say(text: str) -> None:
    """Talk on stderr; stdout is for data."""
    print(text, file=sys.stderr)
