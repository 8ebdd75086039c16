"""The `o1-bench` command: build a collection, retrieve with BM25, score, compare, report, verify."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import o1_bench
from o1_bench import options
from o1_bench.compare import holm, paired_test
from o1_bench.controls import thought_texts
from o1_bench.datasets.stdlib import build_stdlib
from o1_bench.inputs import is_result, load_collection, load_qrels, load_values, result_files
from o1_bench.report import table, write_report
from o1_bench.result import (
    Milliseconds,
    System,
    excluded_ids,
    load_result,
    save_result,
    verify_result,
)
from o1_bench.retrieve import bm25, with_thoughts
from o1_bench.rows import refuse_unlike
from o1_bench.score import means, score
from o1_bench.words import interval, p_value, signed, value
from o1_records import (
    Exclusion,
    Hit,
    InputError,
    Qrel,
    Query,
    Thought,
    read_jsonl,
    run_command,
    write_jsonl,
)
from o1_records.trec import read_run, write_run

Run = Callable[[argparse.Namespace], int]
Declare = Callable[[argparse.ArgumentParser], None]

BUILDERS: dict[str, Callable[[Path], object]] = {"stdlib": build_stdlib}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    code: int = args.run_command(args)
    return code


def _fetch(args: argparse.Namespace) -> int:
    BUILDERS[args.name](args.out)
    _say(f"{args.out}: ready")
    return 0


def _bm25(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    collection = load_collection(args.collection, args.split)
    queries: Sequence[Query] = collection.queries
    if args.thoughts:
        queries = with_thoughts(queries, thought_texts(read_jsonl(args.thoughts, Thought)))
    retrieve = bm25(collection, k1=args.k1, b=args.b, split_identifiers=args.split_identifiers)

    def hits() -> Iterator[Hit]:
        for query in tqdm(queries, "bm25", unit=" queries", disable=None):
            yield from retrieve([query], args.k)

    began = time.perf_counter()
    count = write_run(args.run, hits(), tag="bm25")
    each = 1000 * (time.perf_counter() - began) / len(queries)
    _say(f"{args.run}: {count} hits for {len(queries)} queries, {each:.1f} ms per query")
    return 0


def _score(args: argparse.Namespace) -> int:
    hits = list(read_run(args.run))
    excluded = excluded_ids(read_jsonl(args.excluded, Exclusion)) if args.excluded else {}
    collection = load_collection(args.qrels, args.split, excluded) if args.result else None
    qrels = collection.qrels if collection else load_qrels(args.qrels, args.split)
    _refuse_strangers(args, hits, qrels)
    metrics = score(qrels, hits, measures=args.measures, excluded=excluded)
    if args.per_query:
        write_jsonl(args.per_query, metrics)
    if collection:
        save_result(args.result, _system(args), collection=collection, hits=hits, measures=args.measures)
    for measure, number in means(metrics).items():
        print(f"{measure}\t{number:.4f}")
    return 0


def _system(args: argparse.Namespace) -> System:
    times = Milliseconds(think=args.think_ms, embed=args.embed_ms, search=args.search_ms)
    return System(name=args.name or args.run.stem, kind=args.kind, note=args.note, milliseconds=times)


def _compare(args: argparse.Namespace) -> int:
    paths = [args.baseline, *args.others]
    refuse_unlike([load_result(path) for path in paths if is_result(path)])
    base, *others = [load_values(path, args.measure, qrels=args.qrels, split=args.split) for path in paths]
    tests = [paired_test(values, base, seed=args.seed) for values in others]
    print("\t".join(["run", str(args.measure), "difference", "95 % interval", "p", "moved"]))
    print(f"{args.baseline}\t{value(fmean(base.values()))}\tbaseline")
    corrected = holm([test.p_value for test in tests])
    for path, values, test, p in zip(args.others, others, tests, corrected, strict=True):
        moved = f"{test.wins} better, {test.ties} equal, {test.losses} worse"
        mean = value(fmean(values.values()))
        print(path, mean, signed(test.difference), interval(test), p_value(p), moved, sep="\t")
    return 0


def _report(args: argparse.Namespace) -> int:
    results = [load_result(path) for folder in args.results for path in result_files(folder)]
    write_report(args.out, results, baseline=args.baseline, focus=args.focus, title=args.title)
    print(table(results, baseline=args.baseline))
    _say(f"{args.out}: {len(results)} results; open it in a browser")
    return 0


def _verify(args: argparse.Namespace) -> int:
    wrong = 0
    for path in args.results:
        differing = verify_result(path)
        wrong += bool(differing)
        print(f"{path}: " + ("differs" if differing else "every metric came out the same"))
        for line in differing:
            print(f"  {line}")
    return 4 if wrong else 0


def _refuse_strangers(args: argparse.Namespace, hits: list[Hit], qrels: Iterable[Qrel]) -> None:
    judged = {qrel.query_id for qrel in qrels}
    found = {hit.query_id for hit in hits}
    if hits and not judged & found:
        raise InputError(
            f"{args.run}: none of its {len(found)} queries is judged in {args.qrels}; "
            "do the two belong together?"
        )
    if missing := len(judged - found):
        _say(f"{missing} of {len(judged)} judged queries retrieved nothing and count 0")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-bench", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_bench.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, declare, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run_command=run)
        declare(command)
    return parser


COMMANDS: dict[str, tuple[Run, Declare, str]] = {
    "fetch": (_fetch, partial(options.fetch, names=BUILDERS), "build a collection"),
    "bm25": (_bm25, options.bm25, "search a BEIR folder with BM25"),
    "score": (_score, options.score, "score a run"),
    "compare": (_compare, options.compare, "test runs against a baseline, query by query"),
    "report": (_report, options.report, "write one HTML file about results"),
    "verify": (_verify, options.verify, "recompute the metrics of results from their files"),
}


if __name__ == "__main__":
    sys.exit(main())
