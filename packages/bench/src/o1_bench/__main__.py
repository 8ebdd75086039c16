"""The `o1-bench` command: get a collection, run models on it, score, compare, report, verify."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import o1_bench
from o1_bench import options, suites
from o1_bench.compare import holm, paired_test
from o1_bench.controls import thought_texts
from o1_bench.datasets.stdlib import build_stdlib
from o1_bench.examples import WorkedExample, worked_examples
from o1_bench.inputs import (
    is_result,
    load_collection,
    load_qrels,
    load_thoughts,
    load_values,
    result_files,
    tasks,
)
from o1_bench.leaderboard import leaderboard
from o1_bench.report import suite_table, table, write_report
from o1_bench.result import (
    Milliseconds,
    Result,
    System,
    excluded_ids,
    load_result,
    save_result,
    verify_result,
)
from o1_bench.retrieve import bm25, with_thoughts
from o1_bench.rows import main_measure, refuse_unlike, side_by_side
from o1_bench.score import means, parse_measure, score
from o1_bench.systems import run_hybrid, run_model
from o1_bench.tasks import by_collection
from o1_bench.words import choose_focus, hundredths, interval, p_value, signed, value
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
    if args.name in BUILDERS:
        BUILDERS[args.name](args.out)
        _say(f"{args.out}: ready")
        return 0
    for name in suites.expand([args.name]):
        _say(f"{suites.fetch(name, args.out)}: ready")
    return 0


def _run(args: argparse.Namespace) -> int:
    results: list[Result] = []
    for task in tasks(args):
        of_task = run_model(args.model, task)
        if args.hybrid:
            others = run_model(args.hybrid, task)
            of_task += [*others, run_hybrid(of_task[0], others[0], task)]
        print(f"{task.collection.name}\n{table(of_task)}\n")
        results += of_task
    if len(by_collection(results)) > 1:
        print(suite_table(results))
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
    if not args.allow_different:
        refuse_unlike([load_result(path) for path in paths if is_result(path)])
    base, *others = [load_values(path, args.measure, qrels=args.qrels, split=args.split) for path in paths]
    if args.allow_different:
        base, *others = _shared([base, *others])
    tests = [paired_test(values, base, seed=args.seed) for values in others]
    print("\t".join(["run", str(args.measure), "difference", "95 % interval", "p", "moved"]))
    print(f"{args.baseline}\t{value(fmean(base.values()))}\tbaseline")
    corrected = holm([test.p_value for test in tests])
    for path, values, test, p in zip(args.others, others, tests, corrected, strict=True):
        moved = f"{test.wins} better, {test.ties} equal, {test.losses} worse"
        mean = value(fmean(values.values()))
        print(path, mean, signed(test.difference), interval(test), p_value(p), moved, sep="\t")
    return 0


def _shared(values: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The values of the queries that all have."""
    shared = set(values[0]).intersection(*values)
    _say(f"compared on the {len(shared)} queries that all have; collections or protocols may differ")
    return [{query_id: each[query_id] for query_id in sorted(shared)} for each in values]


def _report(args: argparse.Namespace) -> int:
    paths = [path for folder in args.results for path in result_files(folder)]
    results = [load_result(path) for path in paths]
    examples = _examples(args, dict(zip(paths, results, strict=True))) if args.collection else ()
    write_report(
        args.out, results, baseline=args.baseline, focus=args.focus, title=args.title, examples=examples
    )
    tables = suite_table if len(by_collection(results)) > 1 else table
    print(tables(results, baseline=args.baseline))
    _say(f"{args.out}: {len(results)} results; open it in a browser")
    return 0


def _examples(args: argparse.Namespace, results: Mapping[Path, Result]) -> list[WorkedExample]:
    collection = load_collection(args.collection, args.split)
    here = {path: r for path, r in results.items() if r.collection.digests == collection.digests}
    if not here:
        raise InputError(f"{args.collection}: none of the results was measured on {collection.name}")
    rows = side_by_side(list(here.values()), baseline=args.baseline)
    base = next(row.result for row in rows if row.is_baseline)
    about = choose_focus(rows, args.focus).result
    folder_of = {result.name: path if path.is_dir() else path.parent for path, result in here.items()}
    before, after = folder_of[base.name], folder_of[about.name]
    return worked_examples(
        collection,
        before=read_run(before / "run.trec"),
        after=read_run(after / "run.trec"),
        thoughts=load_thoughts(args.thoughts or after / "thoughts.jsonl", collection.name),
        count=args.examples,
        measure=parse_measure(main_measure(base)),
    )


def _leaderboard(args: argparse.Namespace) -> int:
    results = [load_result(path) for folder in args.results for path in result_files(folder)]
    board = leaderboard(results)
    if board is None:
        _say("nothing published is known for these collections and measures")
        return 0
    print("\t".join(["system", *map(" ".join, zip(board.columns, board.measures, strict=True)), "source"]))
    for entry in board.entries:
        where = entry.source + (f" ({entry.note})" if entry.note else "")
        print("\t".join([entry.system, *map(hundredths, entry.values), where or "measured here"]))
    return 0


def _verify(args: argparse.Namespace) -> int:
    wrong = 0
    for path in (path for folder in args.results for path in result_files(folder)):
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
    "fetch": (_fetch, options.fetch, "build or download a collection"),
    "run": (_run, options.run, "run a model on a suite of collections, with its controls"),
    "bm25": (_bm25, options.bm25, "search a BEIR folder with BM25"),
    "score": (_score, options.score, "score a run"),
    "compare": (_compare, options.compare, "test runs against a baseline, query by query"),
    "report": (_report, options.report, "write one HTML file about results"),
    "leaderboard": (_leaderboard, options.leaderboard, "published figures beside ours"),
    "verify": (_verify, options.verify, "recompute the metrics of results from their files"),
}


if __name__ == "__main__":
    sys.exit(main())
