"""`o1-bench compare`: test runs against a baseline, query by query."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.reporting.words import interval, p_value, resampling, signed, value
from o1_bench.results.runs import compare_runs
from o1_bench.score import DEFAULT


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(
        command, "baseline", once=True, help="a result, metrics of single queries (.jsonl) or a run"
    )
    _shared.results(command, "others", once=True, nargs="+", metavar="other", help="the same")
    command.add_argument("--measure", type=_shared.measure, default=str(DEFAULT[0]), help="what is compared")
    _shared.tests(command)
    command.add_argument(
        "--allow-different",
        action="store_true",
        help="compare the shared queries of other collections or protocols too",
    )
    _shared.qrels(command, required=False)


def run(args: argparse.Namespace) -> int:
    """Print a line for the baseline and each of the others; p-values are corrected (Holm)."""
    base, *others = compare_runs(
        [args.baseline, *args.others],
        measure=args.measure,
        qrels=args.qrels,
        split=args.split,
        protocol=args.protocol,
        allow_different=args.allow_different,
        **_shared.tested(args),
    )
    print("\t".join(["run", str(args.measure), "difference", "95 % interval", "p", "moved"]))
    print(f"{base.path}\t{value(base.mean)}\tbaseline")
    for each in others:
        test = each.against
        if test is None or each.p_value is None:
            continue
        moved = f"{test.wins} better, {test.ties} equal, {test.losses} worse"
        floor = test.p_value <= test.floor
        tested = (signed(test.difference), interval(test), p_value(each.p_value, at_floor=floor), moved)
        print(each.path, value(each.mean), *tested, sep="\t")
    for each in (base, *others):
        for sentence in each.said:
            _shared.say(f"{each.path}: {sentence}")
    if others and others[0].against:
        _shared.say(resampling(others[0].against, len(others)))
    if args.allow_different and others and others[0].against:
        count = others[0].against.queries
        _shared.say(f"compared on the {count} queries that all have; collections or protocols may differ")
    return 0
