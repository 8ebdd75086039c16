"""`o1-bench run`: a model on a collection or on those of a suite, with its controls."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from o1_bench.commands import _shared
from o1_bench.reporting.rows import by_collection
from o1_bench.reporting.words import suite_table, table
from o1_bench.results.result import Result
from o1_bench.running.run import run as run_models
from o1_bench.running.systems import Options
from o1_records.kit.command import EVERYTHING, at_least, new_job, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    for flag, needed, says in (
        (
            "--model",
            True,
            "bm25, a checkpoint of o1-model, a TREC run (or a folder with one per collection), or the "
            "folder or hub id of a sentence-transformers model",
        ),
        ("--hybrid", False, "a second model to fuse with, by reciprocal rank"),
    ):
        reads(
            command, flag, type=str, required=needed, inside=EVERYTHING, paths=_files_of_model,
            metavar="MODEL", help=says,
        )  # fmt: skip
    writes(command, "--out", folder=True, required=True, metavar="DIR", help="the folder of all results")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--suite", nargs="+", default=[], metavar="NAME", help="suites or collections, such as o1"
    )
    _shared.collection(what, "--collection", metavar="DIR", help=_shared.COLLECTION)
    _shared.split(command)
    reads(
        command,
        "--data",
        default=Path("data"),
        inside=(),
        metavar="DIR",
        help="the folder of all data of suites",
    )
    command.add_argument(
        "--measures", nargs="+", type=_shared.measure, metavar="MEASURE",
        help="such as nDCG@10; else those of the collection's protocol",
    )  # fmt: skip
    command.add_argument(
        "--k", type=at_least(1), default=1000, metavar="N", help="largest number of hits per query"
    )
    command.add_argument("--device", default="cpu", help="where models run")
    new_job(command)
    thoughts = command.add_argument_group("thoughts")
    reads(
        thoughts, "--thoughts", inside=("*.jsonl",), metavar="PATH",
        help="thoughts to run with: JSONL, or a folder with one file per collection",
    )  # fmt: skip
    _shared.milliseconds(thoughts, "--think-ms", "time that writing them took, per query")
    thoughts.add_argument("--oracle", action="store_true", help="the given thoughts look at the answer")
    thoughts.add_argument("--think", action="store_true", help="a checkpoint writes thoughts of its own")
    thoughts.add_argument(
        "--controls", action="store_true", help="run empty, shuffled and filler thoughts too"
    )
    for name in ("think", "embed"):
        thoughts.add_argument(
            f"--{name}-options", type=shlex.split, default=[], metavar="TEXT",
            help=f"options of `o1-model {name}` for a checkpoint",
        )  # fmt: skip
    models = command.add_argument_group("models")
    _shared.lexical(models)
    models.add_argument(
        "--query-times", type=at_least(1), default=1, metavar="N",
        help="BM25: how often the query is repeated before thoughts",
    )  # fmt: skip
    models.add_argument("--batch", type=at_least(1), default=32, metavar="N", help="encoder: texts at a time")
    models.add_argument(
        "--max-length",
        type=at_least(1),
        metavar="N",
        help="encoder: tokens of a text; else the model's own limit",
    )
    models.add_argument(
        "--query-prompt", metavar="TEXT", help="encoder: goes before queries; {instruction} becomes the task"
    )
    models.add_argument("--document-prompt", metavar="TEXT", help="encoder: goes before documents")


def run(args: argparse.Namespace) -> int:
    """Run on each collection and print its table; those that fail are listed at the end."""
    results: list[Result] = []

    def tell(name: str, outcome: Sequence[Result] | Exception) -> None:
        if isinstance(outcome, Exception):
            _shared.say(f"error: {outcome}")
            return
        print(f"{outcome[0].collection.name}\n{table(outcome)}\n")
        results.extend(outcome)

    with _shared.partly() as outcome:
        run_models(
            args.model,
            args.out,
            suite=args.suite,
            collection=args.collection,
            data=args.data,
            split=args.split,
            hybrid=args.hybrid,
            measures=args.measures,
            k=args.k,
            thoughts=args.thoughts,
            think_ms=args.think_ms,
            oracle=args.oracle,
            think=args.think,
            controls=args.controls,
            options=Options(**{each.name: getattr(args, each.name) for each in fields(Options)}),
            new_job=args.new_job,
            tell=tell,
        )
    if len(by_collection(results)) > 1:
        print(suite_table(results))
    return outcome.code


def _files_of_model(model: str) -> list[str]:
    return [] if model == "bm25" else [model]
