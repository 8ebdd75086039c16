"""The averages that papers report over several collections, by name.

`averages_of` finds those that a list of collections makes up: BEIR's, where CQADupStack's twelve forums count
as one set, BRIGHT's with its three groups, R2MED's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from o1_bench.datasets import bright, r2med
from o1_bench.datasets.suites import ENTRIES, SUITES

_CQADUPSTACK = tuple(entry.name for name, entry in ENTRIES.items() if name.startswith("beir/cqadupstack/"))


@dataclass(frozen=True)
class Average:
    """A mean over sets, each of which is one collection or the mean of several.

    Attributes:
        name: what papers call it.
        sets: the names of the collections of each set.
    """

    name: str
    sets: tuple[tuple[str, ...], ...]

    @property
    def collections(self) -> tuple[str, ...]:
        """All collections, by name."""
        return tuple(name for each in self.sets for name in each)

    @property
    def weights(self) -> dict[str, float]:
        """What each collection counts; together 1."""
        return {name: 1 / len(each) / len(self.sets) for each in self.sets for name in each}

    def of(self, values: Mapping[str, float | None]) -> float | None:
        """Return the average of values by collection; None where one is missing."""
        found = [(values.get(name), weight) for name, weight in self.weights.items()]
        if any(value is None for value, _ in found):
            return None
        return sum(value * weight for value, weight in found if value is not None)


def averages_of(collections: Iterable[str]) -> list[Average]:
    """Return the named averages whose collections are all there, the widest first."""
    there = set(collections)
    known = [each for each in AVERAGES if there.issuperset(each.collections)]
    return sorted(known, key=lambda each: -len(each.collections))


def headline(collections: Iterable[str]) -> Average:
    """Return the average to lead with: a named one over all collections, else that of all sets.

    CQADupStack's forums are one set there too.
    """
    names = list(dict.fromkeys(collections))
    known = next((each for each in averages_of(names) if set(each.collections) == set(names)), None)
    if known is not None:
        return known
    forums = tuple(name for name in names if name in _CQADUPSTACK)
    whole = len(forums) == len(_CQADUPSTACK)
    sets: list[tuple[str, ...]] = [(name,) for name in names if not whole or name not in forums]
    sets += [forums] if whole else []
    return Average(f"mean of {len(sets)} sets" if whole else f"mean of {len(sets)}", tuple(sets))


def _average(name: str, entries: Iterable[str]) -> Average:
    """Return an average of entries of `ENTRIES`, CQADupStack's forums counted once."""
    names = [ENTRIES[entry.partition("@")[0]].name for entry in entries]
    sets: list[tuple[str, ...]] = [(each,) for each in names if each not in _CQADUPSTACK]
    forums = tuple(each for each in names if each in _CQADUPSTACK)
    return Average(name, tuple([*sets, forums] if forums else sets))


def _bright(family: str, title: str) -> list[Average]:
    tasks = list(bright.TASKS)
    groups = {"StackExchange": tasks[:7], "Coding": tasks[7:9], "Theorem": tasks[9:]}
    return [
        _average(title, (f"{family}/{task}" for task in tasks)),
        *(
            _average(f"{title} {group}", (f"{family}/{task}" for task in members))
            for group, members in groups.items()
        ),
    ]


_WITHOUT_CQA = [name for name in SUITES["beir"] if "cqadupstack" not in name]

AVERAGES: tuple[Average, ...] = (
    *_bright("bright", "BRIGHT"),
    *(each for name in bright.REASONING for each in _bright(f"bright-{name}", f"BRIGHT, {name} queries")),
    _average("BRIGHT long", (f"bright-long/{task}" for task in bright.LONG_TASKS)),
    _average("R2MED", (f"r2med/{task}" for task in r2med.TASKS)),
    _average("BEIR, 15 sets", [*SUITES["beir"], "beir/msmarco"]),
    _average("BEIR, 14 sets", SUITES["beir"]),
    _average("BEIR, 13 sets", _WITHOUT_CQA),
    _average("O1 Embedder's ten sets of BEIR", (name for name in SUITES["o1"] if name.startswith("beir/"))),
    Average("CQADupStack", tuple((name,) for name in _CQADUPSTACK)),
)
"""Of BEIR's 18 sets 15 are public: 14 without MS MARCO, 13 without CQADupStack as well."""
