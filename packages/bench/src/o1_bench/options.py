"""The options of each command of `o1-bench`, a function a command; `o1_bench.__main__` runs them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

from o1_bench.result import Kind
from o1_bench.score import DEFAULT, Measure, parse_measure
from o1_records import InputError


def fetch(command: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """What to build, of those that can be, and where."""
    command.add_argument("name", choices=tuple(names))
    command.add_argument("--out", type=Path, required=True, metavar="DIR")


def bm25(command: argparse.ArgumentParser) -> None:
    """What to search, how and for what."""
    command.add_argument("--collection", type=Path, required=True, metavar="DIR")
    command.add_argument("--run", type=Path, required=True, help="the TREC run to write")
    command.add_argument("--split", default="test")
    command.add_argument("--thoughts", type=Path, help="thoughts to append to the queries (JSONL)")
    command.add_argument("--split-identifiers", action="store_true", help="for code")
    command.add_argument("--k1", type=float, default=0.9)
    command.add_argument("--b", type=float, default=0.4)
    command.add_argument("--k", type=_at_least(1), default=1000, help="documents per query")


def score(command: argparse.ArgumentParser) -> None:
    """A run, its judgements, and what to keep of the scores."""
    command.add_argument("--run", type=Path, required=True, help="a TREC run")
    _qrels_options(command, required=True)
    command.add_argument(
        "--measures", nargs="+", type=_measure, default=DEFAULT, help="such as nDCG@10 RR(rel=2)@10"
    )
    command.add_argument("--excluded", type=Path, help="documents never counted (JSONL)")
    command.add_argument("--per-query", type=Path, metavar="FILE", help="metrics to write (JSONL)")
    saved = command.add_argument_group("a result to keep (--qrels must be a BEIR folder)")
    saved.add_argument("--result", type=Path, metavar="DIR")
    saved.add_argument("--name", default="", help="of the run; its file name by default")
    saved.add_argument("--kind", choices=get_args(Kind), default="system")
    saved.add_argument("--note", default="", help="a line under the name")
    for stage in ("think", "embed", "search"):
        saved.add_argument(f"--{stage}-ms", type=float, help="milliseconds per query")


def compare(command: argparse.ArgumentParser) -> None:
    """A baseline, the others, and the measure they are compared by."""
    command.add_argument("baseline", type=Path, help="a result, metrics (.jsonl) or a run")
    command.add_argument("others", type=Path, nargs="+", metavar="other")
    command.add_argument("--measure", type=_measure, default=DEFAULT[0])
    command.add_argument("--seed", type=_at_least(0), default=0)
    _qrels_options(command, required=False)


def report(command: argparse.ArgumentParser) -> None:
    """The results of a report and what it says first."""
    command.add_argument(
        "--results", type=Path, nargs="+", required=True, help="results, or a folder of them"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE")
    command.add_argument("--baseline", default="", help="name of a result; the first by default")
    command.add_argument("--focus", default="", help="name of the result that the summary is about")
    command.add_argument("--title", default="Retrieval report")


def verify(command: argparse.ArgumentParser) -> None:
    """The results to verify."""
    command.add_argument("results", type=Path, nargs="+", metavar="RESULT")


def _qrels_options(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--qrels", type=Path, required=required, help="a TREC qrels file or a BEIR folder")
    command.add_argument("--split", default="test", help="of the BEIR folder")


def _measure(text: str) -> Measure:
    try:
        return parse_measure(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _at_least(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return number

    return whole
