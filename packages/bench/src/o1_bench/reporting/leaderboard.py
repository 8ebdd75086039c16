"""Published figures beside ours: `published.jsonl`, each line with its source.

The figures were copied from the sources that they name; unknown ones have no line. A figure of a whole
suite has the suite's name (`bright`) and is averaged as by its authors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

from o1_bench.reporting.rows import by_collection, main_measure
from o1_bench.results.result import Result
from o1_records import InputError, Record, quoted, read_jsonl
from o1_records.types import NonBlank


class Published(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published figure, as a fraction; `note` says what is known of the protocol."""

    collection: NonBlank
    measure: NonBlank
    system: NonBlank
    value: float
    source: NonBlank
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a leaderboard: values by collection, None where they are unknown."""

    system: str
    values: tuple[float | None, ...]
    source: str = ""
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is one of our results."""
        return not self.source

    @property
    def origin(self) -> tuple[str, str]:
        """The source, and what is known of its protocol."""
        return self.source, self.note


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Systems by collections, best first by the last column; each column has its measure."""

    columns: tuple[str, ...]
    measures: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The origins of the published figures, each once."""
        return list(dict.fromkeys(entry.origin for entry in self.entries if not entry.ours))


@cache
def published() -> tuple[Published, ...]:
    """Return all published figures that are known."""
    with as_file(files("o1_bench.reporting") / "published.jsonl") as path:
        return tuple(read_jsonl(path, Published))


def leaderboard(results: Sequence[Result]) -> Leaderboard | None:
    """Return the main measure of the results beside published figures of it; None if there are none.

    Controls and oracles are left out. If all tasks of a published suite ran, its average is the last column.
    """
    groups = by_collection(results)
    if not groups:
        return None
    columns = [(task, main_measure(group[0])) for task, group in groups.items()]
    fair = [r for group in groups.values() for r in group if r.system.kind == "system"]
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    for result in fair:
        if metrics.setdefault((result.name, result.collection.name), result.metrics) is not result.metrics:
            raise InputError(
                f"two results are called {quoted(result.name)} on {result.collection.name}; leave one out"
            )
    ours = {
        name: [metrics.get((name, task), {}).get(measure) for task, measure in columns]
        for name in dict.fromkeys(result.name for result in fair)
    }
    columns, ours = _with_average(columns, ours)
    known = {(each.collection, each.measure) for each in published()}
    kept = [place for place, column in enumerate(columns) if column in known]
    if not kept:
        return None
    shown = [columns[place] for place in kept]
    entries = [
        Entry(system=name, values=tuple(values[place] for place in kept)) for name, values in ours.items()
    ]
    return Leaderboard(
        columns=tuple(task for task, _ in shown),
        measures=tuple(measure for _, measure in shown),
        entries=tuple(sorted([*entries, *_theirs(shown)], key=_best_first)),
    )


def _with_average(
    columns: list[tuple[str, str]], ours: dict[str, list[float | None]]
) -> tuple[list[tuple[str, str]], dict[str, list[float | None]]]:
    """Add a column for the average, if the tasks are those of a published suite."""
    suite = columns[0][0].partition("/")[0]
    of_suite = {each.collection for each in published() if each.collection.startswith(f"{suite}/")}
    if {task for task, _ in columns} != of_suite:
        return columns, ours
    averaged = {
        name: [*values, None if None in values else sum(filter(None, values)) / len(values)]
        for name, values in ours.items()
    }
    return [*columns, (suite, columns[0][1])], averaged


def _theirs(columns: Sequence[tuple[str, str]]) -> list[Entry]:
    found: dict[tuple[str, str], list[Published]] = {}
    for each in published():
        if (each.collection, each.measure) in columns:
            found.setdefault((each.system, each.source), []).append(each)
    return [
        Entry(
            system=system,
            values=tuple({(e.collection, e.measure): e.value for e in of_system}.get(c) for c in columns),
            source=source,
            note="; ".join(dict.fromkeys(each.note for each in of_system if each.note)),
        )
        for (system, source), of_system in found.items()
    ]


def _best_first(entry: Entry) -> tuple[bool, float, str]:
    last = entry.values[-1]
    return last is None, -(last or 0.0), entry.system
