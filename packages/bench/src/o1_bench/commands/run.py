"""`o1-bench run`: a model on a collection or on those of a suite, with its controls."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from o1_bench.commands import _shared
from o1_bench.reporting.rows import by_collection
from o1_bench.reporting.words import suite_table, table
from o1_bench.results.result import Result
from o1_bench.running.run import run as run_models
from o1_bench.running.systems import FUSIONS, Options
from o1_records.kit.command import EVERYTHING, at_least, between, new_job, reads, writes
from o1_records.kit.http import is_address
from o1_records.mixture import READINGS, Mixture


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    for flag, needed, says in (
        (
            "--model",
            True,
            "bm25, a checkpoint of o1-model, a run (or a folder with one per collection; TREC, or JSON of "
            "BEIR or FlagEmbedding), http://HOST/v1#NAME (an OpenAI-compatible server), or the folder or hub "
            "id of a sentence-transformers model",
        ),
        ("--hybrid", False, "a second model to fuse with"),
        ("--rerank", False, "a cross-encoder that orders the first hits of every system"),
    ):
        reads(
            command, flag, type=str, required=needed, inside=EVERYTHING, paths=_files_of_model,
            metavar="MODEL", help=says,
        )  # fmt: skip
    command.add_argument("--name", default="", help="what results call the model; else after its file or id")
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
    _shared.measures(command, "instead of those of the collection's protocol")
    command.add_argument(
        "--k", type=at_least(1), default=1000, metavar="N", help="largest number of hits per query"
    )
    command.add_argument("--device", default="cpu", help="where models run")
    command.add_argument(
        "--seed", type=at_least(0), metavar="N",
        help="of the model's training or sampling; results of several are one row, with the spread",
    )  # fmt: skip
    new_job(command)
    several = command.add_argument_group("several models")
    several.add_argument("--hybrid-name", default="", metavar="NAME", help="what results call the second one")
    several.add_argument(
        "--fusion", choices=FUSIONS, help="rrf: by reciprocal rank; minmax, z, sum: of scores; else rrf"
    )
    several.add_argument(
        "--weights", nargs=2, type=between(0, math.inf), metavar="W",
        help="of the model and the second one, such as .75 .25; else equal",
    )  # fmt: skip
    several.add_argument("--rerank-top", type=at_least(1), metavar="N", help="hits to rerank; else 100")
    thoughts = command.add_argument_group("thoughts")
    reads(
        thoughts, "--thoughts", inside=("*.jsonl",), metavar="PATH",
        help="thoughts to run with: JSONL, or a folder with one file per collection",
    )  # fmt: skip
    _shared.milliseconds(thoughts, "--think-ms", "time that writing them took, per query")
    thoughts.add_argument("--oracle", action="store_true", help="the given thoughts look at the answer")
    thoughts.add_argument("--think", action="store_true", help="a checkpoint writes thoughts of its own")
    thoughts.add_argument(
        "--controls",
        action="store_true",
        help="run empty, another query's and filler thoughts and copies of the query too",
    )
    thoughts.add_argument(
        "--mix", nargs="+", type=between(0, 1, open_low=True), default=[Mixture().weight], metavar="W",
        help="shares that thoughts get in a query, each in a run of its own",
    )  # fmt: skip
    thoughts.add_argument(
        "--reading", choices=READINGS, default="document",
        help="with --mix: how thoughts are read: as documents, as queries, or in one row with the query",
    )  # fmt: skip
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
    models.add_argument(
        "--batch", type=at_least(1), default=32, metavar="N", help="encoder, reranker: texts at a time"
    )
    models.add_argument(
        "--max-length",
        type=at_least(1),
        metavar="N",
        help="encoder, reranker: tokens of a text; else the protocol's limit, or the model's own",
    )
    models.add_argument(
        "--query-prompt",
        type=_shared.unescaped,
        metavar="TEXT",
        help="encoder: goes before queries; {instruction} becomes the task, \\n a new line; else the "
        "protocol's or the model's own",
    )
    models.add_argument(
        "--document-prompt",
        type=_shared.unescaped,
        metavar="TEXT",
        help="encoder: goes before documents; \\n becomes a new line",
    )


def run(args: argparse.Namespace) -> int:
    """Run on each collection and print its table; those that fail are listed at the end."""
    results: list[Result] = []

    def tell(name: str, outcome: Sequence[Result] | Exception) -> None:
        if isinstance(outcome, Exception):
            _shared.say(f"error: {outcome}")
            return
        first = outcome[0].collection
        print(f"{first.name}\n{table(outcome)}\n")
        if first.protocol is not None:
            _shared.say(f"{first.name}: protocol {first.protocol.words}")
        _shared.warn(outcome)
        results.extend(outcome)

    with _shared.partly() as outcome:
        run_models(
            args.model,
            args.out,
            suite=args.suite,
            collection=args.collection,
            data=args.data,
            split=args.split,
            protocol=args.protocol,
            name=args.name,
            hybrid=args.hybrid,
            hybrid_name=args.hybrid_name,
            fusion=args.fusion,
            weights=args.weights,
            rerank=args.rerank,
            rerank_top=args.rerank_top,
            measures=args.measures,
            k=args.k,
            thoughts=args.thoughts,
            think_ms=args.think_ms,
            oracle=args.oracle,
            think=args.think,
            controls=args.controls,
            seed=args.seed,
            options=Options(**{each.name: getattr(args, each.name) for each in fields(Options)}),
            new_job=args.new_job,
            tell=tell,
        )
    if len(by_collection(results)) > 1:
        print(suite_table(results))
    return outcome.code


def _files_of_model(model: str) -> list[str]:
    return [] if model == "bm25" or is_address(model) else [model]
