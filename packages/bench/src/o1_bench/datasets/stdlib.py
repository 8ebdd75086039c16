"""The standard library of the running interpreter as a retrieval collection; no download needed.

```
folder/{corpus.jsonl,queries.jsonl,qrels/{dev,test}.tsv,thoughts.jsonl}     BEIR, with thoughts
folder/train/{corpus.jsonl,queries.jsonl,qrels/train.tsv,thoughts.jsonl}    what to train on
folder/collection.json        what is in it
folder/collection.building    while it is built, and where a build was cut short: what it is made from
```
A document is the source of a function that has a docstring, without the docstring. A query is the first
sentence of a docstring; functions whose sentences are equal up to case and punctuation are all relevant to
it. A thought is the rest of the docstring. `o1_bench.datasets.selection` says which functions are
asked for and which are for training. `collection.json` is removed first and written last, so a folder
that has one is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from o1_bench.collection import Collection
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.functions import (
    Function,
    default_sites,
    installed_packages,
    installed_versions,
)
from o1_bench.datasets.selection import Group, Selection, groups, owner, select
from o1_bench.protocol import PLAIN, Protocol
from o1_records import (
    Document,
    InputError,
    Qrel,
    Query,
    Record,
    Source,
    Thought,
    atomic_write,
    sha256_file,
    write_jsonl,
)
from o1_records.beir import write_beir
from o1_records.kit import text
from o1_records.kit.job import ChangedJobError, move_aside, refuse_changed

PACKAGE_FUNCTIONS = 8000
MANIFEST = "collection.json"
_BUILDING = "collection.building"

_TESTED = ("corpus.jsonl", "queries.jsonl", "qrels/dev.tsv", "qrels/test.tsv", "thoughts.jsonl")
_TRAIN = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "thoughts.jsonl")
_FILES = (*_TESTED, *(f"train/{name}" for name in _TRAIN))


class Manifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was built.

    Attributes:
        name: What the collection is called in results.
        revision: The edition of what is searched and asked; what is for training does not count.
        inputs: What it was made from: JSON of one object.
        counts: Documents, queries of each split, thoughts, files that were skipped.
        packages: The number of functions for training from each package.
        files: The sha256 of every file, by its path inside the folder.
    """

    name: str
    revision: str
    inputs: str
    counts: dict[str, int]
    packages: dict[str, int]
    files: dict[str, str]


def build_stdlib(
    folder: str | Path,
    *,
    sites: Sequence[Path] | None = None,
    package_limit: int = PACKAGE_FUNCTIONS,
    new_job: bool = False,
) -> Manifest:
    """Build the collection of the running interpreter; a folder that is up to date stays as it is.

    The same interpreter and the same installed packages give the same bytes.

    Args:
        folder: where the files go, as shown above.
        sites: folders with installed packages; those of the running interpreter by default.
        package_limit: the largest number of functions for training that come from `sites`.
        new_job: move what was built of another interpreter or other packages aside, instead of refusing it.

    Raises:
        InputError: the interpreter comes without the source of its library, or the limit is negative.
        ChangedJobError: the folder was built from something else, or not built by this function.
    """
    if package_limit < 0:
        raise InputError(f"package_limit must be 0 or more, got {package_limit}")
    folder = Path(folder)
    sites = default_sites() if sites is None else sites
    inputs = _inputs(sites, package_limit)
    done = up_to_date(folder, inputs)
    if done is not None:
        return done
    try:
        _refuse_other_files(folder, inputs)
    except ChangedJobError:
        if not new_job:
            raise
        move_aside(folder)
    return write_selection(folder, select(sites, package_limit), inputs)


def write_selection(folder: Path, selection: Selection, inputs: str) -> Manifest:
    """Write the files of a collection, `collection.json` last; `inputs` says what it was made from.

    If it is cut short, it leaves a folder without `collection.json`, which `load_stdlib` refuses.
    """
    with atomic_write(folder / _BUILDING) as file:
        file.write(inputs.encode())
    (folder / MANIFEST).unlink(missing_ok=True)
    train = groups(selection.taught)
    _write(folder, selection.library, {"dev": selection.dev, "test": selection.test})
    thoughts = _write(folder / "train", selection.taught, {"train": train})
    manifest = Manifest(
        name="stdlib",
        revision=_revision(folder),
        inputs=inputs,
        counts={
            "documents": len(selection.library),
            "test queries": len(selection.test),
            "dev queries": len(selection.dev),
            "train documents": len(selection.taught),
            "train queries": len(train),
            "train thoughts": thoughts,
            "skipped files": selection.skipped,
        },
        packages={
            "stdlib": len(selection.own),
            **Counter(function.name.partition(".")[0] for function in selection.others),
        },
        files={name: sha256_file(folder / name) for name in _FILES},
    )
    with atomic_write(folder / MANIFEST) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    (folder / _BUILDING).unlink()
    return manifest


def load_stdlib(folder: str | Path, split: str = "test", *, protocol: Protocol = PLAIN) -> Collection:
    """Load the test or dev split of a built folder, with its revision."""
    manifest = read_manifest(Path(folder))
    return load_beir(folder, split, name=f"stdlib/{split}", revision=manifest.revision, protocol=protocol)


def is_built(folder: Path) -> bool:
    """Return whether a folder was built here: its `collection.json` says from what."""
    path = folder / MANIFEST
    return path.is_file() and b'"inputs"' in path.read_bytes()


def read_manifest(folder: Path) -> Manifest:
    """Return what `collection.json` says. Raises InputError when it is missing or damaged."""
    path = folder / MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path}: missing or damaged; build the collection again") from error


def up_to_date(folder: Path, inputs: str) -> Manifest | None:
    """Return the manifest of a folder that was made from these inputs and has not changed since, or None."""
    try:
        manifest = read_manifest(folder)
    except InputError:
        return None
    same = manifest.inputs == inputs and all(
        (folder / name).is_file() and sha256_file(folder / name) == digest
        for name, digest in manifest.files.items()
    )
    return manifest if same else None


def _refuse_other_files(folder: Path, inputs: str) -> None:
    """Raise ChangedJobError for files that were not built here, or from other inputs."""
    begun: str | None = None
    if (folder / _BUILDING).is_file():
        begun = (folder / _BUILDING).read_text(encoding="utf-8", errors="replace")
    elif (folder / MANIFEST).is_file():
        with contextlib.suppress(InputError):
            begun = read_manifest(folder).inputs
    if begun is not None:
        refuse_changed(folder, _made_from(begun), _made_from(inputs))
    elif there := [name for name in (MANIFEST, *_FILES) if (folder / name).exists()]:
        raise ChangedJobError(
            f"{folder / there[0]}: exists, and was not built by `o1-bench fetch stdlib`, or is damaged; "
            "choose another folder, or give --new-job to move this one aside"
        )


def _made_from(inputs: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(inputs, type=dict[str, str])
    except msgspec.MsgspecError:  # an older version wrote a digest
        return {"inputs": inputs}


def _write(folder: Path, functions: Sequence[Function], splits: Mapping[str, Sequence[Group]]) -> int:
    """Write one BEIR folder with its thoughts and return the number of thoughts."""
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
    # never equal to a doc_id: BEIR's own evaluation drops hits with the id of their query
    return f"q:{owner(group).name}"


def _inputs(sites: Sequence[Path], package_limit: int) -> str:
    """Return what decides the files: interpreter, packages, limit and the builder itself."""
    here = Path(__file__).parent
    modules = [Path(__file__), here / "functions.py", here / "selection.py", Path(text.__file__)]
    packages = [[name for _, name in installed_packages(sites)], installed_versions(sites)]
    made_from = {
        "interpreter": sys.version,
        "packages": _digest(packages),
        "package_limit": str(package_limit),
        "builder": _digest([sha256_file(path) for path in modules]),
    }
    return msgspec.json.encode(made_from).decode()


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def _revision(folder: Path) -> str:
    """Return the interpreter and a digest of what is searched and asked, which no package changes."""
    content = "".join(sha256_file(folder / name) for name in _TESTED)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f"{platform.python_implementation()} {platform.python_version()} {digest[:12]}"
