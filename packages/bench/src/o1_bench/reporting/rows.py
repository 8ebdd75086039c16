"""Results side by side, on one collection or over a suite: what tables, pictures and summaries show.

Results of one system with several seeds are one row: means, with the spread beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean, stdev

import msgspec
import numpy as np

from o1_bench.compare import Comparison, holm, paired_test, paired_test_over_tasks
from o1_bench.datasets.averages import Average, averages_of, headline
from o1_bench.results.result import Milliseconds, Result, refuse_unlike
from o1_bench.score import Measure, parse_measures
from o1_records import InputError, quoted

CHANCE = 0.05  # corrected p-values below it count as more than chance


class _Compared:
    """What a row and a row of a suite have in common."""

    against: Comparison | None
    p_value: float | None

    @property
    def at_floor(self) -> bool:
        """Whether no random sign flip came near the difference: the p-value is then only an upper bound."""
        return self.against is not None and self.against.p_value <= self.against.floor * (1 + 1e-9)

    @property
    def direction(self) -> str:
        """`up` or `down` when the difference is more than chance, else empty."""
        if self.against is None or self.p_value is None or self.p_value >= CHANCE:
            return ""
        return "up" if self.against.difference > 0 else "down"


@dataclass(frozen=True, kw_only=True)
class Row(_Compared):
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


@dataclass(frozen=True, kw_only=True)
class LengthBin:
    """Queries with thoughts of similar length: their mean number of words and their gain."""

    words: float
    gain: Comparison


@dataclass(frozen=True, kw_only=True)
class SuiteRow(_Compared):
    """One system on all tasks.

    Attributes:
        name: the system's.
        kind: system, control or oracle.
        rows: against the baseline on each task, p-values corrected over all tasks and systems.
        average: the mean of the tasks' main measures that leads (`o1_bench.datasets.averages.headline`); None
            unless it ran on all of them.
        averages: the named averages that the tasks make up, by name; None where a task is missing.
        milliseconds: the mean of the tasks' times per query; None unless all are known.
        against: the average against the baseline's; None for the baseline and where tasks are missing.
        p_value: of `against`, corrected over the systems.
    """

    name: str
    kind: str
    rows: Mapping[str, Row]
    average: float | None
    averages: Mapping[str, float | None] = field(default_factory=dict)
    milliseconds: float | None = None
    against: Comparison | None = None
    p_value: float | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with this one."""
        return all(row.is_baseline for row in self.rows.values())


def chosen(results: Sequence[Result], measures: Sequence[Measure | str] = ()) -> list[Result]:
    """Return results with these measures only, the first of which is the main one; and seeds as one result.

    Without measures they keep their own. Raises InputError where a result has not been scored with one, or
    where two seeds of a system differ in more than the seed.
    """
    names = [str(measure) for measure in parse_measures(measures)]
    kept = []
    for result in results:
        if missing := [name for name in names if name not in result.metrics]:
            raise InputError(
                f"{quoted(result.name)} on {result.collection.name} has no {missing[0]}; it has "
                f"{', '.join(result.metrics)}; run or score it again with --measures"
            )
        kept.append(
            msgspec.structs.replace(
                result,
                metrics={name: result.metrics[name] for name in names},
                per_query={name: result.per_query[name] for name in names},
                spread={name: value for name, value in result.spread.items() if name in names},
            )
            if names
            else result
        )
    return over_seeds(kept)


def over_seeds(results: Sequence[Result]) -> list[Result]:
    """Return results where those of one system with several seeds are one: their mean, with the spread.

    Raises InputError where a seed comes twice, and where only some results of a system have a seed.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.name, result.collection.name), []).append(result)
    return [_mean_of(group) if len(group) > 1 else group[0] for group in groups.values()]


def _mean_of(group: Sequence[Result]) -> Result:
    first, seeds = group[0], [result.system.seed for result in group]
    told = f"{len(group)} results are called {quoted(first.name)} on {first.collection.name}"
    known = [seed for seed in seeds if seed is not None]
    if len(known) < len(seeds):
        raise InputError(f"{told}; give them different names, or a seed each")
    if len(set(known)) < len(known):
        raise InputError(f"{told}, with the seeds {', '.join(map(str, known))}; leave one out")
    refuse_unlike(group)
    if any(result.metrics.keys() != first.metrics.keys() for result in group):
        raise InputError(f"{told}, with different measures; score them alike")
    times = {}
    for stage in Milliseconds.__struct_fields__:
        each = [getattr(result.system.milliseconds, stage) for result in group]
        times[stage] = None if None in each else fmean(each)
    return msgspec.structs.replace(
        first,
        system=msgspec.structs.replace(first.system, seed=None, milliseconds=Milliseconds(**times)),
        metrics={name: fmean(result.metrics[name] for result in group) for name in first.metrics},
        per_query={
            name: {
                query_id: fmean(result.per_query[name][query_id] for result in group)
                for query_id in first.per_query[name]
            }
            for name in first.metrics
        },
        curve={k: fmean(r.curve[k] for r in group) for k in first.curve if all(k in r.curve for r in group)},
        spread={name: stdev(result.metrics[name] for result in group) for name in first.metrics},
        seeds=tuple(sorted(known)),
        said=tuple(dict.fromkeys(sentence for result in group for sentence in result.said)),
    )


def side_by_side(
    results: Sequence[Result], *, baseline: str = "", permutations: int = 10_000, seed: int = 0
) -> list[Row]:
    """Compare every result with the baseline (the first one unless it is named) by its main measure.

    The main measure is the first of the baseline's. Raises InputError unless the results are of
    one collection and one set of measures, with different names.
    """
    if not results:
        raise InputError("there are no results to report")
    results = over_seeds(results)
    base = find(results, baseline) if baseline else results[0]
    refuse_unlike(results)
    for result in results:
        if result.metrics.keys() != base.metrics.keys():
            raise InputError(
                f"{quoted(result.name)} has {', '.join(result.metrics)}, {quoted(base.name)} has "
                f"{', '.join(base.metrics)}; score both with the same measures"
            )
    main = main_measure(base)
    others = [result for result in results if result is not base]
    tests = [
        paired_test(result.per_query[main], base.per_query[main], permutations=permutations, seed=seed)
        for result in others
    ]
    corrected = holm([test.p_value for test in tests])
    compared = {}
    for result, test, p in zip(others, tests, corrected, strict=True):
        theirs, ours = base.per_query[main], result.per_query[main]
        gains = sorted((ours[query_id] - theirs[query_id] for query_id in ours), reverse=True)
        compared[result.name] = Row(result=result, against=test, p_value=p, gains=tuple(gains))
    return [compared.get(result.name, Row(result=result)) for result in results]


def over_tasks(
    results: Sequence[Result], *, baseline: str = "", permutations: int = 10_000, seed: int = 0
) -> list[SuiteRow]:
    """Compare systems over several collections, by the main measure of the baseline on each.

    The average is the one that papers report over these collections, where they report one: of BEIR's sets
    CQADupStack's twelve forums count as one.

    Raises InputError when there are no results, when the baseline (that of the first result unless it is
    named) did not run on every task; or what `side_by_side` refuses.
    """
    results = over_seeds(results)
    groups = by_collection(results)
    if not groups:
        raise InputError("there are no results to report")
    base = baseline or results[0].name
    compared: dict[str, list[Row]] = {}
    for task, group in groups.items():
        try:
            find(group, base)
        except InputError as error:
            raise InputError(
                f"{task}: {error}; the baseline {quoted(base)} must run on every task"
            ) from error
        compared[task] = side_by_side(group, baseline=base, permutations=permutations, seed=seed)
    # corrected anew, over all tasks and systems together
    tests = [row.against for rows in compared.values() for row in rows if row.against]
    p_values = iter(holm([test.p_value for test in tests]))
    systems: dict[str, dict[str, Row]] = {result.name: {} for result in results}
    for task, rows in compared.items():
        for row in rows:
            row = replace(row, p_value=next(p_values)) if row.against else row
            systems[row.result.name][task] = row
    leading, named = headline(groups), averages_of(groups)
    measures = {task: main_measure(find(group, base)) for task, group in groups.items()}
    suite = [_suite_row(name, rows, measures, leading, named) for name, rows in systems.items()]

    def values(row: SuiteRow) -> dict[str, dict[str, float]]:
        return {task: each.result.per_query[measures[task]] for task, each in row.rows.items()}

    of_base = values(next(row for row in suite if row.name == base))
    complete = [row for row in suite if row.average is not None and row.name != base]
    tests = [
        paired_test_over_tasks(
            values(row), of_base, weights=leading.weights, permutations=permutations, seed=seed
        )
        for row in complete
    ]
    tested = {
        row.name: replace(row, against=test, p_value=p)
        for row, test, p in zip(complete, tests, holm([test.p_value for test in tests]), strict=True)
    }
    return [tested.get(row.name, row) for row in suite]


def by_collection(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return results by the name of their collection, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.collection.name, []).append(result)
    return groups


def main_measure(result: Result) -> str:
    """Return the measure that results are compared by: the first one that was asked for."""
    return next(iter(result.metrics))


def gain_by_length(row: Row, base: Result, *, bins: int = 6) -> list[LengthBin]:
    """Return the mean gain of queries by the length of their thoughts, in bins of equally many queries.

    Empty when there are no thoughts, or all have the same length. Queries with thoughts of the same length
    are in the same bin. Intervals are drawn as those of the row.
    """
    drawn: dict[str, int] = {}
    if row.against is not None:
        drawn = {"permutations": row.against.permutations, "seed": row.against.seed}
    main = main_measure(base)
    words = {q: count for q, count in row.result.thought_words.items() if q in base.per_query[main]}
    if len(set(words.values())) < 2:
        return []
    edges = sorted(set(np.quantile(list(words.values()), np.linspace(0, 1, bins + 1), method="lower")))
    found = []
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = [q for q, count in words.items() if low < count <= high or (not number and count == low)]
        values, others = row.result.per_query[main], base.per_query[main]
        test = paired_test({q: values[q] for q in inside}, {q: others[q] for q in inside}, **drawn)
        found.append(LengthBin(words=fmean(words[q] for q in inside), gain=test))
    return found


def find(results: Sequence[Result], name: str) -> Result:
    """Return the result with a name. Raises InputError that lists the names there are."""
    for result in results:
        if result.name == name:
            return result
    known = ", ".join(repr(result.name) for result in results)
    raise InputError(f"no result is called {quoted(name)}; there are {known or 'none'}")


def _suite_row(
    name: str,
    rows: Mapping[str, Row],
    measures: Mapping[str, str],
    leading: Average,
    named: Sequence[Average],
) -> SuiteRow:
    results = [row.result for row in rows.values()]
    times = [result.system.milliseconds.total for result in results]
    known = [time for time in times if time is not None]
    complete = len(rows) == len(leading.collections)
    mains = {task: row.result.metrics[measures[task]] for task, row in rows.items()}
    return SuiteRow(
        name=name,
        kind=results[0].system.kind,
        rows=rows,
        average=leading.of(mains),
        averages={each.name: each.of(mains) for each in named if each.name != leading.name},
        milliseconds=fmean(known) if complete and len(known) == len(times) else None,
    )
