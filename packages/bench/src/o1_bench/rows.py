"""Results side by side: what the table, the pictures and the summary of a report are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np

from o1_bench.compare import Comparison, holm, paired_test
from o1_bench.result import Result
from o1_records import InputError, quoted

CHANCE = 0.05  # corrected p-values below it count as more than chance


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result against the baseline; the baseline itself is compared with nothing.

    `p_value` is corrected (Holm) for the number of results beside the baseline. `gains` are the
    differences of all queries, largest first.
    """

    result: Result
    against: Comparison | None = None
    p_value: float | None = None
    gains: tuple[float, ...] = ()

    @property
    def is_baseline(self) -> bool:
        """Whether the other rows are compared with this one."""
        return self.against is None

    @property
    def direction(self) -> str:
        """`up` or `down` when the difference is more than chance, else empty."""
        if self.against is None or self.p_value is None or self.p_value >= CHANCE:
            return ""
        return "up" if self.against.difference > 0 else "down"


@dataclass(frozen=True, kw_only=True)
class LengthBin:
    """Queries whose thoughts are about as long: their mean number of words and their gain."""

    words: float
    gain: Comparison


def side_by_side(results: Sequence[Result], *, baseline: str = "") -> list[Row]:
    """Compare every result with the baseline (the first one unless it is named) by its main measure.

    The main measure is the first of the baseline's. Raises InputError when the results are not of
    one collection, one set of measures, or do not have names of their own.
    """
    base = find(results, baseline) if baseline else _first(results)
    _check(results, base)
    main = main_measure(base)
    others = [result for result in results if result is not base]
    tests = [paired_test(result.per_query[main], base.per_query[main]) for result in others]
    corrected = holm([test.p_value for test in tests])
    compared = {
        result.name: Row(result=result, against=test, p_value=p, gains=_gains(result, base, main))
        for result, test, p in zip(others, tests, corrected, strict=True)
    }
    return [compared.get(result.name, Row(result=result)) for result in results]


def main_measure(result: Result) -> str:
    """The measure that results are compared by: the first one that was asked for."""
    return next(iter(result.metrics))


def gain_by_length(row: Row, base: Result, *, bins: int = 6) -> list[LengthBin]:
    """The mean gain of queries with thoughts of like length, in bins of as many queries each.

    Empty when nothing was thought, or all thoughts are of one length. Queries of one length stay
    in one bin.
    """
    main = main_measure(base)
    words = {q: count for q, count in row.result.thought_words.items() if q in base.per_query[main]}
    if len(set(words.values())) < 2:
        return []
    edges = sorted(set(np.quantile(list(words.values()), np.linspace(0, 1, bins + 1), method="lower")))
    found = []
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = [q for q, count in words.items() if low < count <= high or (not number and count == low)]
        values, others = row.result.per_query[main], base.per_query[main]
        test = paired_test({q: values[q] for q in inside}, {q: others[q] for q in inside})
        found.append(LengthBin(words=fmean(words[q] for q in inside), gain=test))
    return found


def find(results: Sequence[Result], name: str) -> Result:
    """The result of a name. Raises InputError that lists the names there are."""
    for result in results:
        if result.name == name:
            return result
    known = ", ".join(repr(result.name) for result in results)
    raise InputError(f"no result is called {quoted(name)}; there are {known or 'none'}")


def refuse_unlike(results: Sequence[Result]) -> None:
    """Raise InputError unless all results were measured on one collection by one protocol.

    The protocol is the instruction, the depth of the runs and who computed each measure; what a
    result does not say (it was made before results said so) is not compared.
    """
    for result in results:
        first = results[0]
        _refuse_other_protocol(result, first)
        for part, digest in first.collection.digests.items():
            if result.collection.digests.get(part) != digest:
                raise InputError(
                    f"{quoted(result.name)} and {quoted(first.name)} were measured on different "
                    f"{part} ({result.collection.name}, {first.collection.name}); keep them apart"
                )


def _refuse_other_protocol(result: Result, first: Result) -> None:
    shared = result.measures.keys() & first.measures.keys()
    said = [("hits a query", str(result.k or ""), str(first.k or ""))]
    said += [("instruction", result.collection.instruction, first.collection.instruction)]
    said += [(f"provider of {name}", result.measures[name], first.measures[name]) for name in sorted(shared)]
    for what, theirs, ours in said:
        if theirs and ours and theirs != ours:
            raise InputError(
                f"{quoted(result.name)} and {quoted(first.name)} were measured by different protocols: "
                f"{what} {theirs}, {ours}; run both the same way"
            )


def _first(results: Sequence[Result]) -> Result:
    if not results:
        raise InputError("there are no results to report")
    return results[0]


def _check(results: Sequence[Result], base: Result) -> None:
    refuse_unlike(results)
    names = [result.name for result in results]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two results are called {quoted(repeated)}; give each a name of its own")
    for result in results:
        if result.metrics.keys() != base.metrics.keys():
            raise InputError(
                f"{quoted(result.name)} has {', '.join(result.metrics)}, {quoted(base.name)} has "
                f"{', '.join(base.metrics)}; score both with the same measures"
            )


def _gains(result: Result, base: Result, measure: str) -> tuple[float, ...]:
    values, others = result.per_query[measure], base.per_query[measure]
    return tuple(sorted((values[query_id] - others[query_id] for query_id in values), reverse=True))
