"""BEIR: any folder in its layout, and the public sets by name.

```
folder/{corpus.jsonl,queries.jsonl,qrels/<split>.tsv}                     the BEIR zips (UKP Darmstadt)
folder/{corpus,queries}/*.parquet, or *.jsonl.gz   + folder-qrels/*.tsv   hub: BeIR/<name>, BeIR/<name>-qrels
folder/{corpus.jsonl,queries.jsonl,qrels/<split>.jsonl}                   hub: mteb/<name>
```
Tables may be JSON lines, gzipped or not, or Parquet (`o1_bench.datasets.tables`). Sources: BEIR
(arXiv 2104.08663, github.com/beir-cellar/beir), the file trees of BeIR/* and mteb/* on the hub, and
mteb 2.26's task definitions for the pinned revisions.

A folder is evaluated as BEIR's evaluator does: a document with the id of its query never counts. A file
`collection.json` in it can say otherwise; every field may be left out:
```
{"name": "ours", "instruction": "Find the paragraph that answers.", "revision": "2026-05",
 "protocol": "plain", "excluded": "excluded.jsonl"}
```
`protocol` is a name of `o1_bench.protocol.PROTOCOLS` or an object with the fields of `Protocol`, `excluded` a
file of Exclusion records beside it. A folder with the name of a public set (`arguana`, `cqadupstack/gis`) is
that set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from o1_bench.collection import Collection, excluded_ids
from o1_bench.datasets.tables import TableDocuments, find_table, need_table, read_rows, table_names
from o1_bench.protocol import BEIR, Protocol, protocol_named
from o1_records import Document, Exclusion, InputError, Qrel, Query, Record, quoted, read_jsonl
from o1_records.beir import read_qrels_file
from o1_records.types import Id

PUBLIC = {
    "arguana": ("mteb/arguana", "c22ab2a51041ffd869aaddef7af8d8215647e41a"),
    "climate-fever": ("mteb/climate-fever", "47f2ac6acb640fc46020b02a5b59fdda04d39380"),
    "cqadupstack/android": ("mteb/CQADupstackAndroidRetrieval", "9be4c0e46342e8e3aff577a89b9a1ec9bc6b4af3"),
    "cqadupstack/english": ("mteb/cqadupstack-english", "ad9991cb51e31e31e430383c75ffb2885547b5f0"),
    "cqadupstack/gaming": ("mteb/cqadupstack-gaming", "4885aa143210c98657558c04aaf3dc47cfb54340"),
    "cqadupstack/gis": ("mteb/cqadupstack-gis", "5003b3064772da1887988e05400cf3806fe491f2"),
    "cqadupstack/mathematica": ("mteb/cqadupstack-mathematica", "90fceea13679c63fe563ded68f3b6f06e50061de"),
    "cqadupstack/physics": ("mteb/cqadupstack-physics", "79531abbd1fb92d06c6d6315a0cbbbf5bb247ea4"),
    "cqadupstack/programmers": ("mteb/cqadupstack-programmers", "6184bc1440d2dbc7612be22b50686b8826d22b32"),
    "cqadupstack/stats": ("mteb/cqadupstack-stats", "65ac3a16b8e91f9cee4c9828cc7c335575432a2a"),
    "cqadupstack/tex": ("mteb/cqadupstack-tex", "46989137a86843e03a6195de44b09deda022eec7"),
    "cqadupstack/unix": ("mteb/cqadupstack-unix", "6c6430d3a6d36f8d2a829195bc5dc94d7e063e53"),
    "cqadupstack/webmasters": ("mteb/cqadupstack-webmasters", "160c094312a0e1facb97e55eeddb698c0abe3571"),
    "cqadupstack/wordpress": ("mteb/cqadupstack-wordpress", "4ffe81d471b1924886b33c7567bfb200e9eec5c4"),
    "dbpedia-entity": ("mteb/dbpedia", "c0f706b76e590d620bd6618b3ca8efdd34e2d659"),
    "fever": ("mteb/fever", "bea83ef9e8fb933d90a2f1d5515737465d613e12"),
    "fiqa": ("mteb/fiqa", "27a168819829fe9bcd655c2df245fb19452e8e06"),
    "hotpotqa": ("mteb/hotpotqa", "ab518f4d6fcca38d87c25209f94beba119d02014"),
    "msmarco": ("mteb/msmarco", "c5a29a104738b98a9e76336939199e264163d4a0"),
    "nfcorpus": ("mteb/nfcorpus", "ec0fa4fe99da2ff19ca1214b7966684033a58814"),
    "nq": ("mteb/nq", "b774495ed302d8c44a3a7ea25c90dbce03968f31"),
    "quora": ("mteb/quora", "e4e08e0b7dbe3c8700f0daef558ff32256715259"),
    "scidocs": ("mteb/scidocs", "f8c2fcf00f625baaa80f62ec5bd9e1fff3b8ae88"),
    "scifact": ("mteb/scifact", "d56462d0e63a25450459c4f213e49ffdb866f7f9"),
    "trec-covid": ("mteb/trec-covid", "bb9466bac8153a0349341eb1b22e06409e78ef4e"),
    "webis-touche2020": ("mteb/touche2020", "a34f9a33db75fa0cbb21bb5cfc3dae8dc8bec93f"),
}
"""The public sets (those that need no signed licence), each with its hub repository and revision."""

ABSENT = {"arguana": 5}
"""Judged documents that are missing from a set's corpus (issue 101 of beir-cellar/beir, 5021 of mteb)."""

_ONE_SPLIT = ("arguana", "climate-fever", "nq", "scidocs", "trec-covid")

IRDS = {
    **{name: f"beir/{name}/test" for name in PUBLIC},
    **{name: f"beir/{name}" for name in PUBLIC if name in _ONE_SPLIT or name.startswith("cqadupstack/")},
    "msmarco": "beir/msmarco/dev",
    "webis-touche2020": "beir/webis-touche2020/v2",
}
"""The sets in ir_datasets; those with a single split have no name for it."""

DESCRIPTION = "collection.json"
"""What a BEIR folder says of itself, if anything."""

_REMEDY = "is this a BEIR folder?"


class _Document(msgspec.Struct, rename={"doc_id": "_id"}):
    doc_id: Id
    text: str
    title: str | None = None


class _Query(msgspec.Struct, rename={"query_id": "_id"}):
    query_id: Id
    text: str


class _Qrel(msgspec.Struct, rename={"query_id": "query-id", "doc_id": "corpus-id"}):
    query_id: Id
    doc_id: Id
    score: int | Annotated[float, Meta(multiple_of=1)]


class Description(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `collection.json` in a BEIR folder may say."""

    name: str = ""
    instruction: str = ""
    revision: str = ""
    protocol: str | Protocol = ""
    excluded: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a split of a BEIR folder is called and evaluated."""

    name: str
    split: str
    protocol: Protocol
    excluded: Mapping[str, Set[str]]
    instruction: str = ""
    revision: str = ""
    absent: int = 0
    said: bool = True
    """Whether the protocol was named, and is not just that of its layout."""


def settings_of(
    folder: str | Path,
    split: str | None = None,
    *,
    protocol: Protocol | None = None,
    excluded: Mapping[str, Set[str]] | None = None,
) -> Settings:
    """Return what the arguments, `collection.json`, the name of the folder and its layout say, in this order.

    Nothing but `collection.json` and the exclusions it names are read. The split is `test` by default, and
    `dev` for MS MARCO.

    Raises InputError for a `collection.json` that is damaged or has unknown fields.
    """
    folder = Path(folder)
    public = public_name(folder)
    described = _described(folder)
    if split is None:
        split = split_of(public) if public else "test"
    chosen = described.protocol if protocol is None else protocol
    if isinstance(chosen, str) and chosen:
        chosen = protocol_named(chosen)
    own = {}
    if described.excluded:
        own = excluded_ids(read_jsonl(folder / described.excluded, Exclusion))
    name = described.name or (f"beir/{public}" if public else folder.resolve().name)
    return Settings(
        name=f"{name}/{split}",
        split=split,
        protocol=chosen or BEIR,
        excluded=own if excluded is None else excluded,
        instruction=described.instruction,
        revision=described.revision,
        absent=ABSENT.get(public, 0),
        said=bool(chosen or public),
    )


def load_beir(
    folder: str | Path,
    split: str | None = None,
    *,
    name: str = "",
    instruction: str = "",
    revision: str = "",
    excluded: Mapping[str, Set[str]] | None = None,
    absent: int = 0,
    protocol: Protocol | None = None,
) -> Collection:
    """Load one split of a BEIR folder, with the queries that the split judges.

    The corpus stays on disk and is read again at every pass. What is not given is as `settings_of` says:
    name, split, instruction, exclusions and protocol. `excluded` and `absent` are those of Collection.

    Raises InputError for a file that is missing or wrong, for a document with its query's id that is judged
    relevant, unless the protocol was named, and as Collection does.
    """
    folder = Path(folder)
    settings = settings_of(folder, split, protocol=protocol, excluded=excluded)
    qrels = tuple(read_judgements(folder, settings.split))
    refuse_relevant_self(folder, qrels, settings)
    judged = {qrel.query_id for qrel in qrels}
    queries = (row for _, row in read_rows(need_table(folder, "queries", _REMEDY), _Query))
    return Collection(
        name=name or settings.name,
        documents=TableDocuments(need_table(folder, "corpus", _REMEDY), _Document, _document),
        queries=tuple(Query(query_id=q.query_id, text=q.text) for q in queries if q.query_id in judged),
        qrels=qrels,
        excluded=settings.excluded,
        instruction=instruction or settings.instruction,
        revision=revision or settings.revision,
        absent=absent or settings.absent,
        protocol=settings.protocol,
    )


def refuse_relevant_self(folder: Path, qrels: Iterable[Qrel], settings: Settings) -> None:
    """Raise InputError where the layout's protocol would leave out a relevant document for its id."""
    if settings.said or not settings.protocol.ignore_identical_ids:
        return
    found = next((qrel.doc_id for qrel in qrels if qrel.query_id == qrel.doc_id and qrel.relevance > 0), None)
    if found is not None:
        raise InputError(
            f"{folder}: document {quoted(found)} has the id of its query and is judged relevant, but BEIR's "
            "evaluator never counts such documents; say what holds here: --protocol plain (it counts) or "
            '--protocol beir, or {"protocol": "plain"} in collection.json'
        )


def public_name(folder: Path) -> str:
    """Return the name of the public set that a BEIR folder is called after; empty for any other folder."""
    parts = folder.resolve().parts
    return next((name for name in ("/".join(parts[-2:]), parts[-1]) if name in PUBLIC), "") if parts else ""


def _described(folder: Path) -> Description:
    path = folder / DESCRIPTION
    if not path.is_file():
        return Description()
    try:
        content: Any = msgspec.json.decode(path.read_bytes())
        if isinstance(content, dict) and "inputs" in content:
            return Description()  # of a collection that `o1-bench fetch stdlib` built
        return msgspec.convert(content, Description)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        known = ", ".join(Description.__struct_fields__)
        raise InputError(f"{path}: {error}; it is a JSON object with {known}") from error


def read_judgements(folder: Path, split: str) -> Iterator[Qrel]:
    """Yield the judgements of a split and read nothing else. Raises InputError if there is no such split."""
    places = (folder / "qrels", beside(folder))
    as_text = {path.stem: path for place in places for path in place.glob("*.tsv")}
    as_table = {name: place for place in places for name in table_names(place)}
    # a split is a name, never a way out of the folder
    if split in as_text:
        yield from read_qrels_file(as_text[split])
    elif split in as_table:
        for _, row in read_rows(find_table(as_table[split], split), _Qrel):
            yield Qrel(query_id=row.query_id, doc_id=row.doc_id, relevance=int(row.score))
    else:
        known = ", ".join(sorted({*as_text, *as_table})) or "none"
        raise InputError(f"{folder}: no split {quoted(split)} in qrels/; it has {known}")


def beside(folder: Path) -> Path:
    """Return the folder of judgements that the hub keeps beside a set: BeIR/<name>-qrels."""
    return folder.parent / f"{folder.resolve().name}-qrels"


def split_of(name: str) -> str:
    """Return the split of a public set that is reported on: dev for MS MARCO, test for all others."""
    return "dev" if name == "msmarco" else "test"


def _document(row: _Document) -> Document:
    return Document(doc_id=row.doc_id, text=row.text, title=row.title or "")
