"""Every known collection by name, with its protocol, and suites: the sets that papers report on.

```
load("bright/biology", "data")      reads data/BRIGHT, a folder in the original format
fetch("bright/biology", "data")     fills data/BRIGHT from the hub at a pinned revision; extra [hub]
load_from_irds("beir/scifact")      ir_datasets' cache instead of a folder; extra [irds]
load_collection("data/bright/biology")   the same by a path, as commands take it; or any BEIR folder
```
`ENTRIES` is the only place that maps a name to a loader. Its measures are the protocol: the first is
the one that is published and compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from o1_bench._partly import Tell, attempt_each
from o1_bench.collection import Collection
from o1_bench.datasets import bright, r2med, stdlib
from o1_bench.datasets.beir import (
    ABSENT,
    IRDS,
    PUBLIC,
    beside,
    load_beir,
    load_public,
    read_judgements,
    split_of,
)
from o1_bench.datasets.cosqa import CODES, load_cosqa
from o1_bench.datasets.cosqa import URL as COSQA_URL
from o1_bench.datasets.hub import Repository, fetch_repository, revision_of
from o1_bench.datasets.irds import load_irds
from o1_bench.datasets.msmarco import FILES, Queries, load_msmarco
from o1_bench.datasets.tables import files_of
from o1_bench.score import DEFAULT, Measure, parse_measure
from o1_records import InputError, Qrel, quoted
from o1_records.trec import read_qrels

Excluded = Mapping[str, Set[str]]
"""query_id to the documents that are never counted for it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about a collection.

    Attributes:
        load: reads it from its folder, given the folder's revision.
        folder: the folder's name under the root of all data.
        measures: its protocol, as ir-measures writes them; the first is the published one.
        source: which files it needs and where they are published.
        repository: its files on the hub; None: they are not there.
        irds: reads it from ir_datasets; None: it is not there.
    """

    load: Callable[[Path, str], Collection]
    folder: str
    measures: tuple[str, ...]
    source: str
    repository: Repository | None = None
    irds: Callable[[], Collection] | None = None


def load(name: str, root: str | Path) -> Collection:
    """Load a collection from its folder under `root`, with the exclusions and instruction of its protocol.

    Raises InputError for an unknown name, for a missing folder (it says which files belong there and where
    they come from), and for files that are wrong.
    """
    entry = entry_of(name)
    folder = Path(root) / entry.folder
    if not folder.is_dir():
        fetched = f"run `o1-bench fetch {name} --out {root}`, or " if entry.repository else ""
        raise InputError(f"{folder}: no such folder; {name} needs it: {fetched}put {entry.source} there")
    return entry.load(folder, revision_of(folder, entry.repository))


def load_collections(names: Iterable[str], root: str | Path) -> Iterator[Collection]:
    """Yield collections one after the other; the name of a suite stands for its members.

    Unknown names are refused before anything is read.
    """
    for name in expand(names):
        yield load(name, root)


def expand(names: Iterable[str]) -> list[str]:
    """Return the names of collections, each once, with suites replaced by their members."""
    members = [member for name in names for member in SUITES.get(name, (name,))]
    for name in members:
        entry_of(name)
    return list(dict.fromkeys(members))


def measures(name: str) -> tuple[Measure, ...]:
    """Return the measures of a collection's protocol; the first is the published one."""
    return tuple(parse_measure(measure) for measure in entry_of(name).measures)


def fetch(name: str, root: str | Path, *, new_job: bool = False, tell: Tell | None = None) -> dict[str, Path]:
    """Build `stdlib` in the folder `root`, or download a collection or those of a suite to folders under it.

    Args:
        name: "stdlib", a collection or a suite.
        root: see above.
        new_job: move an earlier build of other packages or of another interpreter aside (stdlib only).
        tell: called with the name of each collection as it ends, and with its folder or its error.

    Returns the folder of each collection. Downloading needs the `[hub]` extra.

    Raises:
        InputError: a collection is not on the hub (the message says where its files are), or the hub cannot
            be reached. Of a suite the other collections are fetched first; see `o1_bench.PartlyDoneError`.
    """
    if name == "stdlib":
        stdlib.build_stdlib(root, new_job=new_job)
        return {name: Path(root)}
    if new_job:
        raise InputError("--new-job is for stdlib, which is built; downloads are only completed")

    def download(member: str) -> Path:
        entry = entry_of(member)
        if entry.repository is None:
            place = Path(root) / entry.folder
            raise InputError(f"{member}: is not on the hub; put {entry.source} into {place}")
        return fetch_repository(entry.repository, root, entry.folder)

    return attempt_each({member: partial(download, member) for member in expand([name])}, tell)


def load_from_irds(name: str) -> Collection:
    """Load a collection from ir_datasets. Needs the `[irds]` extra."""
    entry = entry_of(name)
    if entry.irds is None:
        raise InputError(f"{name}: ir_datasets does not have it; load it from a folder")
    return entry.irds()


def load_collection(folder: str | Path, split: str = "test", excluded: Excluded | None = None) -> Collection:
    """Load a split of a BEIR folder or of a built one, or `ROOT/NAME`: a collection by its name.

    A name (`data/bright/biology`) brings its split, exclusions and instruction; `excluded` replaces its
    exclusions. Raises InputError for anything else.
    """
    folder = Path(folder)
    if (folder / stdlib.MANIFEST).is_file():
        loaded = stdlib.load_stdlib(folder, split)
    elif known := _known(folder, split):
        loaded = load(*known)
    elif folder.is_dir():
        return load_beir(folder, split, excluded=excluded)
    else:
        raise InputError(
            f"{folder}: no such folder; a collection is a BEIR folder, or ROOT/NAME such as "
            "data/bright/biology"
        )
    return loaded if excluded is None else replace(loaded, excluded=excluded)


def load_judgements(path: str | Path, split: str = "test") -> tuple[list[Qrel], Excluded]:
    """Load judgements and the documents that are never counted.

    Of a TREC file or a split of a BEIR folder only the judgements are read. `ROOT/NAME` is loaded
    whole, because its protocol says what is excluded.
    """
    path = Path(path)
    if path.is_file():
        return list(read_qrels(path)), {}
    if _known(path, split):
        collection = load_collection(path, split)
        return list(collection.qrels), collection.excluded
    if not path.is_dir():
        raise InputError(
            f"{path}: no such file or folder; judgements are a TREC qrels file, a BEIR folder, or ROOT/NAME "
            "such as data/bright/biology"
        )
    return list(read_judgements(path, split)), {}


def protocol(path: str | Path) -> tuple[Measure, ...]:
    """Return the measures of a collection whose name the path ends in; else the usual ones."""
    known = _named(Path(path))
    return measures(known[0]) if known else DEFAULT


def files_read(path: str | Path) -> list[Path]:
    """Return the path and all files that loading it as a collection or as judgements may read."""
    path = Path(path)
    known = _named(path)
    under = known[1] / ENTRIES[known[0]].folder if known else None
    tables = [files_of(path, name) for name in ("corpus", "queries")]
    return [
        path,
        *(file for table in tables for file in table),
        path / stdlib.MANIFEST,
        *(file for folder in (path / "qrels", beside(path)) for file in folder.glob("*")),
        *(under.rglob("*") if under else ()),
    ]


def entry_of(name: str) -> Entry:
    """Return what is known about a collection. Raises InputError, with close names, for an unknown one."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, [*ENTRIES, *SUITES], n=3, cutoff=0.5) or [*SUITES]
        raise InputError(f"unknown collection {quoted(name)}; did you mean {', '.join(near)}?")
    return ENTRIES[name]


def _named(path: Path) -> tuple[str, Path] | None:
    """Return name and root of a path `ROOT/NAME`; None where it does not end in a known name."""
    for parts in (1, 2, 3):
        name = "/".join(path.parts[-parts:])
        if name in ENTRIES:
            return name, Path(*path.parts[:-parts])
    return None


def _known(path: Path, split: str) -> tuple[str, Path] | None:
    """Return the same; None for a folder that has judgements, which is a BEIR folder."""
    known = _named(path)
    if known is None or (path / "qrels").is_dir():
        return None
    if split != "test":
        raise InputError(f"{path}: {known[0]} has a split of its own; leave out {quoted(split)}")
    return known


def _msmarco(queries: Queries, *, titles: bool = False) -> Entry:
    corpus = "corpus.jsonl.gz of Tevatron/msmarco-passage-corpus" if titles else "collection.tsv"
    irds = {"dev": "dev/small", "dl19": "trec-dl-2019/judged", "dl20": "trec-dl-2020/judged"}[queries]
    graded = ("nDCG@10", "RR(rel=2)@10", "AP(rel=2)@1000", "R(rel=2)@1000")
    return Entry(
        load=lambda folder, revision: load_msmarco(folder, queries, titles=titles, revision=revision),
        folder="msmarco-passage",
        measures=("RR@10", "R@1000") if queries == "dev" else graded,
        source=f"{', '.join(FILES[queries])} and {corpus} (microsoft.github.io/msmarco, trec.nist.gov/data)",
        irds=None if titles else partial(load_irds, f"msmarco-passage/{irds}", name=f"msmarco/{queries}"),
    )


def _beir(name: str) -> Entry:
    repository, revision = PUBLIC[name]
    return Entry(
        load=lambda folder, revision: load_public(name, folder, revision=revision),
        folder=name,
        measures=("RR@10", "R@1000") if name == "msmarco" else ("nDCG@10", "R@100"),
        source=f"{name.split('/')[0]}.zip of https://github.com/beir-cellar/beir, unpacked",
        repository=Repository(repository, revision, ("corpus*", "queries*", "qrels/*")),
        irds=partial(
            load_irds,
            IRDS[name],
            name=f"beir/{name}/{split_of(name)}",
            ignore_identical=True,
            absent=ABSENT.get(name, 0),
        ),
    )


def _bright(task: str, *, reasoning: str = "", long: bool = False) -> Entry:
    tables = (bright.REASONING.get(reasoning, "examples"), "long_documents" if long else "documents")
    files = tuple(f"{table}/{task}-*" for table in tables)
    return Entry(
        load=lambda folder, revision: bright.load_bright(
            folder, task, reasoning=reasoning, long=long, merge=True, revision=revision
        ),
        folder="BRIGHT",
        measures=("nDCG@10", "R@1") if long else ("nDCG@10", "R@100"),
        source=f"{' and '.join(files)} of https://huggingface.co/datasets/{bright.REPOSITORY[0]}",
        repository=Repository(*bright.REPOSITORY, files),
        irds=None
        if reasoning
        else partial(
            load_irds,
            f"bright/{task.replace('_', '-')}{'-long' if long else ''}",
            name=f"bright{'-long' if long else ''}/{task}",
            instruction=bright.instruction(task, long=long),
        ),
    )


def _r2med(task: str) -> Entry:
    return Entry(
        load=lambda folder, revision: r2med.load_r2med(folder, task, merge=True, revision=revision),
        folder=f"R2MED/{task}",
        measures=("nDCG@10", "R@100"),
        source=f"corpus.jsonl, query.jsonl and qrels.jsonl of https://huggingface.co/datasets/R2MED/{task}",
        repository=Repository(f"R2MED/{task}", r2med.TASKS[task][1], ("corpus*", "query*", "qrels*")),
    )


ENTRIES: dict[str, Entry] = {
    **{f"msmarco/{queries}": _msmarco(queries) for queries in FILES},
    **{f"msmarco-titles/{queries}": _msmarco(queries, titles=True) for queries in FILES},
    **{f"beir/{name}": _beir(name) for name in PUBLIC},
    "cosqa": Entry(
        load=lambda folder, revision: load_cosqa(folder, revision=revision),
        folder="cosqa",
        measures=("nDCG@10", "RR@10", "R@100"),
        source=f"{CODES} and cosqa-retrieval-test-500.json of {COSQA_URL}",
    ),
    **{f"bright/{task}": _bright(task) for task in bright.TASKS},
    **{f"bright-long/{task}": _bright(task, long=True) for task in bright.LONG_TASKS},
    **{f"bright-{r}/{task}": _bright(task, reasoning=r) for r in bright.REASONING for task in bright.TASKS},
    **{f"r2med/{task}": _r2med(task) for task in r2med.TASKS},
    "stdlib": Entry(
        load=lambda folder, revision: stdlib.load_stdlib(folder),
        folder="stdlib",
        measures=("nDCG@10", "RR@10", "R@100"),
        source="what `o1-bench fetch stdlib` builds",
    ),
}

_FAMILIES = ("bright", "bright-long", *(f"bright-{name}" for name in bright.REASONING), "r2med")

SUITES: dict[str, tuple[str, ...]] = {
    "o1": (
        *("msmarco/dev", "msmarco/dl19", "msmarco/dl20"),
        *("beir/scifact", "beir/trec-covid", "beir/dbpedia-entity", "beir/nq"),
        *("beir/hotpotqa", "beir/fiqa", "beir/webis-touche2020", "beir/fever"),
        "cosqa",
    ),
    "beir": tuple(f"beir/{name}" for name in PUBLIC if name != "msmarco"),
    **{family: tuple(n for n in ENTRIES if n.startswith(f"{family}/")) for family in _FAMILIES},
    "reasonembed": tuple(n for n in ENTRIES if n.startswith(("bright/", "r2med/"))),
}
"""Sets that papers report on. `o1` is O1 Embedder's (arXiv 2502.07555). Its abstract says 12 data sets: MS
MARCO dev, DL19, DL20 and CoSQA are certain, and so are NQ and HotpotQA among the eight of BEIR; the other six
are from memory, because the paper's tables could not be retrieved. `reasonembed` is ReasonEmbed's (arXiv
2510.08252): BRIGHT with the original queries, and R2MED."""
