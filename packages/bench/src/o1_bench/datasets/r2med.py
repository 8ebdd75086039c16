"""R2MED: medical queries that need reasoning (arXiv 2505.14558), 8 tasks.

```
folder/corpus.jsonl   id, text
folder/query.jsonl    id, text
folder/qrels.jsonl    q_id, p_id, score
```
Each task is one hub repository (R2MED/Biology, ...), in the form that github.com/R2MED/R2MED reads
(`src/eval_retrieval.py`); Parquet will do as well. The instructions are ReasonEmbed's
(`evaluation_r2med/code/prompts.py`), which are those that R2MED's own code gives E5 (`src/instrcution.py`),
with a full stop behind them. White space in document ids becomes `_`, as in BRIGHT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from o1_bench.collection import Collection
from o1_bench.datasets.tables import LastOfEach, TableDocuments, need_table, read_rows, with_merged, word
from o1_bench.protocol import PROTOCOLS, Protocol
from o1_records import Document, InputError, Qrel, Query, quoted
from o1_records.types import Id

TASKS = {
    "Biology": ("a Biology post", "8b9fec2db9eda4b5742d03732213fbaee8169556"),
    "Bioinformatics": ("a Bioinformatics post", "6021fce366892cbfd7837fa85a4128ea93315e18"),
    "Medical-Sciences": ("a Medical Science post", "1b48911514c80bf9182222d99752ad75e23b4b47"),
    "MedXpertQA-Exam": ("a Medical Exam", "b457ea43db9ae5db74c3a3e5be0a213d0f85ac3a"),
    "MedQA-Diag": ("a Medical Exam", "78b585990279cc01a493f876c1b0cf09557fba57"),
    "PMC-Treatment": ("a Clinical Case", "53c489a44a3664ba352c07550b72b4525a5968d5"),
    "PMC-Clinical": ("a Clinical Case", "812829522f7eaa407ef82b96717be85788a50f7e"),
    "IIYi-Clinical": ("a Clinical Case", "974abbc9bc281c3169180a6aa5d7586cfd2f5877"),
}
"""The tasks: what their queries are, and the revision of R2MED/<task> on the hub."""

_SIMILAR_CASES = ("PMC-Clinical", "IIYi-Clinical")
_REMEDY = "it needs the files of https://huggingface.co/R2MED"


class _Text(msgspec.Struct, rename={"text_id": "id"}):
    text_id: Id
    text: str


class _Qrel(msgspec.Struct):
    q_id: Id
    p_id: Id
    score: int | Annotated[float, Meta(multiple_of=1)]


def load_r2med(
    folder: str | Path,
    task: str,
    *,
    merge: bool = False,
    revision: str = "",
    protocol: Protocol = PROTOCOLS["r2med"],
) -> Collection:
    """Load one task from its folder.

    Args:
        folder: a local copy of the files of R2MED/<task>.
        task: one of `TASKS`; it gives the name and the instruction.
        merge: keep the last of several documents with the same id, as the official code does, and say so
            in the revision; otherwise duplicates are refused. Bioinformatics seems to need it: its card
            says 47,473 documents, mteb counts 47,471 ids.
        revision: the edition of the files, if it is known.
        protocol: how it is evaluated.

    Raises:
        InputError: there is no such task, or a file is missing or wrong; and as Collection does.
    """
    folder = Path(folder)
    if task not in TASKS:
        raise InputError(f"{quoted(task)}: R2MED's tasks are {', '.join(TASKS)}")
    corpus = TableDocuments(
        need_table(folder, "corpus", _REMEDY),
        _Text,
        lambda row: Document(doc_id=word(row.text_id), text=row.text),
    )
    documents = LastOfEach(corpus) if merge else corpus
    qrels = (row for _, row in read_rows(need_table(folder, "qrels", _REMEDY), _Qrel))
    queries = read_rows(need_table(folder, "query", _REMEDY), _Text)
    return Collection(
        name=f"r2med/{task}",
        documents=documents,
        queries=tuple(Query(query_id=row.text_id, text=row.text) for _, row in queries),
        qrels=tuple(
            Qrel(query_id=row.q_id, doc_id=word(row.p_id), relevance=int(row.score)) for row in qrels
        ),
        instruction=instruction(task),
        revision=with_merged(revision, documents),
        protocol=protocol,
    )


def instruction(task: str) -> str:
    """Return the task in words, for encoders that take it."""
    what = TASKS[task][0]
    kind = what.split()[-1].lower()
    if task in _SIMILAR_CASES:
        return f"Given {what}, retrieve similar cases that help diagnose the {kind}."
    return f"Given {what}, retrieve relevant passages that help answer the {kind}."
