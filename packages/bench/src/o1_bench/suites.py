"""Every known collection by name, with its protocol, and suites: the sets that papers report on.

```
load("bright/biology", "data")      reads data/BRIGHT, which lies there in its original format
fetch("bright/biology", "data")     fills data/BRIGHT from the hub at a pinned revision; extra [hub]
load_from_irds("beir/scifact")      ir_datasets' cache instead of a folder; extra [irds]
```
`ENTRIES` is the only place where a name meets a loader. Its measures are the protocol: the first is
the one that is published and compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from o1_bench.collection import Collection
from o1_bench.datasets import bright, r2med
from o1_bench.datasets.beir import ABSENT, IRDS, PUBLIC, load_public, split_of
from o1_bench.datasets.cosqa import CODES, load_cosqa
from o1_bench.datasets.cosqa import URL as COSQA_URL
from o1_bench.datasets.hub import Repository, fetch_repository, revision_of
from o1_bench.datasets.irds import load_irds
from o1_bench.datasets.msmarco import FILES, Queries, load_msmarco
from o1_bench.datasets.stdlib import load_stdlib
from o1_bench.score import Measure, parse_measure
from o1_records import InputError, quoted


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about a collection.

    Attributes:
        load: reads it from its folder, given the folder's revision.
        folder: the folder's name under the root that holds all data.
        measures: its protocol, as ir-measures writes them; the first is the published one.
        source: where its files are to be had.
        repository: its files on the hub, when they are there.
        irds: reads it from ir_datasets, when it is there.
    """

    load: Callable[[Path, str], Collection]
    folder: str
    measures: tuple[str, ...]
    source: str
    repository: Repository | None = None
    irds: Callable[[], Collection] | None = None


def load(name: str, root: str | Path) -> Collection:
    """Load a collection from its folder under `root`, under its protocol.

    Raises InputError for a name that is not known, for a folder that is not there (it says which
    files belong there and where they come from), and for files that are wrong.
    """
    entry = entry_of(name)
    folder = Path(root) / entry.folder
    if not folder.is_dir():
        fetched = f"run `o1-bench fetch {name} --out {root}`, or " if entry.repository else ""
        raise InputError(f"{folder}: no such folder; {name} needs it: {fetched}put there {entry.source}")
    return entry.load(folder, revision_of(folder, entry.repository))


def load_collections(names: Iterable[str], root: str | Path) -> Iterator[Collection]:
    """Load collections one after the other; names of suites stand for their members.

    Unknown names are refused before anything is read.
    """
    for name in expand(names):
        yield load(name, root)


def expand(names: Iterable[str]) -> list[str]:
    """The names of collections, each once, with suites replaced by their members."""
    members = [member for name in names for member in SUITES.get(name, (name,))]
    for name in members:
        entry_of(name)
    return list(dict.fromkeys(members))


def measures(name: str) -> tuple[Measure, ...]:
    """The measures of a collection's protocol; the first is the published one."""
    return tuple(parse_measure(measure) for measure in entry_of(name).measures)


def fetch(name: str, root: str | Path) -> Path:
    """Download a collection's files to its folder under `root`. Needs the `[hub]` extra.

    Raises InputError for a collection that is not on the hub, saying where its files are.
    """
    entry = entry_of(name)
    if entry.repository is None:
        raise InputError(f"{name}: is not on the hub; put into {Path(root) / entry.folder} {entry.source}")
    return fetch_repository(entry.repository, root, entry.folder)


def load_from_irds(name: str) -> Collection:
    """Load a collection from ir_datasets. Needs the `[irds]` extra."""
    entry = entry_of(name)
    if entry.irds is None:
        raise InputError(f"{name}: ir_datasets does not have it; load it from a folder")
    return entry.irds()


def named(path: Path) -> tuple[str, Path] | None:
    """The name and the root of a path `ROOT/NAME`; None when it does not end in a known name."""
    for parts in (1, 2, 3):
        name = "/".join(path.parts[-parts:])
        if name in ENTRIES:
            return name, Path(*path.parts[:-parts])
    return None


def entry_of(name: str) -> Entry:
    """What is known about a collection. Raises InputError for an unknown name, with near ones."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, [*ENTRIES, *SUITES], n=3, cutoff=0.5) or [*SUITES]
        raise InputError(f"{quoted(name)} is no known collection; did you mean {', '.join(near)}?")
    return ENTRIES[name]


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
        load=lambda folder, revision: load_stdlib(folder),
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
"""Sets that papers report on. `o1` is O1 Embedder's (arXiv 2502.07555): its abstract says 12 data sets,
MS MARCO dev, DL19, DL20 and CoSQA are certain, and so are NQ and HotpotQA of the eight of BEIR's; which
the other six are is from memory, as the paper's tables could not be retrieved. `reasonembed` is
ReasonEmbed's (arXiv 2510.08252): BRIGHT with the original queries, and R2MED."""
