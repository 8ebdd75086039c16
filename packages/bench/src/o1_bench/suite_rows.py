"""Results of several collections side by side: by task, and on average over the suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from o1_bench.compare import Comparison, holm, paired_test_over_tasks
from o1_bench.result import Result
from o1_bench.rows import CHANCE, Row, find, main_measure, side_by_side
from o1_records import InputError, quoted


@dataclass(frozen=True, kw_only=True)
class SuiteRow:
    """One system on all tasks.

    Attributes:
        name: the system's.
        kind: system, control or oracle.
        rows: against the baseline on each task, p-values corrected over all tasks and systems.
        average: the mean of the tasks' main measures; None unless it ran on all of them.
        milliseconds: the mean of the tasks' times per query; None unless all are known.
        against: the average against the baseline's; None for the baseline and with tasks missing.
        p_value: of `against`, corrected over the systems.
    """

    name: str
    kind: str
    rows: Mapping[str, Row]
    average: float | None
    milliseconds: float | None = None
    against: Comparison | None = None
    p_value: float | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with this one."""
        return all(row.is_baseline for row in self.rows.values())

    @property
    def direction(self) -> str:
        """`up` or `down` when the difference of the averages is more than chance, else empty."""
        if self.against is None or self.p_value is None or self.p_value >= CHANCE:
            return ""
        return "up" if self.against.difference > 0 else "down"


def by_collection(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by the name of their collection, in the order they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.collection.name, []).append(result)
    return groups


def over_tasks(results: Sequence[Result], *, baseline: str = "") -> list[SuiteRow]:
    """Compare every system with the baseline on every task and on average over the tasks.

    The main measure of a task is the first one of the baseline's result on it.

    Raises:
        InputError: the baseline (the first result's system unless it is named) did not run on
            every task; or what `side_by_side` refuses.
    """
    groups = by_collection(results)
    if not groups:
        raise InputError("there are no results to report")
    base = baseline or results[0].name
    compared = _corrected({task: _rows(task, group, base) for task, group in groups.items()})
    names = list(dict.fromkeys(result.name for result in results))
    rows = [_suite_row(name, compared) for name in names]
    complete = [row for row in rows if row.average is not None and row.name != base]
    values = {name: _values(name, compared) for name in (base, *(row.name for row in complete))}
    tests = [paired_test_over_tasks(values[row.name], values[base]) for row in complete]
    p_values = holm([test.p_value for test in tests])
    tested = {
        row.name: replace(row, against=test, p_value=p)
        for row, test, p in zip(complete, tests, p_values, strict=True)
    }
    return [tested.get(row.name, row) for row in rows]


def _rows(task: str, group: Sequence[Result], base: str) -> list[Row]:
    try:
        find(group, base)
    except InputError as error:
        raise InputError(f"{task}: {error}; the baseline {quoted(base)} must run on every task") from error
    return side_by_side(group, baseline=base)


def _corrected(compared: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The rows with p-values corrected (Holm) over all tasks and systems together."""
    tests = [row.against.p_value for rows in compared.values() for row in rows if row.against]
    p_values = iter(holm(tests))
    return {
        task: [replace(row, p_value=next(p_values)) if row.against else row for row in rows]
        for task, rows in compared.items()
    }


def _suite_row(name: str, compared: Mapping[str, Sequence[Row]]) -> SuiteRow:
    rows = {task: row for task, group in compared.items() for row in group if row.result.name == name}
    times = [row.result.system.milliseconds.total for row in rows.values()]
    known = [time for time in times if time is not None]
    whole = len(rows) == len(compared)
    main = [row.result.metrics[main_measure(row.result)] for row in rows.values()]
    return SuiteRow(
        name=name,
        kind=next(iter(rows.values())).result.system.kind,
        rows=rows,
        average=fmean(main) if whole else None,
        milliseconds=fmean(known) if whole and len(known) == len(times) else None,
    )


def _values(name: str, compared: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, float]]:
    return {
        task: row.result.per_query[main_measure(row.result)]
        for task, group in compared.items()
        for row in group
        if row.result.name == name
    }
