"""Every known collection by name, with its protocol, and suites: the sets that papers report on.

```
load("bright/biology", "data")      reads data/BRIGHT, a folder in the original format
load("beir/fiqa@o1-beir", "data")   the same folder as beir/fiqa, by another protocol
fetch("bright/biology", "data")     fills data/BRIGHT from the hub at a pinned revision; extra [hub]
load_from_irds("beir/scifact")      ir_datasets' cache instead of a folder; extra [irds]
load_collection("data/bright/biology")   the same by a path, as commands take it; or any BEIR folder
```
`ENTRIES` is the only place that maps a name to a loader and to its protocol (`o1_bench.protocol`). A
collection has one protocol, whichever way it is reached, unless another one is named.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from o1_bench._partly import Tell, attempt_each
from o1_bench.collection import Collection
from o1_bench.datasets import bright, r2med, stdlib
from o1_bench.datasets.beir import (
    ABSENT,
    DESCRIPTION,
    IRDS,
    PUBLIC,
    beside,
    load_beir,
    read_judgements,
    refuse_relevant_self,
    settings_of,
    split_of,
)
from o1_bench.datasets.cosqa import CODES, load_cosqa
from o1_bench.datasets.cosqa import URL as COSQA_URL
from o1_bench.datasets.hub import Repository, fetch_repository, revision_of
from o1_bench.datasets.irds import load_irds
from o1_bench.datasets.msmarco import FILES, Queries, load_msmarco
from o1_bench.datasets.tables import files_of
from o1_bench.protocol import BEIR, PLAIN, PROTOCOLS, Protocol, protocol_named
from o1_records import InputError, Qrel, quoted
from o1_records.trec import read_qrels

Excluded = Mapping[str, Set[str]]
"""query_id to the documents that are never counted for it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about a collection.

    Attributes:
        load: reads it from its folder, given the folder's revision and a protocol.
        name: what the collection is called, with its split.
        folder: the folder's name under the root of all data.
        protocol: how it is evaluated unless another protocol is named.
        source: which files it needs and where they are published.
        repository: its files on the hub; None: they are not there.
        irds: reads it from ir_datasets, given a protocol; None: it is not there.
    """

    load: Callable[[Path, str, Protocol], Collection]
    name: str
    folder: str
    protocol: Protocol
    source: str
    repository: Repository | None = None
    irds: Callable[[Protocol], Collection] | None = None


class Judgements(NamedTuple):
    """What runs are scored against, without the documents."""

    qrels: list[Qrel]
    excluded: Excluded
    protocol: Protocol


def load(name: str, root: str | Path, *, protocol: Protocol | None = None) -> Collection:
    """Load a collection from its folder under `root`, with the exclusions and instruction of its protocol.

    `NAME@PROTOCOL` is the collection by another protocol, as `protocol` is.

    Raises InputError for an unknown name, for a missing folder (it says which files belong there and where
    they come from), and for files that are wrong.
    """
    entry = entry_of(name)
    folder = Path(root) / entry.folder
    if not folder.is_dir():
        plain = name.partition("@")[0]
        fetched = f"run `o1-bench fetch {plain} --out {root}`, or " if entry.repository else ""
        raise InputError(f"{folder}: no such folder; {plain} needs it: {fetched}put {entry.source} there")
    return entry.load(folder, revision_of(folder, entry.repository), protocol or protocol_of(name))


def load_collections(names: Iterable[str], root: str | Path) -> Iterator[Collection]:
    """Yield collections one after the other; the name of a suite stands for its members.

    Unknown names are refused before anything is read.
    """
    for name in expand(names):
        yield load(name, root)


def expand(names: Iterable[str]) -> list[str]:
    """Return the names of collections, each once, with suites replaced by their members.

    Raises InputError for unknown names.
    """
    members = [member for name in names for member in SUITES.get(name, (name,))]
    for member in members:
        protocol_of(member)
    return list(dict.fromkeys(members))


def protocol_of(name: str) -> Protocol:
    """Return the protocol of a collection by its name, or with `NAME@PROTOCOL` the one that is named."""
    entry, (_, at, protocol) = entry_of(name), name.partition("@")
    return protocol_named(protocol) if at else entry.protocol


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

    members = dict.fromkeys(each.partition("@")[0] for each in expand([name]))
    return attempt_each({member: partial(download, member) for member in members}, tell)


def load_from_irds(name: str) -> Collection:
    """Load a collection from ir_datasets. Needs the `[irds]` extra."""
    entry = entry_of(name)
    if entry.irds is None:
        raise InputError(f"{name}: ir_datasets does not have it; load it from a folder")
    return entry.irds(protocol_of(name))


def load_collection(
    folder: str | Path,
    split: str | None = None,
    excluded: Excluded | None = None,
    *,
    protocol: str | Protocol | None = None,
) -> Collection:
    """Load a split of a BEIR folder or of a built one, or `ROOT/NAME`: a collection by its name.

    A name (`data/bright/biology`) brings its split, exclusions, instruction and protocol; of a BEIR folder
    `o1_bench.datasets.beir.settings_of` finds them. `protocol` (by its name, or in the path:
    `ROOT/NAME@PROTOCOL`) and `excluded` replace what they bring. Raises InputError for anything else.
    """
    folder, chosen = _at_protocol(folder, protocol)
    if stdlib.is_built(folder):
        loaded = stdlib.load_stdlib(folder, "test" if split is None else split, protocol=chosen or PLAIN)
    elif known := _known(folder, split):
        loaded = load(*known, protocol=chosen)
    elif folder.is_dir():
        return load_beir(folder, split, excluded=excluded, protocol=chosen)
    else:
        raise InputError(
            f"{folder}: no such folder; a collection is a BEIR folder, or ROOT/NAME such as "
            "data/bright/biology"
        )
    return loaded if excluded is None else loaded.changed(excluded=excluded)


def load_judgements(
    path: str | Path, split: str | None = None, *, protocol: str | Protocol | None = None
) -> Judgements:
    """Load judgements, the documents that are never counted, and the protocol.

    Of a TREC file (whose protocol is `plain` unless one is named) or a split of a BEIR folder only the
    judgements are read. `ROOT/NAME` is loaded whole, because its files say what is excluded.
    """
    path, chosen = _at_protocol(path, protocol)
    if path.is_file():
        return _judged(list(read_qrels(path)), {}, chosen or PLAIN)
    if _known(path, split):
        collection = load_collection(path, split, protocol=chosen)
        return Judgements(list(collection.qrels), collection.excluded, collection.protocol)
    if not path.is_dir():
        raise InputError(
            f"{path}: no such file or folder; judgements are a TREC qrels file, a BEIR folder, or ROOT/NAME "
            "such as data/bright/biology"
        )
    if stdlib.is_built(path):
        return _judged(list(read_judgements(path, "test" if split is None else split)), {}, chosen or PLAIN)
    settings = settings_of(path, split, protocol=chosen)
    qrels = list(read_judgements(path, settings.split))
    refuse_relevant_self(path, qrels, settings)
    return _judged(qrels, settings.excluded, settings.protocol)


def files_read(path: str | Path) -> list[Path]:
    """Return the path and all files that loading it as a collection or as judgements may read."""
    path, _ = _at_protocol(path, None)
    known = _named(path)
    under = known[1] / ENTRIES[known[0]].folder if known else None
    tables = [files_of(path, name) for name in ("corpus", "queries")]
    return [
        path,
        *(file for table in tables for file in table),
        path / DESCRIPTION,
        *path.glob("excluded*"),
        *(file for folder in (path / "qrels", beside(path)) for file in folder.glob("*")),
        *(under.rglob("*") if under else ()),
    ]


def entry_of(name: str) -> Entry:
    """Return what is known about a collection. Raises InputError, with close names, for an unknown one."""
    plain = name.partition("@")[0]
    if plain not in ENTRIES:
        near = difflib.get_close_matches(plain, [*ENTRIES, *SUITES], n=3, cutoff=0.5) or [*SUITES]
        raise InputError(f"unknown collection {quoted(plain)}; did you mean {', '.join(near)}?")
    return ENTRIES[plain]


def _judged(qrels: list[Qrel], excluded: Excluded, protocol: Protocol) -> Judgements:
    if protocol.ignore_identical_ids:
        asked = dict.fromkeys(qrel.query_id for qrel in qrels)
        excluded = {query_id: {*excluded.get(query_id, ()), query_id} for query_id in asked}
    return Judgements(qrels, excluded, protocol)


def _at_protocol(path: str | Path, protocol: str | Protocol | None) -> tuple[Path, Protocol | None]:
    """Return a path without `@PROTOCOL`, and the protocol that is named there or beside it, if one is.

    Raises InputError where two different ones are named.
    """
    path = Path(path)
    chosen = protocol_named(protocol) if isinstance(protocol, str) else protocol
    name, at, behind = path.name.rpartition("@")
    if not at or path.exists() or behind not in PROTOCOLS:
        return path, chosen
    if chosen not in (None, PROTOCOLS[behind]):
        raise InputError(f"{path}: names another protocol than {quoted(chosen.name)}; name one of them")
    return path.with_name(name), PROTOCOLS[behind]


def _named(path: Path) -> tuple[str, Path] | None:
    """Return name and root of a path `ROOT/NAME`; None where it does not end in a known name."""
    for parts in (1, 2, 3):
        name = "/".join(path.parts[-parts:])
        if name in ENTRIES:
            return name, Path(*path.parts[:-parts])
    return None


def _known(path: Path, split: str | None) -> tuple[str, Path] | None:
    """Return the same; None for a folder that has judgements, which is a BEIR folder."""
    known = _named(path)
    if known is None or (path / "qrels").is_dir():
        return None
    name = ENTRIES[known[0]].name
    own = name.rpartition("/")[2] if name != known[0] or name.startswith("msmarco") else ""
    if split not in (None, own):
        raise InputError(f"{path}: {known[0]} has a split of its own; leave out {quoted(split)}")
    return known


def _msmarco(queries: Queries, *, titles: bool = False) -> Entry:
    corpus = "corpus.jsonl.gz of Tevatron/msmarco-passage-corpus" if titles else "collection.tsv"
    irds = {"dev": "dev/small", "dl19": "trec-dl-2019/judged", "dl20": "trec-dl-2020/judged"}[queries]

    def load_one(folder: Path, revision: str, protocol: Protocol) -> Collection:
        return load_msmarco(folder, queries, titles=titles, revision=revision, protocol=protocol)

    def from_irds(protocol: Protocol) -> Collection:
        return load_irds(f"msmarco-passage/{irds}", name=f"msmarco/{queries}", protocol=protocol)

    return Entry(
        load=load_one,
        name=f"msmarco{'-titles' if titles else ''}/{queries}",
        folder="msmarco-passage",
        protocol=PROTOCOLS["msmarco" if queries == "dev" else "trec-dl"],
        source=f"{', '.join(FILES[queries])} and {corpus} (microsoft.github.io/msmarco, trec.nist.gov/data)",
        irds=None if titles else from_irds,
    )


def _beir(name: str) -> Entry:
    repository, revision = PUBLIC[name]
    full, absent = f"beir/{name}/{split_of(name)}", ABSENT.get(name, 0)

    def load_one(folder: Path, revision: str, protocol: Protocol) -> Collection:
        return load_beir(
            folder,
            split_of(name),
            name=full,
            revision=revision,
            absent=absent,
            protocol=protocol,
            excluded={},
        )

    def from_irds(protocol: Protocol) -> Collection:
        return load_irds(IRDS[name], name=full, absent=absent, protocol=protocol)

    return Entry(
        load=load_one,
        name=full,
        folder=name,
        protocol=BEIR,
        source=f"{name.split('/')[0]}.zip of https://github.com/beir-cellar/beir, unpacked",
        repository=Repository(repository, revision, ("corpus*", "queries*", "qrels/*")),
        irds=from_irds,
    )


def _bright(task: str, *, reasoning: str = "", long: bool = False) -> Entry:
    tables = (bright.REASONING.get(reasoning, "examples"), "long_documents" if long else "documents")
    files = tuple(f"{table}/{task}-*" for table in tables)
    name = f"bright{'-long' if long else ''}{f'-{reasoning}' if reasoning else ''}/{task}"

    def load_one(folder: Path, revision: str, protocol: Protocol) -> Collection:
        return bright.load_bright(
            folder, task, reasoning=reasoning, long=long, merge=True, revision=revision, protocol=protocol
        )

    def from_irds(protocol: Protocol) -> Collection:
        dataset = f"bright/{task.replace('_', '-')}{'-long' if long else ''}"
        return load_irds(
            dataset, name=name, instruction=bright.instruction(task, long=long), protocol=protocol
        )

    return Entry(
        load=load_one,
        name=name,
        folder="BRIGHT",
        protocol=PROTOCOLS["bright-long" if long else "bright"],
        source=f"{' and '.join(files)} of https://huggingface.co/datasets/{bright.REPOSITORY[0]}",
        repository=Repository(*bright.REPOSITORY, files),
        irds=None if reasoning else from_irds,
    )


def _r2med(task: str) -> Entry:
    def load_one(folder: Path, revision: str, protocol: Protocol) -> Collection:
        return r2med.load_r2med(folder, task, merge=True, revision=revision, protocol=protocol)

    return Entry(
        load=load_one,
        name=f"r2med/{task}",
        folder=f"R2MED/{task}",
        protocol=PROTOCOLS["r2med"],
        source=f"corpus.jsonl, query.jsonl and qrels.jsonl of https://huggingface.co/datasets/R2MED/{task}",
        repository=Repository(f"R2MED/{task}", r2med.TASKS[task][1], ("corpus*", "query*", "qrels*")),
    )


ENTRIES: dict[str, Entry] = {
    **{f"msmarco/{queries}": _msmarco(queries) for queries in FILES},
    **{f"msmarco-titles/{queries}": _msmarco(queries, titles=True) for queries in FILES},
    **{f"beir/{name}": _beir(name) for name in PUBLIC},
    "cosqa": Entry(
        load=lambda folder, revision, protocol: load_cosqa(folder, revision=revision, protocol=protocol),
        name="cosqa/test",
        folder="cosqa",
        protocol=PLAIN,
        source=f"{CODES} and cosqa-retrieval-test-500.json of {COSQA_URL}",
    ),
    **{f"bright/{task}": _bright(task) for task in bright.TASKS},
    **{f"bright-long/{task}": _bright(task, long=True) for task in bright.LONG_TASKS},
    **{f"bright-{r}/{task}": _bright(task, reasoning=r) for r in bright.REASONING for task in bright.TASKS},
    **{f"r2med/{task}": _r2med(task) for task in r2med.TASKS},
    "stdlib": Entry(
        load=lambda folder, revision, protocol: stdlib.load_stdlib(folder, protocol=protocol),
        name="stdlib/test",
        folder="stdlib",
        protocol=PLAIN,
        source="what `o1-bench fetch stdlib` builds",
    ),
}

_FAMILIES = ("bright", "bright-long", *(f"bright-{name}" for name in bright.REASONING), "r2med")
_O1_BEIR = (
    *("fiqa", "nfcorpus", "scidocs", "scifact", "trec-covid", "webis-touche2020"),
    *("dbpedia-entity", "nq", "hotpotqa", "fever"),
)

SUITES: dict[str, tuple[str, ...]] = {
    "o1": (
        *("msmarco-titles/dev@o1-dev", "msmarco-titles/dl19@o1-dl", "msmarco-titles/dl20@o1-dl"),
        *(f"beir/{name}@o1-beir" for name in _O1_BEIR),
    ),
    "o1-standard": (
        *("msmarco/dev", "msmarco/dl19", "msmarco/dl20"),
        *("beir/scifact", "beir/trec-covid", "beir/dbpedia-entity", "beir/nq"),
        *("beir/hotpotqa", "beir/fiqa", "beir/webis-touche2020", "beir/fever"),
        "cosqa",
    ),
    "beir": tuple(f"beir/{name}" for name in PUBLIC if name != "msmarco"),
    **{family: tuple(n for n in ENTRIES if n.startswith(f"{family}/")) for family in _FAMILIES},
    "reasonembed": (
        *(f"bright/{task}@reasonembed-bright" for task in bright.TASKS),
        *(f"r2med/{task}@reasonembed-r2med" for task in r2med.TASKS),
    ),
}
"""Sets that papers report on. `o1` is what O1 Embedder's public code evaluates (scripts/eval.sh at 28b4583):
MS MARCO with titles, every grade of 1 or more relevant, and ten sets of BEIR. `o1-standard` has the same
kinds of sets as their own benchmarks evaluate them: MS MARCO without titles, TREC's grades, and the 12 sets
that the paper (arXiv 2502.07555) counts in its abstract; NQ, HotpotQA and CoSQA are certain, the other six of
BEIR are from memory, as the paper's tables could not be retrieved. `reasonembed` is ReasonEmbed's (arXiv
2510.08252): BRIGHT with the original queries, and R2MED, with the prompts and token limits of its scripts."""
