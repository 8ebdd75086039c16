"""What the pages of a report say, as the templates take it: rows, sentences, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from o1_bench import words
from o1_bench.pictures import Point, gain_curve, length_curve, quality_against_time
from o1_bench.result import Result
from o1_bench.rows import Row, gain_by_length, main_measure
from o1_bench.suite_rows import SuiteRow
from o1_records import InputError, quoted

_WIDE, _NARROW = (760, 400), (350, 440)


def page(rows: Sequence[Row], focus: str, prefix: str, *, comparisons: int = 0) -> dict[str, Any]:
    """All that is said of one collection; shorter when it is part of a suite of `comparisons`."""
    base = next(row.result for row in rows if row.is_baseline)
    there = any(row.result.name == focus for row in rows)
    about = words.choose_focus(rows, focus if there or not comparisons else "")
    shown = [about] if comparisons else rows
    return {
        "name": base.collection.name,
        "rows": rows,
        "base": base,
        "focus": about,
        "summary": words.summary(rows, about, comparisons=comparisons),
        "main": main_measure(base),
        "best": _best(rows),
        "scale": _scale(rows),
        "time_pictures": {} if comparisons else _time_pictures(_points(rows), main_measure(base), prefix),
        "gain_pictures": _gain_pictures(shown, prefix),
        "length_pictures": _length_pictures(shown, base, prefix),
    }


def suite_page(rows: Sequence[SuiteRow], focus: SuiteRow) -> dict[str, Any]:
    """All that a report says of several collections together."""
    base = next(row for row in rows if row.is_baseline)
    mains = {task: main_measure(row.result) for task, row in base.rows.items()}
    tests = [row.against for row in focus.rows.values() if row.against]
    ends = [abs(end) for test in tests for end in (test.low, test.high, test.difference)]
    points = [
        _point(row.name, row.kind, row.milliseconds, row.average, is_baseline=row.is_baseline) for row in rows
    ]
    fair = [row.average for row in rows if row.kind == "system" and row.average is not None]
    return {
        "rows": rows,
        "base": base,
        "focus": focus,
        "tasks": mains,
        "best": max(fair, default=0.0),
        "scale": max([*ends, 1e-6]),
        "summary": words.suite_summary(rows, focus),
        "time_pictures": _time_pictures([p for p in points if p], "average over the tasks", "suite"),
    }


def suite_focus(rows: Sequence[SuiteRow], focus: str) -> SuiteRow:
    """The row named, else the best on average that is fair, else the baseline."""
    if focus:
        found = next((row for row in rows if row.name == focus), None)
        if found is None:
            raise InputError(f"no result is called {quoted(focus)}; there are {[row.name for row in rows]}")
        return found
    fair = [row for row in rows if row.kind == "system" and row.against is not None]
    return max(fair, key=lambda row: row.average or 0.0, default=next(r for r in rows if r.is_baseline))


def _best(rows: Sequence[Row]) -> dict[str, float]:
    """The highest value of each measure among the runs that are no control and no oracle."""
    fair = [row.result for row in rows if row.result.system.kind == "system"]
    return {
        measure: max((result.metrics[measure] for result in fair), default=0.0)
        for measure in rows[0].result.metrics
    }


def _scale(rows: Sequence[Row]) -> float:
    """Half the width of the interval pictures, in the unit of the measure."""
    ends = [abs(end) for row in rows if row.against for end in (row.against.low, row.against.high)]
    return max([*ends, 1e-6])


def _points(rows: Sequence[Row]) -> list[Point]:
    main = main_measure(rows[0].result)
    found = [
        _point(
            row.result.name,
            row.result.system.kind,
            row.result.system.milliseconds.total,
            row.result.metrics[main],
            is_baseline=row.is_baseline,
        )
        for row in rows
    ]
    return [point for point in found if point]


def _point(
    name: str, kind: str, milliseconds: float | None, quality: float | None, *, is_baseline: bool
) -> Point | None:
    if not milliseconds or quality is None:
        return None
    kind = "baseline" if is_baseline else kind
    return Point(name=name, kind=kind, milliseconds=milliseconds, quality=quality)


def _time_pictures(points: Sequence[Point], measure: str, prefix: str) -> dict[str, Any]:
    from markupsafe import Markup

    sizes = (("wide", _WIDE), ("narrow", _NARROW)) if points else ()
    return {
        name: Markup(
            quality_against_time(
                points, measure=measure, width=width, height=height, prefix=f"{prefix}-t-{name}"
            )
        )
        for name, (width, height) in sizes
    }


def _gain_pictures(rows: Sequence[Row], prefix: str) -> list[tuple[Row, Any]]:
    from markupsafe import Markup

    return [
        (row, Markup(gain_curve(row.gains, width=240, height=110, prefix=f"{prefix}-g{number}")))
        for number, row in enumerate(rows)
        if row.against
    ]


def _length_pictures(rows: Sequence[Row], base: Result, prefix: str) -> list[tuple[Row, Any]]:
    from markupsafe import Markup

    found = []
    for number, row in enumerate(rows):
        bins = gain_by_length(row, base) if row.against else []
        points = [(b.words, b.gain.difference, b.gain.low, b.gain.high) for b in bins]
        if len(points) > 1:
            drawn = length_curve(points, width=320, height=190, prefix=f"{prefix}-l{number}")
            found.append((row, Markup(drawn)))
    return found
