"""`o1-bench run`: a model on a collection or on those of a suite, with its controls."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from o1_bench.collection import Collection
from o1_bench.commands.options import measure
from o1_bench.commands.partly import Partly
from o1_bench.inputs import load_collection, load_thoughts, protocol
from o1_bench.report import suite_table, table
from o1_bench.result import Result
from o1_bench.suite_rows import by_collection
from o1_bench.suites import expand, load
from o1_bench.systems import run_hybrid, run_model
from o1_bench.task import Task, slug
from o1_records import InputError
from o1_records.command import at_least


def declare(command: argparse.ArgumentParser) -> None:
    """What runs, on what, with which thoughts."""
    command.add_argument(
        "--model", required=True, help="bm25, a checkpoint, a TREC run, or a sentence-transformers model"
    )
    command.add_argument("--hybrid", default="", metavar="MODEL", help="fuse with a second model by rank")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--suite", nargs="+", metavar="NAME", help="suites or collections, such as o1")
    what.add_argument("--collection", type=Path, metavar="DIR", help="a BEIR folder or ROOT/NAME")
    command.add_argument("--split", default="test", help="of the BEIR folder")
    command.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="where suites lie")
    command.add_argument("--measures", nargs="+", type=measure, help="the protocol's by default")
    command.add_argument("--k", type=at_least(1), default=1000, help="documents per query")
    command.add_argument("--device", default="cpu")
    _thought_options(command.add_argument_group("thoughts"))
    _model_options(command.add_argument_group("models"))


def run(args: argparse.Namespace) -> int:
    """Run on each collection when its turn comes; those that fail are listed at the end."""
    results: list[Result] = []
    work = Partly()
    for name, read in _collections(args):
        of_task = work.attempt(name, partial(_run, args, name, read))
        if of_task is not None:
            print(f"{of_task[0].collection.name}\n{table(of_task)}\n")
            results += of_task
    if len(by_collection(results)) > 1:
        print(suite_table(results))
    return work.code


def _collections(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Collection]]]:
    """Names, and what loads each; unknown names are refused before anything is loaded."""
    if args.collection:
        yield str(args.collection), partial(load_collection, args.collection, args.split)
        return
    names = expand(args.suite)
    if args.thoughts and len(names) > 1 and not args.thoughts.is_dir():
        raise InputError(f"{args.thoughts}: {len(names)} collections need a folder with a file for each")
    for name in names:
        yield name, partial(load, name, args.data)


def _run(args: argparse.Namespace, name: str, read: Callable[[], Collection]) -> Sequence[Result]:
    task = _task(args, name, read())
    results = run_model(args.model, task)
    if args.hybrid:
        others = run_model(args.hybrid, task)
        results += [*others, run_hybrid(results[0], others[0], task)]
    return results


def _task(args: argparse.Namespace, name: str, collection: Collection) -> Task:
    return Task(
        collection=collection,
        folder=args.out / slug(collection.name),
        measures=args.measures or protocol(Path(name)),
        k=args.k,
        thoughts=load_thoughts(args.thoughts, collection.name) if args.thoughts else (),
        think_ms=args.think_ms,
        oracle=args.oracle,
        think=args.think,
        controls=args.controls,
        device=args.device,
        lexical={"k1": args.k1, "b": args.b, "split_identifiers": args.split_identifiers},
        query_times=args.query_times,
        encoder={
            "batch": args.batch,
            "max_length": args.max_length,
            "query_prompt": args.query_prompt,
            "document_prompt": args.document_prompt,
        },
        options={"think": args.think_options, "embed": args.embed_options},
    )


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
