"""The `o1-bench` command: build a collection, retrieve with BM25, score, compare, report, verify."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from statistics import fmean
from typing import get_args

from tqdm import tqdm

import o1_bench
from o1_bench.collection import Collection
from o1_bench.compare import holm, paired_test
from o1_bench.controls import thought_texts
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.stdlib import build_stdlib, load_stdlib
from o1_bench.report import table, write_report
from o1_bench.result import (
    Kind,
    Milliseconds,
    System,
    excluded_ids,
    load_result,
    save_result,
    verify_result,
)
from o1_bench.retrieve import bm25, with_thoughts
from o1_bench.rows import refuse_unlike
from o1_bench.score import DEFAULT, Measure, by_query, means, parse_measure, score
from o1_bench.words import interval, p_value, signed, value
from o1_records import (
    Exclusion,
    Hit,
    InputError,
    Metric,
    Qrel,
    Query,
    Thought,
    read_jsonl,
    run_command,
    write_jsonl,
)
from o1_records.trec import read_qrels, read_run, write_run

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
    collection = _collection(args.collection, args.split)
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
    collection = _collection(args.qrels, args.split, excluded) if args.result else None
    qrels = collection.qrels if collection else _qrels(args.qrels, args.split)
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
    refuse_unlike([load_result(path) for path in paths if _is_result(path)])
    base, *others = [_values(path, args) for path in paths]
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
    results = [load_result(path) for folder in args.results for path in _result_files(folder)]
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


def _collection(folder: Path, split: str, excluded: Mapping[str, Set[str]] | None = None) -> Collection:
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; a collection is a BEIR folder")
    load = load_stdlib if (folder / "collection.json").is_file() else load_beir
    loaded = load(folder, split)
    return dataclasses.replace(loaded, excluded=excluded) if excluded else loaded


def _qrels(path: Path, split: str) -> list[Qrel]:
    if path.is_dir():
        return list(load_beir(path, split).qrels)
    return list(read_qrels(path))


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


def _values(path: Path, args: argparse.Namespace) -> dict[str, float]:
    """The value of the measure for each query, from a result, a file of metrics or a run."""
    name = str(args.measure)
    if _is_result(path):
        known: Mapping[str, dict[str, float]] = load_result(path).per_query
    elif path.suffix == ".jsonl":
        known = by_query(read_jsonl(path, Metric))
    elif args.qrels:
        qrels = _qrels(args.qrels, args.split)
        known = by_query(score(qrels, read_run(path), measures=[args.measure]))
    else:
        raise InputError(f"{path}: a run needs --qrels; or give metrics (.jsonl) or a result")
    if name not in known:
        raise InputError(f"{path}: has no {name}; it has {', '.join(known) or 'nothing'}")
    return known[name]


def _is_result(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".json"


def _result_files(folder: Path) -> list[Path]:
    if not folder.is_dir() or (folder / "result.json").is_file():
        return [folder]
    found = sorted(folder.glob("*/result.json"))
    if not found:
        raise InputError(f"{folder}: neither it nor a folder in it has a result.json")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-bench", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_bench.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, options, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.set_defaults(run_command=run)
        options(command)
    return parser


def _fetch_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", choices=BUILDERS)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")


def _bm25_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--collection", type=Path, required=True, metavar="DIR")
    command.add_argument("--run", type=Path, required=True, help="the TREC run to write")
    command.add_argument("--split", default="test")
    command.add_argument("--thoughts", type=Path, help="thoughts to append to the queries (JSONL)")
    command.add_argument("--split-identifiers", action="store_true", help="for code")
    command.add_argument("--k1", type=float, default=0.9)
    command.add_argument("--b", type=float, default=0.4)
    command.add_argument("--k", type=int, default=1000, help="documents per query")


def _score_options(command: argparse.ArgumentParser) -> None:
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


def _compare_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("baseline", type=Path, help="a result, metrics (.jsonl) or a run")
    command.add_argument("others", type=Path, nargs="+", metavar="other")
    command.add_argument("--measure", type=_measure, default=DEFAULT[0])
    command.add_argument("--seed", type=int, default=0)
    _qrels_options(command, required=False)


def _report_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--results", type=Path, nargs="+", required=True, help="results, or a folder of them"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE")
    command.add_argument("--baseline", default="", help="name of a result; the first by default")
    command.add_argument("--focus", default="", help="name of the result that the summary is about")
    command.add_argument("--title", default="Retrieval report")


def _verify_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("results", type=Path, nargs="+", metavar="RESULT")


def _qrels_options(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--qrels", type=Path, required=required, help="a TREC qrels file or a BEIR folder")
    command.add_argument("--split", default="test", help="of the BEIR folder")


def _measure(text: str) -> Measure:
    try:
        return parse_measure(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


COMMANDS = {
    "fetch": (_fetch, _fetch_options, "build a collection"),
    "bm25": (_bm25, _bm25_options, "search a BEIR folder with BM25"),
    "score": (_score, _score_options, "score a run"),
    "compare": (_compare, _compare_options, "test runs against a baseline, query by query"),
    "report": (_report, _report_options, "write one HTML file about results"),
    "verify": (_verify, _verify_options, "recompute the metrics of results from their files"),
}


if __name__ == "__main__":
    sys.exit(main())
