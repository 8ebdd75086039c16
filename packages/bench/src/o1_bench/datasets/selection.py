"""Which functions of the running interpreter are searched, asked for, and used for training.

Functions whose first sentences are equal up to case and punctuation make one query. Dev and test
queries are drawn from those that have a thought, in the order of their sha256, so that they change
little between Python versions. Training takes the other functions of the standard library and those
of installed packages: none that repeats a dev or test query, and none that is a near-copy, in
code or docstring, of a function that is relevant to one.

Near-copies share shingles (Broder 1997): runs of three words, whatever their case and punctuation. Two
texts are near-copies when at least half of the shingles of both together are in both (Jaccard >= 0.5).
Changing a share e of the words leaves about s = (1 - e)^3 of the shingles and a Jaccard of s / (2 - s): 0.5
means one changed word in eight. So a vendored or lightly edited function is caught; two functions that are
merely about the same thing are not.
"""

from __future__ import annotations

import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from o1_bench.datasets.functions import (
    Function,
    installed_packages,
    package_functions,
    stdlib_functions,
)
from o1_records import InputError
from o1_records.keys import draw
from o1_records.kit.text import shingles
from o1_records.progress import shown

TEST_QUERIES = 500
DEV_QUERIES = 300
NEAR_COPY = 0.5

Group = list[Function]  # the functions with the same sentence, in the order of the corpus


class NearCopies:
    """Says whether a text is a near-copy of one of the texts given here.

    Exact, through an inverted index of shingles: no hashing that could miss a copy.
    """

    def __init__(self, texts: Iterable[str], *, threshold: float = NEAR_COPY) -> None:
        self._threshold = threshold
        self._sizes: list[int] = []
        self._postings: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            found = shingles(text)
            self._sizes.append(len(found))
            for shingle in found:
                self._postings.setdefault(shingle, []).append(row)

    def __contains__(self, text: str) -> bool:
        found = shingles(text)
        known = self._postings.keys() & found
        # the shared shingles are among `known`, and the union has all of `found`
        if len(known) < self._threshold * len(found):
            return False
        shared = Counter(row for shingle in known for row in self._postings[shingle])
        return any(
            both >= self._threshold * (len(found) + self._sizes[row] - both) for row, both in shared.items()
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a collection is made of.

    Attributes:
        library: The functions that are searched.
        dev: The groups of `library` that dev queries ask for.
        test: The groups of `library` that test queries ask for.
        own: The functions of `library` for training.
        others: The functions of installed packages for training.
        skipped: The number of files that could not be read.
    """

    library: Sequence[Function]
    dev: Sequence[Group]
    test: Sequence[Group]
    own: Sequence[Function]
    others: Sequence[Function]
    skipped: int = 0

    @property
    def taught(self) -> list[Function]:
        """All functions for training, those of the standard library first."""
        return [*self.own, *self.others]


def select(sites: Iterable[Path], package_limit: int) -> Selection:
    """Read the standard library and, of the packages in `sites`, up to `package_limit` functions.

    Raises InputError when the interpreter comes without the source of its library.
    """
    skipped: list[Path] = []
    library = list(shown(stdlib_functions(skipped), "standard library"))
    # a query with a thought each, no sentence twice
    found = [group for group in groups(library) if owner(group).rest]
    found.sort(key=lambda group: draw(group[0].normalised))
    if len(found) < TEST_QUERIES + DEV_QUERIES:
        raise InputError(
            f"only {len(found)} docstrings in {sysconfig.get_path('stdlib')} can be queries, "
            f"{TEST_QUERIES + DEV_QUERIES} are needed; use a Python that has its library as source"
        )
    test, dev = found[:TEST_QUERIES], found[TEST_QUERIES:][:DEV_QUERIES]
    teaches = _training_filter([*test, *dev])
    own = [function for function in library if teaches(function)]
    others = _package_functions(sites, package_limit, teaches, skipped)
    return Selection(library=library, dev=dev, test=test, own=own, others=others, skipped=len(skipped))


def groups(functions: Iterable[Function]) -> list[Group]:
    """Return functions grouped by equal sentence, where at least one of the sentences can be a query."""
    found: dict[str, Group] = {}
    for function in functions:
        found.setdefault(function.normalised, []).append(function)
    return [group for group in found.values() if any(one.can_be_query for one in group)]


def owner(group: Group) -> Function:
    """Return the function whose docstring gives query and thought: the first that has both, if any."""
    asked = [function for function in group if function.can_be_query]
    return next((function for function in asked if function.rest), asked[0])


def _training_filter(held_out: Iterable[Group]) -> Callable[[Function], bool]:
    functions = [function for group in held_out for function in group]
    sentences = {function.normalised for function in functions}
    sources = NearCopies(function.source for function in functions)
    docstrings = NearCopies(function.docstring for function in functions)

    def teaches(function: Function) -> bool:
        return (
            function.can_be_query
            and function.normalised not in sentences
            and function.source not in sources
            and function.docstring not in docstrings
        )

    return teaches


def _package_functions(
    sites: Iterable[Path],
    limit: int,
    teaches: Callable[[Function], bool],
    skipped: list[Path],
) -> list[Function]:
    """Return up to `limit` functions, package after package; of the last one, those with the least sha256."""
    taken: list[Function] = []
    for folder, name in shown(installed_packages(sites), "installed packages"):
        if len(taken) == limit:
            break
        found = list(package_functions(folder, name, skipped))
        found.sort(key=lambda function: draw(function.name))
        # the filter is slow, so it stops at the limit
        new = list(islice(filter(teaches, found), limit - len(taken)))
        taken.extend(new)
    return taken
