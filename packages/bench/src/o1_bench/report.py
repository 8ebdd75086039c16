"""One offline HTML file, and one table for the terminal. The file needs the `[report]` extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from o1_bench import words
from o1_bench.compare import Comparison
from o1_bench.examples import WorkedExample
from o1_bench.leaderboard import leaderboard
from o1_bench.page import page, suite_focus, suite_page
from o1_bench.result import Result
from o1_bench.rows import Row, main_measure, side_by_side
from o1_bench.suite_rows import SuiteRow, by_collection, over_tasks
from o1_records import MissingExtraError, atomic_write

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
        results: in the order of the table; the first measure is the main one. Those of several
            collections make a page by task, where p-values are corrected over tasks as well.
        baseline: the result that the others are compared with; the first one by default.
        focus: the result that the summary is about; the best that is no control or oracle by default.
        examples: worked examples, see `o1_bench.examples.worked_examples`.
        title: the headline.

    Raises:
        InputError: the results do not belong side by side, or have no such name.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    suite = over_tasks(results, baseline=baseline) if len(by_collection(results)) > 1 else []
    if suite:
        chosen = suite_focus(suite, focus)
        shown, pages = suite_page(suite, chosen), _task_pages(suite, chosen.name)
    else:
        shown, pages = None, [page(side_by_side(results, baseline=baseline), focus, "c0")]
    text = _template().render(
        title=title,
        pages=pages,
        suite=shown,
        board=leaderboard(results),
        examples=examples,
        kinds=_KINDS,
        shown_kinds={result.system.kind for result in results},
    )
    with atomic_write(path) as file:
        file.write(text.encode())


def table(results: Sequence[Result], *, baseline: str = "") -> str:
    """The results as lines of aligned text; differences are of the first measure."""
    rows = side_by_side(results, baseline=baseline)
    measures = list(rows[0].result.metrics)
    head = ["run", *measures, "ms/query", f"Δ {measures[0]}", "95 % interval", "p (Holm)"]
    return _aligned([head, *(_cells(row) for row in rows)])


def suite_table(results: Sequence[Result], *, baseline: str = "") -> str:
    """The main measure of every system on every collection and on average, as lines of aligned text."""
    rows = over_tasks(results, baseline=baseline)
    tasks = list(by_collection(results))
    head = ["run", *tasks, "average", "ms/query", "Δ", "95 % interval", "p (Holm)"]
    lines = [head]
    for row in rows:
        cells = [_labelled(row.name, row.kind)]
        for task in tasks:
            found = row.rows.get(task)
            cells.append(words.value(found.result.metrics[main_measure(found.result)]) if found else "")
        cells += ["" if row.average is None else words.value(row.average)]
        cells += [
            words.milliseconds(row.milliseconds),
            *_tested(row.against, row.p_value, is_baseline=row.is_baseline),
        ]
        lines.append(cells)
    return _aligned(lines)


def _task_pages(suite: Sequence[SuiteRow], focus: str) -> list[dict[str, Any]]:
    """A page for each task, with p-values corrected over all of them."""
    comparisons = sum(row.against is not None for each in suite for row in each.rows.values())
    tasks = dict.fromkeys(task for each in suite for task in each.rows)
    return [
        page(
            [each.rows[task] for each in suite if task in each.rows],
            focus,
            f"c{number}",
            comparisons=comparisons,
        )
        for number, task in enumerate(tasks)
    ]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> list[str]:
    system = row.result.system
    metrics = [words.value(number) for number in row.result.metrics.values()]
    times = words.milliseconds(system.milliseconds.total)
    tested = _tested(row.against, row.p_value, is_baseline=row.is_baseline)
    return [_labelled(system.name, system.kind), *metrics, times, *tested]


def _labelled(name: str, kind: str) -> str:
    return name if kind == "system" else f"{name} ({kind})"


def _tested(test: Comparison | None, p: float | None, *, is_baseline: bool) -> list[str]:
    if test is None or p is None:
        return ["baseline" if is_baseline else "", "", ""]
    return [words.signed(test.difference), words.interval(test), words.p_value(p)]


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
    for name in ("value", "signed", "p_value", "interval", "milliseconds", "stages", "hundredths", "size"):
        environment.filters[name] = getattr(words, name)
    return environment.get_template("report.html")
