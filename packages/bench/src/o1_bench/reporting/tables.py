"""Tables of results for papers and pages: text, Markdown, LaTeX or CSV, with letters of significance.

A letter stands for a system. Behind a number are the letters of the systems that it beats by more than
chance: a paired permutation test by query, p corrected (Holm) over all pairs of the column, below 0.05.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_lowercase

from o1_bench.compare import holm, paired_test, paired_test_over_tasks
from o1_bench.datasets.averages import averages_of, headline
from o1_bench.reporting.rows import CHANCE, by_collection, chosen, main_measure
from o1_bench.reporting.words import aligned, floor
from o1_bench.results.result import Result, refuse_unlike
from o1_bench.score import Measure
from o1_records import InputError, quoted

Values = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number in a table.

    Attributes:
        value: None where the system has none.
        spread: its standard deviation over seeds, if there are several.
        best: whether no system that is neither control nor oracle is better.
        beats: the letters of the systems that it beats by more than chance.
    """

    value: float | None
    spread: float | None = None
    best: bool = False
    beats: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Systems by measures, or by collections and their averages.

    Attributes:
        columns: the names of the columns.
        systems: the names of the systems, each with its letter if there are letters.
        cells: of each system, by column.
        note: what a caption has to say.
    """

    columns: tuple[str, ...]
    systems: tuple[tuple[str, str], ...]
    cells: tuple[tuple[Cell, ...], ...]
    note: str


def results_table(
    results: Sequence[Result],
    *,
    measures: Sequence[Measure | str] = (),
    letters: bool = False,
    permutations: int = 10_000,
    seed: int = 0,
) -> Table:
    """Return results of one collection by measure, or of several by collection, with their averages.

    Args:
        results: of systems on collections; those of several seeds of a system are one.
        measures: which are shown; of several collections the first one only. Their own by default.
        letters: test every pair of systems in every column.
        permutations: of each test.
        seed: of the tests.

    Raises:
        InputError: there are no results, they do not belong side by side, a measure is missing, or there are
            more systems than letters.
    """
    kept = chosen(results, measures)
    groups = by_collection(kept)
    if not groups:
        raise InputError("there are no results for a table")
    for group in groups.values():
        refuse_unlike(group)
    names = list(dict.fromkeys(result.name for result in kept))
    fair = {result.name for result in kept if result.system.kind == "system"}
    if letters and len(names) > len(ascii_lowercase):
        raise InputError(f"{len(names)} systems are more than there are letters; leave some out")
    columns = _by_measure(kept) if len(groups) == 1 else _by_task(groups)
    marks = dict(zip(names, ascii_lowercase, strict=False)) if letters else {}
    cells: list[tuple[Cell, ...]] = []
    beaten = {column.name: column.beaten(names, permutations, seed) if letters else {} for column in columns}
    for name in names:
        row = []
        for column in columns:
            value = column.values.get(name)
            most = max((v for n, v in column.values.items() if n in fair and v is not None), default=None)
            row.append(
                Cell(
                    value=value,
                    spread=column.spread.get(name),
                    best=value is not None and value == most and name in fair,
                    beats="".join(sorted(marks[other] for other in beaten[column.name].get(name, ()))),
                )
            )
        cells.append(tuple(row))
    return Table(
        columns=tuple(column.name for column in columns),
        systems=tuple((name, marks.get(name, "")) for name in names),
        cells=tuple(cells),
        note=_note(kept, letters=letters, permutations=permutations, seed=seed),
    )


def written(table: Table, form: str) -> str:
    """Return a table in one of the `FORMS`. Raises InputError for another."""
    if form not in FORMS:
        raise InputError(f"unknown format {quoted(form)}; choose one of {', '.join(FORMS)}")
    return FORMS[form](table)


# --- columns ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Column:
    """The values of systems, and by task and query what they are means of."""

    name: str
    values: Mapping[str, float | None]
    spread: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, Values]]
    weights: Mapping[str, float] | None = None

    def beaten(self, names: Sequence[str], permutations: int, seed: int) -> dict[str, list[str]]:
        """Return the systems that each system beats by more than chance."""
        pairs = [pair for pair in combinations(names, 2) if all(n in self.per_query for n in pair)]
        tests = []
        for one, other in pairs:
            a, b = self.per_query[one], self.per_query[other]
            if len(a) == 1:
                (task,) = a
                tests.append(paired_test(a[task], b[task], permutations=permutations, seed=seed))
            else:
                tests.append(
                    paired_test_over_tasks(a, b, weights=self.weights, permutations=permutations, seed=seed)
                )
        found: dict[str, list[str]] = {}
        for (one, other), test, p in zip(pairs, tests, holm([t.p_value for t in tests]), strict=True):
            if p < CHANCE and test.difference:
                better, worse = (one, other) if test.difference > 0 else (other, one)
                found.setdefault(better, []).append(worse)
        return found


def _by_measure(results: Sequence[Result]) -> list[_Column]:
    first = results[0]
    for result in results:
        if result.metrics.keys() != first.metrics.keys():
            raise InputError(
                f"{quoted(result.name)} has {', '.join(result.metrics)}, {quoted(first.name)} has "
                f"{', '.join(first.metrics)}; name --measures that all have"
            )
    return [
        _Column(
            name=measure,
            values={result.name: result.metrics[measure] for result in results},
            spread={r.name: r.spread[measure] for r in results if measure in r.spread},
            per_query={r.name: {"": r.per_query[measure]} for r in results},
        )
        for measure in first.metrics
    ]


def _by_task(groups: Mapping[str, Sequence[Result]]) -> list[_Column]:
    found: dict[str, dict[str, Result]] = {}
    for task, group in groups.items():
        for result in group:
            found.setdefault(result.name, {})[task] = result
    # one measure for a task, whatever other results name first
    measures = {task: main_measure(group[0]) for task, group in groups.items()}
    columns = []
    for task, group in groups.items():
        main = measures[task]
        if any(main not in result.metrics for result in group):
            raise InputError(f"{task}: not every result has {main}; name a measure that all have")
        columns.append(
            _Column(
                name=task,
                values={result.name: result.metrics[main] for result in group},
                spread={r.name: r.spread[main] for r in group if main in r.spread},
                per_query={r.name: {task: r.per_query[main]} for r in group},
            )
        )
    leading = headline(groups)
    for average in [leading, *(each for each in averages_of(groups) if each.name != leading.name)]:
        mains = {
            name: {task: r.metrics[measures[task]] for task, r in tasks.items()}
            for name, tasks in found.items()
        }
        values = {name: average.of(of_tasks) for name, of_tasks in mains.items()}
        columns.append(
            _Column(
                name=average.name,
                values=values,
                spread={},
                per_query={
                    name: {task: found[name][task].per_query[measures[task]] for task in average.collections}
                    for name, value in values.items()
                    if value is not None
                },
                weights=average.weights,
            )
        )
    return columns


def _note(results: Sequence[Result], *, letters: bool, permutations: int, seed: int) -> str:
    measures = ", ".join(dict.fromkeys(main_measure(result) for result in results))
    groups = by_collection(results)
    what = f"{measures} by collection" if len(groups) > 1 else f"On {next(iter(groups))}"
    told = [f"{what}; the best of each column is bold, controls and oracles aside"]
    if any(result.seeds for result in results):
        told.append("± is the standard deviation over seeds")
    if letters:
        count = len({result.name for result in results})
        pairs = count * (count - 1) // 2
        told.append(
            "letters are those of the systems that a number beats by more than chance (paired permutation "
            f"test, {permutations:,} permutations, seed {seed}; p below {CHANCE} after Holm's correction "
            f"over all pairs of the column: {floor(permutations, pairs)})"
        )
    return f"{'; '.join(told)}."


# --- forms --------------------------------------------------------------------------------------------


def _number(cell: Cell) -> str:
    if cell.value is None:
        return ""
    return f"{cell.value:.3f}" + ("" if cell.spread is None else f" ± {cell.spread:.3f}")


def _text(table: Table) -> str:
    lines = [["", *table.columns]]
    for (name, letter), cells in zip(table.systems, table.cells, strict=True):
        numbers = [f"{_number(cell)} {cell.beats}".rstrip() for cell in cells]
        lines.append([f"{letter} {name}".lstrip(), *numbers])
    return f"{aligned(lines)}\n{table.note}"


def _markdown(table: Table) -> str:
    lines = [["", *table.columns], ["---", *["---:"] * len(table.columns)]]
    for (name, letter), cells in zip(table.systems, table.cells, strict=True):
        row = [f"{letter} {name}".lstrip().replace("|", "\\|")]
        for cell in cells:
            number = f"**{_number(cell)}**" if cell.best else _number(cell)
            row.append(f"{number}<sup>{cell.beats}</sup>" if cell.beats else number)
        lines.append(row)
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\n{table.note}"


def _latex(table: Table) -> str:
    """Return a tabular for booktabs, times 100 with one decimal as papers print it."""
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["", *map(_escaped, table.columns)]) + r" \\",
        r"\midrule",
    ]
    for (name, letter), cells in zip(table.systems, table.cells, strict=True):
        row = [f"${letter}$ {_escaped(name)}" if letter else _escaped(name)]
        for cell in cells:
            number = "" if cell.value is None else f"{100 * cell.value:.1f}"
            number = rf"\textbf{{{number}}}" if cell.best else number
            number += "" if cell.spread is None else rf"\,{{\scriptsize $\pm$ {100 * cell.spread:.1f}}}"
            row.append(f"{number}$^{{{cell.beats}}}$" if cell.beats else number)
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {table.note}"])


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spread = any(cell.spread is not None for cells in table.cells for cell in cells)
    letters = any(letter for _, letter in table.systems)
    header = ["system", *(["letter"] * letters)]
    for column in table.columns:
        header += [column, *([f"{column} sd"] * spread), *([f"{column} beats"] * letters)]
    writer.writerow(header)
    for (name, letter), cells in zip(table.systems, table.cells, strict=True):
        row: list[object] = [name, *([letter] * letters)]
        for cell in cells:
            row += [cell.value, *([cell.spread] * spread), *([cell.beats] * letters)]
        writer.writerow(["" if value is None else value for value in row])
    return out.getvalue().rstrip("\n")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


FORMS: dict[str, Callable[[Table], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}
"""The forms of a table, by name."""
