"""Which functions of the running interpreter are searched, which are asked for, which are taught.

Functions whose first sentences are equal up to case and punctuation make one query. Dev and test
queries are drawn from those that have a thought, in the order of their sha256, so that they move
little between Python versions. Taught are the other functions of the standard library and those
of installed packages: none that repeats a dev or test query, and none that is a near-copy, in
code or docstring, of a function that is relevant to one (`o1_bench.datasets.near_copies`).
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from o1_bench.datasets.functions import Function
from o1_bench.datasets.near_copies import NearCopies
from o1_bench.datasets.sources import installed_packages, package_functions, stdlib_functions
from o1_records import InputError

TEST_QUERIES = 500
DEV_QUERIES = 300

Group = list[Function]  # the functions of one sentence, in the order of the corpus


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a collection is made of.

    Attributes:
        library: The functions that are searched.
        dev: The groups of `library` that dev queries ask for.
        test: The groups of `library` that test queries ask for.
        own: The functions of `library` that are taught.
        others: The functions of installed packages that are taught.
        skipped: How many files could not be read.
    """

    library: Sequence[Function]
    dev: Sequence[Group]
    test: Sequence[Group]
    own: Sequence[Function]
    others: Sequence[Function]
    skipped: int = 0

    @property
    def taught(self) -> list[Function]:
        """All training functions, those of the standard library first."""
        return [*self.own, *self.others]


def select(sites: Iterable[Path], package_limit: int) -> Selection:
    """Read the standard library and the packages in `sites`, of these up to `package_limit` functions.

    Raises InputError when the interpreter comes without the source of its library.
    """
    from tqdm import tqdm  # 15 ms that `import o1_bench` does not need

    skipped: list[Path] = []
    library = list(tqdm(stdlib_functions(skipped), "standard library", unit="", disable=None))
    test, dev = _held_out(library)
    teaches = _training_filter([*test, *dev])
    own = [function for function in library if teaches(function)]
    with tqdm(desc="installed packages", total=package_limit, unit="", disable=None) as bar:
        others = _package_functions(sites, package_limit, teaches, skipped, bar.update)
    return Selection(library=library, dev=dev, test=test, own=own, others=others, skipped=len(skipped))


def groups(functions: Iterable[Function]) -> list[Group]:
    """Functions by equal sentence, where at least one of the sentences can be a query."""
    found: dict[str, Group] = {}
    for function in functions:
        found.setdefault(function.normalised, []).append(function)
    return [group for group in found.values() if any(one.can_be_query for one in group)]


def owner(group: Group) -> Function:
    """The function whose docstring gives the query and the thought: the first that has both."""
    asked = [function for function in group if function.can_be_query]
    return next((function for function in asked if function.rest), asked[0])


def _held_out(library: Iterable[Function]) -> tuple[list[Group], list[Group]]:
    """The test and the dev groups: a query with a thought each, no sentence twice."""
    found = [group for group in groups(library) if owner(group).rest]
    found.sort(key=lambda group: _order(group[0].normalised))
    if len(found) < TEST_QUERIES + DEV_QUERIES:
        raise InputError(
            f"only {len(found)} docstrings in {sysconfig.get_path('stdlib')} can be queries, "
            f"{TEST_QUERIES + DEV_QUERIES} are needed; use a Python that has its library as source"
        )
    return found[:TEST_QUERIES], found[TEST_QUERIES:][:DEV_QUERIES]


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
    progress: Callable[[int], object],
) -> list[Function]:
    """Up to `limit` functions, package after package; of the last one, those of least sha256."""
    taken: list[Function] = []
    for folder, name in installed_packages(sites):
        if len(taken) == limit:
            break
        found = list(package_functions(folder, name, skipped))
        found.sort(key=lambda function: _order(function.name))
        # the filter is slow and runs no further than it must
        new = list(islice(filter(teaches, found), limit - len(taken)))
        taken.extend(new)
        progress(len(new))
    return taken


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
