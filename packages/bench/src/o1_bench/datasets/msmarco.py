"""MS MARCO passages: dev (small), TREC Deep Learning 2019 and 2020.

```
folder/collection.tsv                 doc_id, text: 8,841,823 passages, without titles
folder/corpus.tsv                     doc_id, title, text: with titles (RocketQA's para files, joined)
folder/corpus.jsonl.gz                docid, title, text: the same on the hub, Tevatron/msmarco-passage-corpus
folder/queries.dev.small.tsv          qrels.dev.small.tsv        6,980 queries, 7,437 judgements
folder/msmarco-test2019-queries.tsv   2019qrels-pass.txt         200 queries, 43 judged
folder/msmarco-test2020-queries.tsv   2020qrels-pass.txt         200 queries, 54 judged
```
Every file may be gzipped (`.tsv.gz`). The qrels of DL19 and DL20 are graded 0-3: nDCG takes the
grades as they are, binary measures count 2 and 3 (`rel=2`). The original passages have no titles;
figures with titles (RocketQA, SimLM, RepLLaMA) are not comparable with figures without, so the
collection's name distinguishes them: `msmarco/dev`, `msmarco-titles/dev`. Sources: the file lists of
microsoft/msmarco, trec.nist.gov/data/deep, ir_datasets 0.6.3 (`msmarco_passage.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from o1_bench.collection import Collection
from o1_bench.datasets.tables import TableDocuments, find_table, text_lines
from o1_bench.protocol import PROTOCOLS, Protocol
from o1_records import Document, InputError, Query, quoted
from o1_records.trec import read_qrels
from o1_records.types import Id

Queries = Literal["dev", "dl19", "dl20"]

FILES: dict[Queries, tuple[str, str]] = {
    "dev": ("queries.dev.small.tsv", "qrels.dev.small.tsv"),
    "dl19": ("msmarco-test2019-queries.tsv", "2019qrels-pass.txt"),
    "dl20": ("msmarco-test2020-queries.tsv", "2020qrels-pass.txt"),
}
"""The files of queries and judgements of each set, under their published names."""


class _Titled(msgspec.Struct, rename={"doc_id": "docid"}):
    doc_id: Id
    text: str
    title: str | None = None


@dataclass(frozen=True)
class TsvDocuments:
    """Documents of a file of `doc_id, text` or `doc_id, title, text`, read at every iteration."""

    path: Path
    titles: bool

    def __iter__(self) -> Iterator[Document]:
        for place, line in text_lines(self.path):
            if self.titles:
                doc_id, title, text = _columns(line, 3, place, "doc_id title text")
                yield Document(doc_id=doc_id, title=title, text=text)
            else:
                doc_id, text = _columns(line, 2, place, "doc_id text")
                yield Document(doc_id=doc_id, text=text)


def load_msmarco(
    folder: str | Path,
    queries: Queries = "dev",
    *,
    titles: bool = False,
    revision: str = "",
    protocol: Protocol | None = None,
) -> Collection:
    """Load the passages with the queries of one set that are judged.

    Args:
        folder: the files shown above.
        queries: `dev`, `dl19` or `dl20`.
        titles: the passages with titles instead of the original ones.
        revision: the edition of the files, if it is known.
        protocol: how it is evaluated; MS MARCO's or TREC's by default.

    Raises:
        InputError: a file is missing or wrong; and as Collection does.
    """
    folder = Path(folder)
    if queries not in FILES:
        raise InputError(f"{quoted(queries)}: MS MARCO's queries are {', '.join(FILES)}")
    queries_name, qrels_name = FILES[queries]
    qrels = tuple(read_qrels(_need(folder, qrels_name)))
    judged = {qrel.query_id for qrel in qrels}
    asked = []
    for place, line in text_lines(_need(folder, queries_name)):
        query_id, text = _columns(line, 2, place, "query_id text")
        asked.append(Query(query_id=query_id, text=text))
    kept = tuple(query for query in asked if query.query_id in judged)
    said = f"{'with' if titles else 'without'} titles; {len(kept)} of {len(asked)} queries are judged"
    return Collection(
        name=f"msmarco{'-titles' if titles else ''}/{queries}",
        documents=_passages(folder, titles=titles),
        queries=kept,
        qrels=qrels,
        revision=f"{revision}; {said}" if revision else said,
        protocol=protocol or PROTOCOLS["msmarco" if queries == "dev" else "trec-dl"],
    )


def _passages(folder: Path, *, titles: bool) -> TsvDocuments | TableDocuments[_Titled]:
    if not titles:
        return TsvDocuments(_need(folder, "collection.tsv"), titles=False)
    files = find_table(folder, "corpus")
    if files:
        return TableDocuments(
            files,
            _Titled,
            lambda row: Document(doc_id=row.doc_id, title=row.title or "", text=row.text),
        )
    return TsvDocuments(_need(folder, "corpus.tsv"), titles=True)


def _need(folder: Path, name: str) -> Path:
    """Return the file, or its gzipped form."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise InputError(
            f"{folder}: {name} is missing; get it from microsoft.github.io/msmarco or trec.nist.gov/data/deep"
        )
    return found[0]


def _columns(line: str, width: int, place: str, form: str) -> list[str]:
    # the last column may contain tabs
    columns = line.split("\t", width - 1)
    if len(columns) != width or not columns[0]:
        raise InputError(f"{place}: expected {width} columns between tabs ({form}), got {quoted(line)}")
    return columns
