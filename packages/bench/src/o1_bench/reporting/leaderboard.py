"""Published figures beside ours: `published.jsonl`, each line with its source and its protocol.

The figures were copied from the sources that they name; unknown ones have no line. A figure is compared with
ours where collection, measure and protocol are the same (`o1_bench.protocol.Protocol.family`); others are
shown apart, with what is different. A figure of an average has the average's name (`BRIGHT`, see
`o1_bench.datasets.averages`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from typing import NamedTuple

from o1_bench.datasets.averages import AVERAGES, averages_of
from o1_bench.datasets.suites import ENTRIES
from o1_bench.protocol import PROTOCOLS
from o1_bench.reporting.rows import by_collection, chosen, main_measure
from o1_bench.results.mteb import TheirResult
from o1_bench.results.result import Result
from o1_bench.score import Measure
from o1_records import Record, read_jsonl
from o1_records.types import NonBlank


class Published(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published figure, as a fraction.

    `protocol` is a name of `o1_bench.protocol.PROTOCOLS`, or says in words what is not known of it; `note`
    says how the system was run.
    """

    collection: NonBlank
    measure: NonBlank
    system: NonBlank
    value: float
    protocol: NonBlank
    source: NonBlank
    note: str = ""


class Column(NamedTuple):
    """A collection or an average, a measure, and the protocol by which ours were measured."""

    collection: str
    measure: str
    family: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a leaderboard: values by column, None where they are unknown."""

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
        """The source, and how the system was run."""
        return self.source, self.note


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Systems by collections, best first by the last column that something was published of.

    Attributes:
        columns: every collection that ran, and averages that there is a figure to compare with, each with its
            measure and its protocol.
        entries: ours, and what was published of the same.
        apart: what was published of the same queries by another protocol or on other passages; its note says
            which.
    """

    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]
    apart: tuple[Entry, ...] = ()

    @property
    def alone(self) -> list[Column]:
        """The columns that no published figure is known of."""
        every = [*(entry for entry in self.entries if not entry.ours), *self.apart]
        return [c for at, c in enumerate(self.columns) if all(entry.values[at] is None for entry in every)]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The origins of the published figures, each once."""
        every = [*self.entries, *self.apart]
        return list(dict.fromkeys(entry.origin for entry in every if not entry.ours))


@cache
def published() -> tuple[Published, ...]:
    """Return all published figures that are known."""
    with as_file(files("o1_bench.reporting") / "published.jsonl") as path:
        return tuple(read_jsonl(path, Published))


def leaderboard(
    results: Sequence[Result],
    *,
    measures: Sequence[Measure | str] = (),
    also: Iterable[Published | TheirResult] = (),
) -> Leaderboard | None:
    """Return results beside published figures of the same; None if there are no results of systems.

    Controls and oracles are left out, and seeds of a system are one. Of a collection its main measure is
    shown and every other measure in which something was published, of several collections their averages.
    A collection that nothing was published of has ours only.

    Args:
        results: ours.
        measures: instead of the results' own.
        also: further figures, such as those of mteb (`o1_bench.results.mteb.read_mteb`).
    """
    fair = [result for result in chosen(results, measures) if result.system.kind == "system"]
    groups = by_collection(fair)
    known = [*published(), *map(_as_published, also)]
    columns = [column for task, group in groups.items() for column in _columns(task, group, known)]
    values: dict[str, dict[Column, float | None]] = {result.name: {} for result in fair}
    for result in fair:
        for column in columns:
            if column.collection == result.collection.name:
                values[result.name][column] = result.metrics.get(column.measure)
    for average in averages_of(groups):
        members = [next(c for c in columns if c.collection == name) for name in average.collections]
        kinds = {(member.measure, member.family) for member in members}
        if len(kinds) == 1:
            column = Column(average.name, *kinds.pop())
            columns.append(column)
            for of_system in values.values():
                found = {member.collection: of_system.get(member) for member in members}
                of_system[column] = average.of(found)
    if not columns:
        return None
    comparable = _with_averages([each for each in known if _family(each)], columns)
    ran = {result.collection.name for result in fair}
    columns = [  # averages only where there is something to compare them with
        column
        for column in columns
        if column.collection in ran
        or any(_fits(each, column) for each in comparable)
        or any(_beside(each, column) for each in known)
    ]
    leads = [at for at, column in enumerate(columns) if any(_fits(each, column) for each in comparable)]
    lead = leads[-1] if leads else len(columns) - 1

    def best_first(entry: Entry) -> tuple[bool, float, bool, float, str]:
        values = entry.values[lead], next((v for v in reversed(entry.values) if v is not None), None)
        return values[0] is None, -(values[0] or 0.0), values[1] is None, -(values[1] or 0.0), entry.system

    ours = [
        Entry(system=name, values=tuple(of_system.get(column) for column in columns))
        for name, of_system in values.items()
    ]
    theirs = _entries([each for each in comparable if any(_fits(each, c) for c in columns)], columns, _fits)
    others = [each for each in known if any(_beside(each, c) for c in columns)]
    apart = _entries([_told_apart(each) for each in others], columns, _beside)
    return Leaderboard(
        columns=tuple(columns),
        entries=tuple(sorted([*ours, *theirs], key=best_first)),
        apart=tuple(sorted(apart, key=best_first)),
    )


def _columns(task: str, group: Sequence[Result], known: Sequence[Published]) -> list[Column]:
    """Return a column for the main measure of a collection, and for others that figures are known of."""
    stamp = group[0].collection
    protocol = stamp.protocol or next(
        (entry.protocol for entry in ENTRIES.values() if entry.name == task), PROTOCOLS["plain"]
    )
    main = main_measure(group[0])
    others = [measure for measure in group[0].metrics if measure != main]
    columns = [Column(task, measure, protocol.family) for measure in (main, *others)]
    return [column for column in columns if column.measure == main or any(_fits(e, column) for e in known)]


def _fits(figure: Published, column: Column) -> bool:
    """Whether a figure can be compared with ours."""
    return (figure.collection, figure.measure, _family(figure)) == column


def _beside(figure: Published, column: Column) -> bool:
    """Whether a figure is about the same queries, and cannot be compared."""
    same = _plain(figure.collection) == _plain(column.collection) and figure.measure == column.measure
    return same and not _fits(figure, column)


def _plain(collection: str) -> str:
    return collection.replace("msmarco-titles/", "msmarco/")


def _family(figure: Published) -> str:
    """Return the protocol of a figure; "" where it is not known."""
    return PROTOCOLS[figure.protocol].family if figure.protocol in PROTOCOLS else ""


def _told_apart(figure: Published) -> Published:
    """Return a figure whose note says what is different."""
    what = figure.protocol if not _family(figure) else f"on {figure.collection}, protocol {figure.protocol}"
    return Published(
        **{name: getattr(figure, name) for name in figure.__struct_fields__ if name != "note"},
        note="; ".join(filter(None, (what, figure.note))),
    )


def _with_averages(figures: Sequence[Published], columns: Sequence[Column]) -> list[Published]:
    """Return figures with the averages that can be computed of a system's tasks and were not published."""
    by_system: dict[tuple[str, str, str], dict[str, Published]] = {}
    for each in figures:
        by_system.setdefault((each.system, each.source, each.measure), {})[each.collection] = each
    asked = {column.collection for column in columns}
    added = []
    for of_collection in by_system.values():
        for average in AVERAGES:
            if average.name in asked and average.name not in of_collection:
                tasks = [of_collection[name] for name in average.collections if name in of_collection]
                if len(tasks) == len(average.collections):
                    mean = average.of({each.collection: each.value for each in tasks})
                    added.append((tasks[0], average.name, mean))
    made = [
        Published(
            collection=name, measure=one.measure, system=one.system, value=mean or 0.0, protocol=one.protocol,
            source=one.source, note=one.note,
        )
        for one, name, mean in added
    ]  # fmt: skip
    return [*figures, *made]


def _entries(
    figures: Sequence[Published], columns: Sequence[Column], fits: Callable[[Published, Column], bool]
) -> list[Entry]:
    found: dict[tuple[str, str], list[Published]] = {}
    for each in figures:
        found.setdefault((each.system, each.source), []).append(each)
    return [
        Entry(
            system=system,
            values=tuple(next((e.value for e in own if fits(e, c)), None) for c in columns),
            source=source,
            note="; ".join(dict.fromkeys(each.note for each in own if each.note)),
        )
        for (system, source), own in found.items()
    ]


def _as_published(figure: Published | TheirResult) -> Published:
    if isinstance(figure, Published):
        return figure
    entry = next(entry for entry in ENTRIES.values() if entry.name == figure.collection)
    return Published(
        collection=figure.collection,
        measure=figure.measure,
        system=figure.system,
        value=figure.value,
        protocol=entry.protocol.name,
        source=figure.source,
    )
