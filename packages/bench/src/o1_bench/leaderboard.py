"""Published figures beside ours: `published.jsonl`, each line with its source.

The figures were copied from the sources that they name; where none is known there is no line. A
figure of a whole suite stands under the suite's name (`bright`), as its authors average it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

from o1_bench.result import Result
from o1_bench.rows import main_measure
from o1_bench.suite_rows import by_collection
from o1_records import Record, read_jsonl
from o1_records.types import NonBlank


class Published(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure that someone published, as a fraction; `note` says what is known of the protocol."""

    collection: NonBlank
    measure: NonBlank
    system: NonBlank
    value: float
    source: NonBlank
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a leaderboard: values by collection, None where none is known."""

    system: str
    values: tuple[float | None, ...]
    source: str = ""
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether it was measured here."""
        return not self.source

    @property
    def origin(self) -> tuple[str, str]:
        """The source, and what is known of its protocol."""
        return self.source, self.note


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Systems by collections, best first by the last column; its measures, one a column."""

    columns: tuple[str, ...]
    measures: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The origins of the figures of others, each once."""
        return list(dict.fromkeys(entry.origin for entry in self.entries if not entry.ours))


def published() -> tuple[Published, ...]:
    """All published figures that are known."""
    return _published()


def leaderboard(results: Sequence[Result]) -> Leaderboard | None:
    """The main measure of the results beside what is published for it; None when nothing is.

    Ours are the results that are neither control nor oracle. Where all tasks of a published suite
    ran, its average is the last column.
    """
    groups = by_collection(results)
    columns = [(task, main_measure(group[0])) for task, group in groups.items()]
    ours = _ours(groups, columns)
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


def _ours(
    groups: dict[str, list[Result]], columns: Sequence[tuple[str, str]]
) -> dict[str, list[float | None]]:
    fair = [r for group in groups.values() for r in group if r.system.kind == "system"]
    values = {(r.name, r.collection.name): r.metrics for r in fair}
    return {
        name: [values.get((name, task), {}).get(measure) for task, measure in columns]
        for name in dict.fromkeys(result.name for result in fair)
    }


def _with_average(
    columns: list[tuple[str, str]], ours: dict[str, list[float | None]]
) -> tuple[list[tuple[str, str]], dict[str, list[float | None]]]:
    """The same with a column for the average, when the tasks are those of a published suite."""
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


@cache
def _published() -> tuple[Published, ...]:
    with as_file(files("o1_bench") / "published.jsonl") as path:
        return tuple(read_jsonl(path, Published))
