"""The standard library of the running interpreter as a retrieval collection; needs no download.

```
folder/{corpus.jsonl,queries.jsonl,qrels/{dev,test}.tsv,thoughts.jsonl}     BEIR, with thoughts
folder/train/{corpus.jsonl,queries.jsonl,qrels/train.tsv,thoughts.jsonl}    what to train on
folder/collection.json        what is in it (o1_bench.datasets.manifest)
```
A document is a function with a docstring: its source without it. A query is the first sentence of
a docstring; functions whose sentences are equal up to case and punctuation are all relevant to it.
A thought is the rest of the docstring. Dev and test queries are drawn from the sentences that
have a rest, in the order of their sha256, so that they move little between Python versions.

Training pairs come from the other functions of the standard library and from installed packages.
None repeats a dev or test query, and none is a near-copy, in code or docstring, of a function that
is relevant to one (`o1_bench.datasets.near_copies`).
"""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from tqdm import tqdm

from o1_bench.collection import Collection
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.functions import Function
from o1_bench.datasets.manifest import Manifest, read_manifest, up_to_date, write_manifest
from o1_bench.datasets.near_copies import NearCopies
from o1_bench.datasets.sources import (
    default_sites,
    installed_packages,
    installed_versions,
    package_functions,
    stdlib_functions,
)
from o1_records import (
    Document,
    InputError,
    Qrel,
    Query,
    Source,
    Thought,
    sha256_file,
    write_jsonl,
)
from o1_records.beir import write_beir

TEST_QUERIES = 500
DEV_QUERIES = 300
PACKAGE_FUNCTIONS = 8000

_TESTED = ("corpus.jsonl", "queries.jsonl", "qrels/dev.tsv", "qrels/test.tsv", "thoughts.jsonl")
_TRAIN = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "thoughts.jsonl")
_FILES = (*_TESTED, *(f"train/{name}" for name in _TRAIN))

Group = list[Function]  # the functions of one sentence, in the order of the corpus


def build_stdlib(
    folder: str | Path,
    *,
    sites: Sequence[Path] | None = None,
    package_limit: int = PACKAGE_FUNCTIONS,
) -> Manifest:
    """Build the collection of the running interpreter; a folder that is up to date stays as it is.

    The same interpreter and the same installed packages give the same bytes.

    Args:
        folder: where the files go, as shown above.
        sites: folders with installed packages; those of the running interpreter when None.
        package_limit: at most so many training functions come from `sites`.

    Raises:
        InputError: the interpreter comes without the source of its library.
    """
    folder = Path(folder)
    sites = default_sites() if sites is None else sites
    inputs = _inputs(sites, package_limit)
    done = up_to_date(folder, inputs)
    if done is not None:
        return done
    skipped: list[Path] = []
    library = list(tqdm(stdlib_functions(skipped), "standard library", unit="", disable=None))
    test, dev = _held_out(library)
    teaches = _training_filter([*test, *dev])
    own = [function for function in library if teaches(function)]
    others = _package_functions(sites, package_limit, teaches, skipped)
    train = _groups([*own, *others])
    _write(folder, library, {"dev": dev, "test": test})
    thoughts = _write(folder / "train", [*own, *others], {"train": train})
    manifest = Manifest(
        name="stdlib",
        revision=_revision(folder),
        inputs=inputs,
        counts={
            "documents": len(library),
            "test queries": len(test),
            "dev queries": len(dev),
            "train documents": len(own) + len(others),
            "train queries": len(train),
            "train thoughts": thoughts,
            "skipped files": len(skipped),
        },
        packages={"stdlib": len(own), **Counter(one.name.partition(".")[0] for one in others)},
        files={name: sha256_file(folder / name) for name in _FILES},
    )
    write_manifest(folder, manifest)
    return manifest


def load_stdlib(folder: str | Path, split: str = "test") -> Collection:
    """Load the test or dev split of a built folder, with its revision."""
    manifest = read_manifest(Path(folder))
    return load_beir(folder, split, name=f"stdlib/{split}", revision=manifest.revision)


def _held_out(library: Iterable[Function]) -> tuple[list[Group], list[Group]]:
    """The test and the dev groups: a query with a thought each, no sentence twice."""
    groups = [group for group in _groups(library) if _owner(group).rest]
    groups.sort(key=lambda group: _order(group[0].normalised))
    if len(groups) < TEST_QUERIES + DEV_QUERIES:
        raise InputError(
            f"only {len(groups)} docstrings in {sysconfig.get_path('stdlib')} can be queries, "
            f"{TEST_QUERIES + DEV_QUERIES} are needed; use a Python that has its library as source"
        )
    return groups[:TEST_QUERIES], groups[TEST_QUERIES:][:DEV_QUERIES]


def _groups(functions: Iterable[Function]) -> list[Group]:
    """Functions by equal sentence, where at least one of the sentences can be a query."""
    groups: dict[str, Group] = {}
    for function in functions:
        groups.setdefault(function.normalised, []).append(function)
    return [group for group in groups.values() if any(one.is_question for one in group)]


def _owner(group: Group) -> Function:
    """The function whose docstring gives the query and the thought: the first that has both."""
    asked = [function for function in group if function.is_question]
    return next((function for function in asked if function.rest), asked[0])


def _training_filter(held_out: Iterable[Group]) -> Callable[[Function], bool]:
    functions = [function for group in held_out for function in group]
    sentences = {function.normalised for function in functions}
    sources = NearCopies(function.source for function in functions)
    docstrings = NearCopies(function.docstring for function in functions)

    def teaches(function: Function) -> bool:
        return (
            function.is_question
            and function.normalised not in sentences
            and function.source not in sources
            and function.docstring not in docstrings
        )

    return teaches


def _package_functions(
    sites: Iterable[Path], limit: int, teaches: Callable[[Function], bool], skipped: list[Path]
) -> list[Function]:
    """Up to `limit` functions, package after package; of the last one, those of least sha256."""
    taken: list[Function] = []
    with tqdm(desc="installed packages", total=limit, unit="", disable=None) as bar:
        for folder, name in installed_packages(sites):
            found = [one for one in package_functions(folder, name, skipped) if teaches(one)]
            found.sort(key=lambda function: _order(function.name))
            taken.extend(found[: limit - len(taken)])
            bar.update(len(taken) - bar.n)
            if len(taken) == limit:
                break
    return taken


def _write(folder: Path, functions: Sequence[Function], splits: Mapping[str, Sequence[Group]]) -> int:
    """Write one BEIR folder with its thoughts; returns their number."""
    asked = [group for groups in splits.values() for group in groups]
    write_beir(
        folder,
        documents=(Document(doc_id=one.name, text=one.source) for one in functions),
        queries=(Query(query_id=_query_id(group), text=_owner(group).sentence) for group in asked),
        qrels={split: _qrels(groups) for split, groups in splits.items()},
    )
    return write_jsonl(folder / "thoughts.jsonl", _thoughts(asked))


def _qrels(groups: Iterable[Group]) -> Iterator[Qrel]:
    for group in groups:
        for function in group:
            yield Qrel(query_id=_query_id(group), doc_id=function.name, relevance=1)


def _thoughts(groups: Iterable[Group]) -> Iterator[Thought]:
    source = Source(model="docstring", revision=platform.python_version())
    for group in groups:
        if rest := _owner(group).rest:
            yield Thought(query_id=_query_id(group), thought_id="docstring", text=rest, source=source)


def _query_id(group: Group) -> str:
    # never equal to a doc_id: BEIR's own evaluation drops hits named like their query
    return f"q:{_owner(group).name}"


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _inputs(sites: Sequence[Path], package_limit: int) -> str:
    """Digest of what decides the files: interpreter, packages, limits and the builder itself."""
    builder = [sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    packages = [name for _, name in installed_packages(sites)]
    made_from = [sys.version, installed_versions(sites), packages, package_limit, builder]
    return hashlib.sha256(msgspec.json.encode(made_from)).hexdigest()


def _revision(folder: Path) -> str:
    """The interpreter and a digest of what is searched and asked, which no package changes."""
    content = "".join(sha256_file(folder / name) for name in _TESTED)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f"{platform.python_implementation()} {platform.python_version()} {digest[:12]}"
