"""What several commands share: options, and how they talk."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o1_bench._partly import PartlyDoneError
from o1_bench.datasets.suites import files_read
from o1_bench.results.result import EXCLUDED, QRELS, RESULT, RUN, THOUGHTS, find_results
from o1_bench.score import Measure, parse_measure
from o1_records import InputError
from o1_records.kit.command import between, reads

RESULT_FILES = (RUN, QRELS, EXCLUDED, THOUGHTS, RESULT)
COLLECTION = "a BEIR folder, or ROOT/NAME such as data/bright/biology"


def collection(command: Any, flag: str, **options: Any) -> None:
    """Add an option that names a collection, or its judgements."""
    reads(command, flag, type=Path, inside=(), paths=files_read, **options)


def split(command: Any) -> None:
    """Add `--split`."""
    command.add_argument("--split", default="test", metavar="NAME", help="split of a BEIR folder")


def lexical(command: Any) -> None:
    """Add the settings of BM25."""
    command.add_argument("--split-identifiers", action="store_true", help="BM25: for code")
    command.add_argument("--k1", type=between(0, math.inf), default=0.9, help="BM25: k1")
    command.add_argument("--b", type=between(0, 1), default=0.4, help="BM25: b")


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
