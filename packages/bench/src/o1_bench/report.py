"""One offline HTML file, and one table for the terminal. The file needs the `[report]` extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from o1_bench import words
from o1_bench.examples import WorkedExample
from o1_bench.result import Result
from o1_bench.rows import Row, main_measure, side_by_side
from o1_records import MissingExtraError, atomic_write

_WIDE, _NARROW = (760, 400), (350, 440)
_KINDS = {"control": "control", "oracle": "oracle: looks at the answer"}


def write_report(
    path: str | Path,
    results: Sequence[Result],
    *,
    baseline: str = "",
    focus: str = "",
    examples: Sequence[WorkedExample] = (),
    title: str = "Retrieval report",
) -> None:
    """Write a report that needs nothing but a browser.

    Args:
        path: the HTML file; it appears whole or not at all.
        results: of one collection, in the order of the table; the first measure is the main one.
        baseline: the result that the others are compared with; the first one by default.
        focus: the result that the summary is about; the best that is no control or oracle by default.
        examples: worked examples, see `o1_bench.examples.worked_examples`.
        title: the headline.

    Raises:
        InputError: the results do not belong side by side, or have no such name.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    rows = side_by_side(results, baseline=baseline)
    page = _template().render(
        title=title,
        rows=rows,
        base=next(row.result for row in rows if row.is_baseline),
        focus=words.choose_focus(rows, focus),
        summary=words.summary(rows, words.choose_focus(rows, focus)),
        main=main_measure(rows[0].result),
        best=_best(rows),
        scale=_scale(rows),
        kinds=_KINDS,
        shown_kinds={row.result.system.kind for row in rows},
        examples=examples,
        **_pictures(rows),
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def table(results: Sequence[Result], *, baseline: str = "") -> str:
    """The results as lines of aligned text; differences are of the first measure."""
    rows = side_by_side(results, baseline=baseline)
    measures = list(rows[0].result.metrics)
    head = ["run", *measures, "ms/query", f"Δ {measures[0]}", "95 % interval", "p (Holm)"]
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> list[str]:
    system = row.result.system
    name = system.name if system.kind == "system" else f"{system.name} ({system.kind})"
    metrics = [words.value(number) for number in row.result.metrics.values()]
    cells = [name, *metrics, words.milliseconds(system.milliseconds.total)]
    if row.against is None or row.p_value is None:
        return [*cells, "baseline", "", ""]
    test = row.against
    return [*cells, words.signed(test.difference), words.interval(test), words.p_value(row.p_value)]


def _template() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-bench", "report", "Writing a report") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("o1_bench"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("value", "signed", "p_value", "interval", "milliseconds", "stages"):
        environment.filters[name] = getattr(words, name)
    return environment.get_template("report.html")


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


def _pictures(rows: Sequence[Row]) -> dict[str, Any]:
    from markupsafe import Markup

    from o1_bench.pictures import Point, gain_curve, quality_against_time

    main = main_measure(rows[0].result)
    points = [
        Point(
            name=row.result.name,
            kind="baseline" if row.is_baseline else row.result.system.kind,
            milliseconds=total,
            quality=row.result.metrics[main],
        )
        for row in rows
        if (total := row.result.system.milliseconds.total)
    ]
    sizes = (("wide", _WIDE), ("narrow", _NARROW)) if points else ()
    return {
        "time_pictures": {
            name: Markup(
                quality_against_time(points, measure=main, width=width, height=height, prefix=f"t-{name}")
            )
            for name, (width, height) in sizes
        },
        "gain_pictures": [
            (row, Markup(gain_curve(row.gains, width=240, height=110, prefix=f"g{number}")))
            for number, row in enumerate(rows)
            if row.against
        ],
    }
