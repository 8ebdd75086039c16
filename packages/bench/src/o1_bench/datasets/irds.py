"""Any collection of ir_datasets, from its cache (it downloads what is missing). Needs the `[irds]` extra.

ir_datasets repairs the broken encoding of MS MARCO's passages, so their texts, and with them the
digests, differ from those of `collection.tsv`. BRIGHT's excluded ids are judgements of -100 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from o1_bench.collection import Collection
from o1_bench.protocol import PLAIN, Protocol
from o1_records import Document, InputError, MissingExtraError, Qrel, Query, quoted

_EXCLUDED = -100


@dataclass(frozen=True)
class IrdsDocuments:
    """The documents of a data set of ir_datasets, read at every iteration."""

    dataset: Any

    def __iter__(self) -> Iterator[Document]:
        for doc in self.dataset.docs_iter():
            yield Document(doc_id=doc.doc_id, text=doc.text, title=getattr(doc, "title", "") or "")


def load_irds(
    dataset_id: str,
    *,
    name: str = "",
    instruction: str = "",
    absent: int = 0,
    protocol: Protocol = PLAIN,
) -> Collection:
    """Load a data set by ir_datasets' id (`msmarco-passage/trec-dl-2019`), with the queries that are judged.

    Raises InputError for an unknown id and for a data set without documents, queries or qrels.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtraError("o1-bench", "irds", "ir_datasets' cache") from error
    try:
        dataset = ir_datasets.load(dataset_id)
    except KeyError as error:
        raise InputError(f"{quoted(dataset_id)}: ir_datasets has no such data set") from error
    if not (dataset.has_docs() and dataset.has_queries() and dataset.has_qrels()):
        raise InputError(
            f"{quoted(dataset_id)}: has no documents, queries or judgements; name one of its splits"
        )
    judgements = list(dataset.qrels_iter())
    excluded: dict[str, set[str]] = {}
    for one in judgements:
        if one.relevance == _EXCLUDED:
            excluded.setdefault(one.query_id, set()).add(one.doc_id)
    kept = {(one.query_id, one.doc_id): one.relevance for one in judgements if one.relevance != _EXCLUDED}
    judged = {query_id for query_id, _ in kept}
    return Collection(
        name=name or dataset_id,
        documents=IrdsDocuments(dataset),
        queries=tuple(
            Query(query_id=query.query_id, text=query.text)
            for query in dataset.queries_iter()
            if query.query_id in judged
        ),
        qrels=tuple(Qrel(query_id=q, doc_id=d, relevance=relevance) for (q, d), relevance in kept.items()),
        excluded=excluded,
        instruction=instruction,
        revision=f"ir_datasets {ir_datasets.__version__}: {dataset_id}",
        absent=absent,
        protocol=protocol,
    )
