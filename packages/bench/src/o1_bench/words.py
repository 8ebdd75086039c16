"""Numbers as words: cells, and the summary that a report opens with."""

from __future__ import annotations

from collections.abc import Sequence

from o1_bench.compare import Comparison, paired_test
from o1_bench.result import Milliseconds, Result
from o1_bench.rows import CHANCE, Row, find, main_measure
from o1_bench.suite_rows import SuiteRow


def value(number: float) -> str:
    """A metric: three decimals."""
    return f"{number:.3f}"


def signed(number: float) -> str:
    """A difference: three decimals with its sign; what rounds to nothing has none."""
    text = f"{abs(number):.3f}"
    if text == "0.000":
        return text
    return ("+" if number > 0 else "−") + text


def p_value(number: float) -> str:
    """A p-value: never a bare 0."""
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def interval(test: Comparison) -> str:
    """The 95 % interval of a difference."""
    return f"{signed(test.low)} to {signed(test.high)}"


def hundredths(number: float | None) -> str:
    """A metric as papers print it, times 100 with two decimals; empty when it is not known."""
    return "" if number is None else f"{100 * number:.2f}"


def size(number: int | None) -> str:
    """Bytes in a unit that fits; a dash when it was not measured."""
    if number is None:
        return "–"
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 2**power:
            return f"{number / 2**power:.3g} {unit}"
    return f"{number} bytes"


def milliseconds(number: float | None) -> str:
    """A time with the digits that count; a dash when it was not measured."""
    if number is None:
        return "–"
    if number >= 10:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def stages(times: Milliseconds) -> str:
    """The stages a time is made of, think + embed + search; empty when only one was measured."""
    parts = (times.think, times.embed, times.search)
    if sum(part is not None for part in parts) < 2:
        return ""
    return " + ".join(milliseconds(part) for part in parts)


def choose_focus(rows: Sequence[Row], focus: str) -> Row:
    """The row that the summary is about: the one named, else the best that is fair.

    Fair is what is neither a control nor an oracle; with nothing fair beside it, the baseline.
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
    """What was found, in sentences; every number in them is computed from the results.

    `comparisons` is how many the p-values were corrected for, when these rows are not all.
    """
    base = next(row.result for row in rows if row.is_baseline)
    main = main_measure(base)
    result, asked = focus.result, focus.result.collection
    opening = f"On {asked.queries:,} queries of {asked.name}, “{result.name}” scores {main} "
    opening += value(result.metrics[main])
    if focus.against is None or focus.p_value is None:
        return [sentence for sentence in (opening + ".", _oracles(rows, main)) if sentence]
    sentences = [
        f"{opening}, “{base.name}” scores {value(base.metrics[main])}.",
        _verdict(focus.against, focus.p_value, comparisons or len(rows) - 1),
        _times(result, base),
        _controls(rows, result, main),
        _oracles(rows, main),
    ]
    return [sentence for sentence in sentences if sentence]


def suite_summary(rows: Sequence[SuiteRow], focus: SuiteRow) -> list[str]:
    """What was found over several tasks, in sentences."""
    base = next(row for row in rows if row.is_baseline)
    average = "on average" if base.average is None else f"{value(base.average)} on average"
    if focus.against is None or focus.p_value is None or focus.average is None:
        return [f"Over {len(base.rows)} tasks “{base.name}” scores {average}."]
    compared = sum(row.against is not None for row in rows)
    moved = [row.direction for row in focus.rows.values()]
    return [
        f"Over {len(base.rows)} tasks “{focus.name}” scores {value(focus.average)}, "
        f"“{base.name}” {average}; every task counts the same.",
        _verdict(focus.against, focus.p_value, compared),
        f"By task, {moved.count('up')} gain and {moved.count('down')} lose by more than chance, corrected "
        "over all tasks and systems.",
    ]


def _verdict(test: Comparison, p: float, comparisons: int) -> str:
    how = f"95\u00a0% interval {interval(test)}, p {'' if p < 0.001 else '= '}{p_value(p)}"
    if comparisons > 1:
        how += f" after correction for {comparisons} comparisons"
    moved = f"{test.wins:,} queries gain, {test.losses:,} lose, {test.ties:,} stay as they were."
    if p >= CHANCE:
        return f"The difference of {signed(test.difference)} may be chance ({how}): {moved}"
    what = "gain" if test.difference > 0 else "loss"
    return f"The {what} of {signed(test.difference)} is more than chance ({how}): {moved}"


def _times(result: Result, base: Result) -> str:
    ours, theirs = result.system.milliseconds.total, base.system.milliseconds.total
    if ours is None or theirs is None:
        return ""
    return f"A query takes {milliseconds(ours)} ms instead of {milliseconds(theirs)} ms."


def _controls(rows: Sequence[Row], result: Result, main: str) -> str:
    best = _best(rows, "control", main)
    if best is None or best is result:
        return ""
    test = paired_test(result.per_query[main], best.per_query[main])
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
        "and shows the room above."
    )


def _best(rows: Sequence[Row], kind: str, main: str) -> Result | None:
    of_kind = [row.result for row in rows if row.result.system.kind == kind]
    return max(of_kind, key=lambda result: result.metrics[main], default=None)
