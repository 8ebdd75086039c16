"""`o1-bench score`: score a run, and keep it as a result."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from o1_bench.commands import options
from o1_bench.commands.options import say
from o1_bench.inputs import load_collection, load_judgements, protocol
from o1_bench.result import Kind, Milliseconds, System, excluded_ids, save_result
from o1_bench.score import means, score
from o1_records import Exclusion, Hit, InputError, Qrel, read_jsonl, write_jsonl
from o1_records.trec import read_run


def declare(command: argparse.ArgumentParser) -> None:
    """A run, its judgements, and what to keep of the scores."""
    command.add_argument("--run", type=Path, required=True, help="a TREC run")
    options.qrels(command, required=True)
    command.add_argument("--measures", nargs="+", type=options.measure, help="such as nDCG@10 RR(rel=2)@10")
    command.add_argument(
        "--excluded", type=Path, help="documents never counted (JSONL), instead of the collection's own"
    )
    command.add_argument("--per-query", type=Path, metavar="FILE", help="metrics to write (JSONL)")
    saved = command.add_argument_group("a result to keep (--qrels must be a BEIR folder or ROOT/NAME)")
    saved.add_argument("--result", type=Path, metavar="DIR")
    saved.add_argument("--name", default="", help="of the run; its file name by default")
    saved.add_argument("--kind", choices=get_args(Kind), default="system")
    saved.add_argument("--note", default="", help="a line under the name")
    for stage in ("think", "embed", "search"):
        saved.add_argument(f"--{stage}-ms", type=float, help="milliseconds per query")


def run(args: argparse.Namespace) -> int:
    """Score, then keep; metrics and result leave out the same documents."""
    hits = list(read_run(args.run))
    measures = args.measures or protocol(args.qrels)
    given = excluded_ids(read_jsonl(args.excluded, Exclusion)) if args.excluded else None
    if args.result:
        collection = load_collection(args.qrels, args.split, given)
        qrels, excluded = list(collection.qrels), collection.excluded
    else:
        qrels, own = load_judgements(args.qrels, args.split)
        excluded = own if given is None else given
    _refuse_strangers(args, hits, qrels)
    metrics = score(qrels, hits, measures=measures, excluded=excluded)
    if args.per_query:
        write_jsonl(args.per_query, metrics)
    if args.result:
        save_result(args.result, _system(args), collection=collection, hits=hits, measures=measures)
    for measure, number in means(metrics).items():
        print(f"{measure}\t{number:.4f}")
    return 0


def _system(args: argparse.Namespace) -> System:
    times = Milliseconds(think=args.think_ms, embed=args.embed_ms, search=args.search_ms)
    return System(name=args.name or args.run.stem, kind=args.kind, note=args.note, milliseconds=times)


def _refuse_strangers(args: argparse.Namespace, hits: list[Hit], qrels: Iterable[Qrel]) -> None:
    judged = {qrel.query_id for qrel in qrels}
    found = {hit.query_id for hit in hits}
    if hits and not judged & found:
        raise InputError(
            f"{args.run}: none of its {len(found)} queries is judged in {args.qrels}; "
            "do the two belong together?"
        )
    if missing := len(judged - found):
        say(f"{missing} of {len(judged)} judged queries retrieved nothing and count 0")
