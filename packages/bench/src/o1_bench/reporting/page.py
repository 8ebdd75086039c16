"""A report: one offline HTML file. Needs the `[report]` extra.

The templates take what is said of each collection, and of all of them together: rows, sentences, pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from o1_bench.datasets.averages import headline
from o1_bench.datasets.suites import load_collection
from o1_bench.reporting import words
from o1_bench.reporting.examples import WorkedExample, worked_examples
from o1_bench.reporting.leaderboard import leaderboard
from o1_bench.reporting.pictures import (
    Point,
    depth_curve,
    gain_curve,
    length_curve,
    quality_against_time,
)
from o1_bench.reporting.rows import (
    Row,
    SuiteRow,
    by_collection,
    chosen,
    gain_by_length,
    main_measure,
    over_tasks,
    side_by_side,
)
from o1_bench.reporting.tables import results_table, written
from o1_bench.results.result import RUN, THOUGHTS, Result, find_results, load_result
from o1_bench.running.task import load_thoughts
from o1_bench.score import Measure, parse_measure
from o1_records import InputError, MissingExtraError, atomic_write, quoted
from o1_records.trec import read_run

_WIDE, _NARROW = (760, 400), (350, 440)
_KINDS = {"control": "control", "oracle": "oracle: looks at the answer"}
_FILTERS = (
    *("value", "signed", "p_of", "interval", "milliseconds", "stages", "hundredths", "size", "spread"),
    "resampling",
)
_MOST_CARDS = 6
_PRINTED = 6  # tasks beside each other on paper


def report(
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    baseline: str = "",
    focus: str = "",
    title: str = "Retrieval report",
    measures: Sequence[Measure | str] = (),
    collection: str | Path | None = None,
    split: str | None = None,
    protocol: str | None = None,
    thoughts: str | Path | None = None,
    examples: int | None = None,
    seed: int = 0,
    permutations: int = 10_000,
) -> list[Result]:
    """Write a report about saved results and return them; `write_report` takes results in memory.

    Args:
        paths: results, or folders of them.
        out: the HTML file.
        baseline: see `write_report`.
        focus: see `write_report`.
        title: the headline.
        measures: see `write_report`.
        collection: for worked examples, the collection (a BEIR folder or `ROOT/NAME`) of some of the results.
        split: of a BEIR folder.
        protocol: by which the collection is loaded; its own by default.
        thoughts: those of the focus (JSONL, or a folder with one file per collection); those kept beside its
            result by default.
        examples: the number of queries to show; 6 by default.
        seed: see `write_report`.
        permutations: see `write_report`.

    Raises:
        InputError: none of the results was measured on the collection, an option has no effect; or as
            `write_report` does.
    """
    needed = {"--thoughts": thoughts, "--split": split, "--protocol": protocol, "--examples": examples}
    if idle := [flag for flag, given in needed.items() if given is not None and collection is None]:
        raise InputError(f"{idle[0]} is for worked examples, which need --collection; give both")
    found = {path: load_result(path) for path in find_results(paths).results}
    shown: Sequence[WorkedExample] = ()
    if collection is not None:
        asked = load_collection(collection, split, protocol=protocol)
        here = {path: r for path, r in found.items() if r.collection.digests == asked.digests}
        if not here:
            raise InputError(f"{collection}: none of the results was measured on {asked.name}")
        rows = side_by_side(chosen(list(here.values()), measures), baseline=baseline)
        base = next(row.result for row in rows if row.is_baseline)
        about = words.choose_focus(rows, focus).result
        folder_of = {result.name: path if path.is_dir() else path.parent for path, result in here.items()}
        before, after = folder_of[base.name], folder_of[about.name]
        kept = after / THOUGHTS  # where the system thought
        shown = worked_examples(
            asked,
            before=read_run(before / RUN),
            after=read_run(after / RUN),
            thoughts=load_thoughts(thoughts or kept, asked.name) if thoughts or kept.exists() else (),
            count=6 if examples is None else examples,
            measure=parse_measure(main_measure(base)),
        )
    results = list(found.values())
    write_report(
        out, results, baseline=baseline, focus=focus, title=title, examples=shown, measures=measures,
        seed=seed, permutations=permutations,
    )  # fmt: skip
    return results


def write_report(
    path: str | Path,
    results: Sequence[Result],
    *,
    baseline: str = "",
    focus: str = "",
    examples: Sequence[WorkedExample] = (),
    title: str = "Retrieval report",
    measures: Sequence[Measure | str] = (),
    seed: int = 0,
    permutations: int = 10_000,
) -> None:
    """Write a report that needs nothing but a browser.

    Args:
        path: the HTML file; it appears whole or not at all.
        results: in the order of the table; the first measure is the main one. Results of several
            collections get a section for each, with p-values corrected over all of them. Those of several
            seeds of a system are one row.
        baseline: the name of the result that the others are compared with; the first one by default.
        focus: the name of the result that the summary is about; the best that is neither control nor oracle
            by default.
        examples: worked examples, see `o1_bench.reporting.examples.worked_examples`.
        title: the headline.
        measures: which are shown, the main one first; the results' own by default.
        seed: of the tests.
        permutations: how many random signs and samples each test draws.

    Raises:
        InputError: the results do not belong side by side, or none has such a name.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401  # the pictures need it
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-bench", "report", "Writing a report") from error
    results = chosen(results, measures)
    tests: dict[str, Any] = {"baseline": baseline, "seed": seed, "permutations": permutations}
    suite = over_tasks(results, **tests) if len(by_collection(results)) > 1 else []
    shown = None
    if suite:
        about = suite_focus(suite, focus)
        shown = suite_page(suite, about)
        comparisons = sum(row.against is not None for each in suite for row in each.rows.values())
        tasks = dict.fromkeys(task for each in suite for task in each.rows)
        of_tasks = [[each.rows[task] for each in suite if task in each.rows] for task in tasks]
        pages = [
            page(rows, about.name, f"c{number}", comparisons=comparisons)
            for number, rows in enumerate(of_tasks)
        ]
    else:
        pages = [page(side_by_side(results, **tests), focus, "c0")]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("o1_bench.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in _FILTERS:
        environment.filters[name] = getattr(words, name)
    board = leaderboard(results)
    if board is not None and not board.sources:
        board = None  # it would say nothing that is not above
    columns = board.columns if board else ()
    kinds = {f"{column.measure}, protocol {column.family}" for column in columns}
    text = environment.get_template("report.html").render(
        title=title,
        pages=pages,
        suite=shown,
        board=board,
        board_names=_short_names([column.collection for column in columns]),
        board_kind=next(iter(kinds)) if len(kinds) == 1 else "",
        examples=examples,
        kinds=_KINDS,
        latex=written(results_table(results), "latex"),
        shown_kinds={result.system.kind for result in results},
    )
    with atomic_write(path) as file:
        file.write(text.encode())


def page(rows: Sequence[Row], focus: str, prefix: str, *, comparisons: int = 0) -> dict[str, Any]:
    """Return all that a report says of one collection; less if it is part of a suite of `comparisons`."""
    base = next(row.result for row in rows if row.is_baseline)
    there = any(row.result.name == focus for row in rows)
    about = words.choose_focus(rows, focus if there or not comparisons else "")
    compared = [row for row in rows if row.against]
    shown = [about] if comparisons else compared
    fair = [row.result for row in rows if row.result.system.kind == "system"]
    best = {m: max((result.metrics[m] for result in fair), default=0.0) for m in rows[0].result.metrics}
    ends = [abs(end) for row in rows if row.against for end in (row.against.low, row.against.high)]
    return {
        "name": base.collection.name,
        "rows": rows,
        "base": base,
        "focus": about,
        "summary": words.summary(rows, about, comparisons=comparisons),
        "main": main_measure(base),
        "best": best,
        "scale": max([*ends, 1e-6]),  # half the width of the pictures of intervals, in units of the measure
        "comparisons": comparisons or len(compared),
        "test": compared[0].against if compared else None,
        "said": _said(rows),
        "time_pictures": {} if comparisons else _time_pictures(_points(rows), main_measure(base), prefix),
        "depth_pictures": {} if comparisons else _depth_pictures(rows, about, prefix),
        "gain_pictures": _gain_pictures(_cards(shown, about), prefix),
        "moved": sum(bool(row.against and row.against.wins + row.against.losses) for row in shown),
        "length_pictures": _length_pictures(shown, base, prefix),
    }


def suite_page(rows: Sequence[SuiteRow], focus: SuiteRow) -> dict[str, Any]:
    """Return all that a report says of several collections together."""
    base = next(row for row in rows if row.is_baseline)
    mains = {task: main_measure(row.result) for task, row in base.rows.items()}
    tests = [row.against for row in focus.rows.values() if row.against]
    ends = [abs(end) for test in tests for end in (test.low, test.high, test.difference)]
    points = [
        _point(row.name, row.kind, row.milliseconds, row.average, is_baseline=row.is_baseline) for row in rows
    ]
    fair = [row.average for row in rows if row.kind == "system" and row.average is not None]
    named = list(base.averages)
    tasks = list(mains)
    compared = [row for row in rows if row.against]
    of_tasks = [row.against for each in rows for row in each.rows.values() if row.against]
    return {
        "rows": rows,
        "base": base,
        "focus": focus,
        "tasks": mains,
        # in the heading where all tasks have the same, else below their names
        "measure": next(iter(mains.values())) if len(set(mains.values())) == 1 else None,
        "short": _short_names(tasks),
        "printed": [tasks[at : at + _PRINTED] for at in range(0, len(tasks), _PRINTED)],
        "headline": headline(tasks).name,
        "averages": named,
        "best_averages": {
            name: _best(row.averages[name] for row in rows if row.kind == "system") for name in named
        },
        "best_tasks": {
            task: _best(
                row.rows[task].result.metrics[measure]
                for row in rows
                if row.kind == "system" and task in row.rows
            )
            for task, measure in mains.items()
        },
        "comparisons": len(compared),
        "of_tasks": len(of_tasks),
        "task_test": of_tasks[0] if of_tasks else None,
        "test": compared[0].against if compared else None,
        "best": max(fair, default=0.0),
        "scale": max([*ends, 1e-6]),
        "summary": words.suite_summary(rows, focus),
        "time_pictures": _time_pictures([p for p in points if p], "average over the tasks", "suite"),
    }


def _said(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return what is to be said of runs, each sentence once, with the names of those that it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for sentence in row.result.said:
            about.setdefault(sentence, []).append(row.result.name)
    return [
        ("All runs" if len(names) == len(rows) > 1 else ", ".join(names), sentence)
        for sentence, names in about.items()
    ]


def _short_names(tasks: Sequence[str]) -> dict[str, str]:
    """Return names without the family before the slash, if all that have one are of the same family."""
    families = {task.partition("/")[0] for task in tasks if "/" in task}
    if len(families) != 1:
        return {task: task for task in tasks}
    return {task: task.partition("/")[2] or task for task in tasks}


def _best(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


def _cards(rows: Sequence[Row], focus: Row) -> list[Row]:
    """Return the rows whose gains are drawn: those where queries moved; of many, the focus and the best."""
    moved = [row for row in rows if row.against and row.against.wins + row.against.losses]
    if len(moved) <= _MOST_CARDS:
        return moved
    main = main_measure(rows[0].result)
    order = sorted(moved, key=lambda row: (row is not focus, -row.result.metrics[main]))
    kept = order[:_MOST_CARDS]
    return [row for row in moved if any(row is each for each in kept)]


def suite_focus(rows: Sequence[SuiteRow], focus: str) -> SuiteRow:
    """Return the row named, else the system that is best on average, else the baseline."""
    if focus:
        found = next((row for row in rows if row.name == focus), None)
        if found is None:
            raise InputError(f"no result is called {quoted(focus)}; there are {[row.name for row in rows]}")
        return found
    fair = [row for row in rows if row.kind == "system" and row.against is not None]
    return max(fair, key=lambda row: row.average or 0.0, default=next(r for r in rows if r.is_baseline))


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


def _depth_pictures(rows: Sequence[Row], focus: Row, prefix: str) -> dict[str, Any]:
    """Draw nDCG@k of the baseline, the focus and the best control."""
    from markupsafe import Markup

    main = main_measure(rows[0].result)
    controls = [row for row in rows if row.result.system.kind == "control"]
    best = max(controls, key=lambda row: row.result.metrics[main], default=None)
    chosen_rows = [row for row in rows if row.is_baseline or row is focus or row is best]
    curves = [
        (
            row.result.name,
            "baseline" if row.is_baseline else row.result.system.kind,
            {k: value for k, value in row.result.curve.items() if not row.result.k or k <= row.result.k},
        )
        for row in chosen_rows
        if row.result.curve
    ]
    if not curves:
        return {}
    return {
        name: Markup(depth_curve(curves, width=width, height=height, prefix=f"{prefix}-d-{name}"))
        for name, (width, height) in (("wide", _WIDE), ("narrow", _NARROW))
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
