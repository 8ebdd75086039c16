"""`o1-bench compare`: test runs against a baseline, query by query."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from o1_bench.commands import options
from o1_bench.commands.options import say
from o1_bench.compare import holm, paired_test
from o1_bench.inputs import is_result, load_values
from o1_bench.result import load_result
from o1_bench.rows import refuse_unlike
from o1_bench.score import DEFAULT
from o1_bench.words import interval, p_value, signed, value
from o1_records import InputError
from o1_records.command import at_least


def declare(command: argparse.ArgumentParser) -> None:
    """A baseline, the others, and the measure they are compared by."""
    command.add_argument("baseline", type=Path, help="a result, metrics (.jsonl) or a run")
    command.add_argument("others", type=Path, nargs="+", metavar="other")
    command.add_argument("--measure", type=options.measure, default=DEFAULT[0])
    command.add_argument("--seed", type=at_least(0), default=0)
    command.add_argument(
        "--allow-different", action="store_true", help="other collections or protocols: shared queries only"
    )
    options.qrels(command, required=False)


def run(args: argparse.Namespace) -> int:
    """Print the baseline and a line for each of the others; p-values are corrected (Holm)."""
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
    if not shared:
        raise InputError("no query is in all of them; there is nothing to compare")
    say(f"compared on the {len(shared)} queries that all have; collections or protocols may differ")
    return [{query_id: each[query_id] for query_id in sorted(shared)} for each in values]
