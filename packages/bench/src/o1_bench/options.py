"""The options of each command of `o1-bench`, a function a command; `o1_bench.__main__` runs them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import get_args

from o1_bench.result import Kind
from o1_bench.score import DEFAULT, Measure, parse_measure
from o1_records import InputError
from o1_records.files import at_least


def fetch(command: argparse.ArgumentParser) -> None:
    """What to build or download, and where."""
    command.add_argument("name", help="stdlib, a collection or a suite, such as bright/biology or bright")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="of stdlib; else the folder of all data"
    )


def run(command: argparse.ArgumentParser) -> None:
    """What runs, on what, with which thoughts."""
    command.add_argument(
        "--model", required=True, help="bm25, a checkpoint, a TREC run, or a sentence-transformers model"
    )
    command.add_argument("--hybrid", default="", metavar="MODEL", help="fuse with a second model by rank")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--suite", nargs="+", metavar="NAME", help="suites or collections, such as o1")
    what.add_argument("--collection", type=Path, metavar="DIR", help="a BEIR folder")
    command.add_argument("--split", default="test", help="of the BEIR folder")
    command.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="where suites lie")
    command.add_argument("--measures", nargs="+", type=_measure, help="the protocol's by default")
    command.add_argument("--k", type=at_least(1), default=1000, help="documents per query")
    command.add_argument("--device", default="cpu")
    _thought_options(command.add_argument_group("thoughts"))
    _model_options(command.add_argument_group("models"))


def _thought_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--thoughts", type=Path, metavar="PATH", help="JSONL, or a folder with one file per collection"
    )
    group.add_argument("--think-ms", type=float, help="what writing them took, a query")
    group.add_argument("--oracle", action="store_true", help="the given thoughts look at the answer")
    group.add_argument("--think", action="store_true", help="a checkpoint writes thoughts of its own")
    group.add_argument("--controls", action="store_true", help="also empty, shuffled and filler thoughts")
    for name in ("think", "embed"):
        group.add_argument(
            f"--{name}-options", type=shlex.split, default=[], metavar="TEXT", help=f"for o1-model {name}"
        )


def _model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--split-identifiers", action="store_true", help="BM25: for code")
    group.add_argument("--k1", type=float, default=0.9, help="BM25 (0.9)")
    group.add_argument("--b", type=float, default=0.4, help="BM25 (0.4)")
    group.add_argument(
        "--query-times", type=at_least(1), default=1, help="BM25: repeat the query before thoughts (1)"
    )
    group.add_argument("--batch", type=at_least(1), default=32, help="texts at a time")
    group.add_argument("--max-length", type=at_least(1), help="tokens a text; the model's own")
    group.add_argument("--query-prompt", help="before queries; {instruction} becomes the task")
    group.add_argument("--document-prompt", help="before documents")


def bm25(command: argparse.ArgumentParser) -> None:
    """What to search, how and for what."""
    command.add_argument("--collection", type=Path, required=True, metavar="DIR")
    command.add_argument("--run", type=Path, required=True, help="the TREC run to write")
    command.add_argument("--split", default="test")
    command.add_argument("--thoughts", type=Path, help="thoughts to append to the queries (JSONL)")
    command.add_argument("--split-identifiers", action="store_true", help="for code")
    command.add_argument("--k1", type=float, default=0.9)
    command.add_argument("--b", type=float, default=0.4)
    command.add_argument("--k", type=at_least(1), default=1000, help="documents per query")


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
    command.add_argument("--seed", type=at_least(0), default=0)
    command.add_argument(
        "--allow-different", action="store_true", help="other collections or protocols: shared queries only"
    )
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
    shown = command.add_argument_group("worked examples of one collection")
    shown.add_argument("--collection", type=Path, metavar="DIR", help="its BEIR folder")
    shown.add_argument("--split", default="test")
    shown.add_argument("--thoughts", type=Path, help="of the focus; kept beside its result by default")
    shown.add_argument("--examples", type=at_least(0), default=6)


def leaderboard(command: argparse.ArgumentParser) -> None:
    """The results to show beside published figures."""
    command.add_argument("results", type=Path, nargs="+", help="results, or folders of them")


def verify(command: argparse.ArgumentParser) -> None:
    """The results to verify."""
    command.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="or folders of them")


def _qrels_options(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--qrels", type=Path, required=required, help="a TREC qrels file or a BEIR folder")
    command.add_argument("--split", default="test", help="of the BEIR folder")


def _measure(text: str) -> Measure:
    try:
        return parse_measure(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
