"""The standard library of the running interpreter as a retrieval collection; needs no download.

```
folder/{corpus.jsonl,queries.jsonl,qrels/{dev,test}.tsv,thoughts.jsonl}     BEIR, with thoughts
folder/train/{corpus.jsonl,queries.jsonl,qrels/train.tsv,thoughts.jsonl}    what to train on
folder/collection.json        what is in it (o1_bench.datasets.manifest)
```
A document is a function with a docstring: its source without it. A query is the first sentence of
a docstring; functions whose sentences are equal up to case and punctuation are all relevant to it.
A thought is the rest of the docstring. `o1_bench.datasets.selection` says which functions are
asked for and which are taught. `collection.json` is removed first and written last, so a folder
that has one is whole.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from o1_bench.collection import Collection
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.functions import Function
from o1_bench.datasets.manifest import (
    Manifest,
    discard_manifest,
    read_manifest,
    up_to_date,
    write_manifest,
)
from o1_bench.datasets.selection import Group, Selection, groups, owner, select
from o1_bench.datasets.sources import default_sites, installed_packages, installed_versions
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

PACKAGE_FUNCTIONS = 8000

_TESTED = ("corpus.jsonl", "queries.jsonl", "qrels/dev.tsv", "qrels/test.tsv", "thoughts.jsonl")
_TRAIN = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "thoughts.jsonl")
_FILES = (*_TESTED, *(f"train/{name}" for name in _TRAIN))


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
        InputError: the interpreter comes without the source of its library, or the limit is negative.
    """
    if package_limit < 0:
        raise InputError(f"package_limit is {package_limit}; it must be 0 or more")
    folder = Path(folder)
    sites = default_sites() if sites is None else sites
    inputs = _inputs(sites, package_limit)
    done = up_to_date(folder, inputs)
    return done if done is not None else write_selection(folder, select(sites, package_limit), inputs)


def write_selection(folder: Path, selection: Selection, inputs: str) -> Manifest:
    """Write the files of a collection, `collection.json` last; `inputs` says what it was made from.

    Cut short, it leaves a folder without `collection.json`, which `load_stdlib` refuses.
    """
    discard_manifest(folder)
    train = groups(selection.taught)
    _write(folder, selection.library, {"dev": selection.dev, "test": selection.test})
    thoughts = _write(folder / "train", selection.taught, {"train": train})
    manifest = Manifest(
        name="stdlib",
        revision=_revision(folder),
        inputs=inputs,
        counts=_counts(selection, train, thoughts),
        packages={"stdlib": len(selection.own), **_packages(selection.others)},
        files={name: sha256_file(folder / name) for name in _FILES},
    )
    write_manifest(folder, manifest)
    return manifest


def load_stdlib(folder: str | Path, split: str = "test") -> Collection:
    """Load the test or dev split of a built folder, with its revision."""
    manifest = read_manifest(Path(folder))
    return load_beir(folder, split, name=f"stdlib/{split}", revision=manifest.revision)


def _write(folder: Path, functions: Sequence[Function], splits: Mapping[str, Sequence[Group]]) -> int:
    """Write one BEIR folder with its thoughts; returns their number."""
    asked = [group for groups in splits.values() for group in groups]
    write_beir(
        folder,
        documents=(Document(doc_id=one.name, text=one.source) for one in functions),
        queries=(Query(query_id=_query_id(group), text=owner(group).sentence) for group in asked),
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
        if rest := owner(group).rest:
            yield Thought(query_id=_query_id(group), thought_id="docstring", text=rest, source=source)


def _query_id(group: Group) -> str:
    # never equal to a doc_id: BEIR's own evaluation drops hits named like their query
    return f"q:{owner(group).name}"


def _counts(selection: Selection, train: Sequence[Group], thoughts: int) -> dict[str, int]:
    return {
        "documents": len(selection.library),
        "test queries": len(selection.test),
        "dev queries": len(selection.dev),
        "train documents": len(selection.taught),
        "train queries": len(train),
        "train thoughts": thoughts,
        "skipped files": selection.skipped,
    }


def _packages(functions: Iterable[Function]) -> Counter[str]:
    return Counter(function.name.partition(".")[0] for function in functions)


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
