"""Results as text: numbers in cells, tables for the terminal, and the summary that a report opens with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from o1_bench.compare import Comparison, paired_test
from o1_bench.datasets.averages import headline
from o1_bench.reporting.rows import (
    CHANCE,
    Row,
    SuiteRow,
    by_collection,
    find,
    main_measure,
    over_tasks,
    side_by_side,
)
from o1_bench.results.result import Milliseconds, Result


def value(number: float) -> str:
    """Return a metric with three decimals."""
    return f"{number:.3f}"


def signed(number: float) -> str:
    """Return a difference with three decimals and its sign; one that rounds to 0 has no sign."""
    text = f"{abs(number):.3f}"
    if text == "0.000":
        return text
    return ("+" if number > 0 else "−") + text


def p_value(number: float, *, at_floor: bool = False) -> str:
    """Return a p-value with three decimals, never 0.

    At the floor of the resampling it is only an upper bound, and the next thousandth above it says so.
    """
    if at_floor and number < 1:
        return f"< {(math.floor(number * 1000) + 1) / 1000:.3f}"
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def p_of(row: Row | SuiteRow) -> str:
    """Return the corrected p-value of a row; empty where nothing is compared."""
    return "" if row.p_value is None else p_value(row.p_value, at_floor=row.at_floor)


def resampling(test: Comparison, comparisons: int) -> str:
    """Return how p-values and intervals were drawn, and the smallest p-value that this can give."""
    drawn = f"{test.permutations:,} random sign flips and as many bootstrap samples, seed {test.seed}"
    return f"{drawn}: {floor(test.permutations, comparisons)}"


def floor(permutations: int, comparisons: int) -> str:
    """Return the smallest p-value that so many permutations can give, corrected for so many comparisons."""
    least = 1 / (1 + permutations)
    said = f"no p-value below {least:.2g}"
    if comparisons > 1:
        corrected = min(1.0, least * comparisons)
        said += f", {corrected:.2g} for the first of {comparisons:,} after correction"
        if corrected >= CHANCE:
            needed = math.ceil(comparisons / CHANCE)
            said += f", so that nothing can be told from chance; take {needed:,} permutations or more"
    return said


def spread(result: Result, measure: str) -> str:
    """Return the standard deviation of a measure over seeds; empty where there is one result."""
    return f"± {result.spread[measure]:.3f}" if measure in result.spread else ""


def with_spread(result: Result, measure: str) -> str:
    """Return a metric, and over several seeds its standard deviation."""
    return f"{value(result.metrics[measure])} {spread(result, measure)}".rstrip()


def interval(test: Comparison) -> str:
    """Return the 95 % interval of a difference."""
    return f"{signed(test.low)} to {signed(test.high)}"


def hundredths(number: float | None) -> str:
    """Return a metric as papers print it, times 100 with two decimals; empty if it is unknown."""
    return "" if number is None else f"{100 * number:.2f}"


def size(number: int | None) -> str:
    """Return bytes in a unit that fits; a dash if they were not measured."""
    if number is None:
        return "–"
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 2**power:
            return f"{number / 2**power:.3g} {unit}"
    return f"{number} bytes"


def milliseconds(number: float | None) -> str:
    """Return a time with its significant digits; a dash if it was not measured."""
    if number is None:
        return "–"
    if number >= 10:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def stages(times: Milliseconds) -> str:
    """Return the stages of a time, think + embed + search; empty if only one was measured."""
    parts = (times.think, times.embed, times.search)
    if sum(part is not None for part in parts) < 2:
        return ""
    return " + ".join(milliseconds(part) for part in parts)


def table(results: Sequence[Result], *, baseline: str = "", **tests: int) -> str:
    """Return the results as lines of aligned text; differences are in the first measure.

    `tests` are the permutations and the seed of the tests.
    """
    rows = side_by_side(results, baseline=baseline, **tests)
    measures = list(rows[0].result.metrics)
    lines = [["run", *measures, "ms/query", f"Δ {measures[0]}", "95 % interval", "p (Holm)"]]
    for row in rows:
        system = row.result.system
        lines.append([_labelled(system.name, system.kind, row.result.seeds)])
        lines[-1] += [with_spread(row.result, measure) for measure in measures]
        lines[-1] += [milliseconds(system.milliseconds.total), *_tested(row)]
    return aligned(lines) + _drawn(rows)


def suite_table(results: Sequence[Result], *, baseline: str = "", **tests: int) -> str:
    """Return the main measure of every system by collection and the averages, as lines of aligned text.

    The first average is the one that leads (`o1_bench.datasets.averages`), and differences are in it.
    """
    rows = over_tasks(results, baseline=baseline, **tests)
    tasks = list(by_collection(results))
    leading, named = headline(tasks).name, list(rows[0].averages)
    base = next(row for row in rows if row.is_baseline)
    mains = {task: main_measure(row.result) for task, row in base.rows.items()}
    lines = [["run", *tasks, leading, *named, "ms/query", "Δ", "95 % interval", "p (Holm)"]]
    for row in rows:
        lines.append([_labelled(row.name, row.kind, next(iter(row.rows.values())).result.seeds)])
        lines[-1] += [
            with_spread(row.rows[task].result, mains[task]) if task in row.rows else "" for task in tasks
        ]
        averages = [row.average, *(row.averages[name] for name in named)]
        lines[-1] += ["" if average is None else value(average) for average in averages]
        lines[-1] += [milliseconds(row.milliseconds), *_tested(row)]
    return aligned(lines) + _drawn(rows)


def choose_focus(rows: Sequence[Row], focus: str) -> Row:
    """Return the row that the summary is about: the one named, else the best system, else the baseline.

    Controls and oracles are not systems.
    """
    if focus:
        found = find([row.result for row in rows], focus)
        return next(row for row in rows if row.result is found)
    main = main_measure(rows[0].result)
    fair = [row for row in rows if row.result.system.kind == "system" and not row.is_baseline]
    if not fair:
        return next(row for row in rows if row.is_baseline)
    return max(fair, key=lambda row: row.result.metrics[main])


def summary(rows: Sequence[Row], focus: Row, *, comparisons: int | None = None) -> list[str]:
    """Return the findings, in sentences; every number in them is computed from the results.

    `comparisons` is the number that the p-values were corrected for, if these rows are not all.
    """
    base = next(row.result for row in rows if row.is_baseline)
    main = main_measure(base)
    result, asked = focus.result, focus.result.collection
    opening = f"On {asked.queries:,} queries of {asked.name}, “{result.name}” scores {main} "
    opening += value(result.metrics[main])
    if focus.against is None or focus.p_value is None:
        return [sentence for sentence in (opening + ".", _oracles(rows, main)) if sentence]
    ours, theirs = result.system.milliseconds.total, base.system.milliseconds.total
    times = ""
    if ours is not None and theirs is not None:
        times = f"A query takes {milliseconds(ours)} ms instead of {milliseconds(theirs)} ms."
    sentences = [
        f"{opening}, “{base.name}” scores {value(base.metrics[main])}.",
        _verdict(focus, comparisons or len(rows) - 1),
        times,
        _controls(rows, result, main),
        _oracles(rows, main),
    ]
    return [sentence for sentence in sentences if sentence]


def suite_summary(rows: Sequence[SuiteRow], focus: SuiteRow) -> list[str]:
    """Return the findings over several tasks, in sentences."""
    base = next(row for row in rows if row.is_baseline)
    average = "on average" if base.average is None else f"{value(base.average)} on average"
    if focus.against is None or focus.p_value is None or focus.average is None:
        return [f"Over {len(base.rows)} tasks “{base.name}” scores {average}."]
    compared = sum(row.against is not None for row in rows)
    moved = [row.direction for row in focus.rows.values()]
    return [
        f"Over {len(base.rows)} tasks “{focus.name}” scores {value(focus.average)}, "
        f"“{base.name}” {average} ({headline(base.rows).name}).",
        _verdict(focus, compared),
        f"By task, {moved.count('up')} gain and {moved.count('down')} lose by more than chance, corrected "
        "over all tasks and systems.",
    ]


def _labelled(name: str, kind: str, seeds: Sequence[int] = ()) -> str:
    told = [kind] * (kind != "system") + [f"{len(seeds)} seeds"] * (len(seeds) > 1)
    return f"{name} ({', '.join(told)})" if told else name


def _drawn(rows: Sequence[Row] | Sequence[SuiteRow]) -> str:
    """Return a last line of a table that says how its p-values were drawn; empty where there are none."""
    tests = [row.against for row in rows if row.against is not None]
    return f"\np: {resampling(tests[0], len(tests))}" if tests else ""


def _tested(row: Row | SuiteRow) -> list[str]:
    if row.against is None or row.p_value is None:
        return ["baseline" if row.is_baseline else "", "", ""]
    return [signed(row.against.difference), interval(row.against), p_of(row)]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _verdict(row: Row | SuiteRow, comparisons: int) -> str:
    test, p = row.against, p_of(row)
    if test is None or row.p_value is None:
        return ""
    how = f"95\u00a0% interval {interval(test)}, p {'' if p.startswith('<') else '= '}{p}"
    if comparisons > 1:
        how += f" after correction for {comparisons} comparisons"
    moved = f"{test.wins:,} queries gain, {test.losses:,} lose, {test.ties:,} stay as they were."
    if row.p_value >= CHANCE:
        return f"The difference of {signed(test.difference)} may be chance ({how}): {moved}"
    what = "gain" if test.difference > 0 else "loss"
    return f"The {what} of {signed(test.difference)} is more than chance ({how}): {moved}"


def _controls(rows: Sequence[Row], result: Result, main: str) -> str:
    best = _best(rows, "control", main)
    if best is None or best is result:
        return ""
    drawn = next(row.against for row in rows if row.against is not None)
    test = paired_test(
        result.per_query[main], best.per_query[main], permutations=drawn.permutations, seed=drawn.seed
    )
    how = f"{signed(test.difference)}, 95\u00a0% interval {interval(test)}"
    if test.p_value >= CHANCE:
        verdict = "too close to tell apart"
    else:
        verdict = f"{'lower' if test.difference > 0 else 'higher'} by more than chance"
    found = f"The best control, “{best.name}”, scores {value(best.metrics[main])}"
    return f"{found}: {verdict} ({how})."


def _oracles(rows: Sequence[Row], main: str) -> str:
    best = _best(rows, "oracle", main)
    if best is None:
        return ""
    return (
        f"“{best.name}” scores {value(best.metrics[main])}: an oracle, which looks at the answer "
        "and shows the headroom."
    )


def _best(rows: Sequence[Row], kind: str, main: str) -> Result | None:
    of_kind = [row.result for row in rows if row.result.system.kind == kind]
    return max(of_kind, key=lambda result: result.metrics[main], default=None)
