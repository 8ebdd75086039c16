"""BRIGHT: queries that need reasoning (arXiv 2407.12883), 12 tasks.

```
folder/examples/<task>-00000-of-00001.parquet              query, id, excluded_ids, gold_ids, gold_ids_long
folder/gpt4_reason/<task>-....parquet (and four others)    the same, the query rewritten by a model
folder/documents/<task>-....parquet                        id, content: passages
folder/long_documents/<task>-....parquet                   id, content: whole pages, for 8 tasks
```
That is the hub's xlangai/BRIGHT; JSON lines with the same columns will do as well. The files that
FlagEmbedding (`evaluation/bright/data_loader.py`) saves of it are read too, except for the long documents:
```
folder/<task>/corpus.jsonl                id, text
folder/<task>/examples_queries.jsonl      id, text; ids start with the table's name: examples-0
folder/<task>/examples_qrels.jsonl        qid, docid, relevance; 0 is an excluded document
```
The protocol is that of the official code (github.com/xlang-ai/BRIGHT, `run.py` and `retrievers.py`
at d99e839): gold documents have relevance 1, a query's `excluded_ids` are never counted for it, and
`["N/A"]` means that it has none. White space in document ids becomes `_`, as in Rank-R1's copy
(ielab/llm-rankers), so that TREC files can hold them. Query ids are always the hub's, without
prefixes, so that thoughts and runs of one copy fit the other; the collection's name distinguishes original
from rewritten queries (`bright/biology`, `bright-gpt4/biology`). The instructions are FlagEmbedding's
(`prompts.py` there), which ReasonEmbed is evaluated with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from o1_bench.collection import Collection
from o1_bench.datasets.tables import LastOfEach, TableDocuments, need_table, read_rows, with_merged, word
from o1_bench.protocol import PROTOCOLS, Protocol
from o1_records import Document, InputError, Qrel, Query, quoted
from o1_records.types import Id

REPOSITORY = ("xlangai/BRIGHT", "3066d29c9651a576c8aba4832d249807b181ecae")

TASKS = {
    "biology": "a Biology post",
    "earth_science": "an Earth Science post",
    "economics": "an Economics post",
    "psychology": "a Psychology post",
    "robotics": "a Robotics post",
    "stackoverflow": "a Stack Overflow post",
    "sustainable_living": "a Sustainable Living post",
    "leetcode": "a Coding problem",
    "pony": "a Pony question",
    "aops": "a Math problem",
    "theoremqa_questions": "a Math problem",
    "theoremqa_theorems": "a Math problem",
}
"""The tasks and what their queries are, in the order of the paper's tables."""

LONG_TASKS = (*list(TASKS)[:7], "pony")

REASONING = {
    "gpt4": "gpt4_reason",
    "claude-3-opus": "claude-3-opus_reason",
    "gemini-1.0": "Gemini-1.0_reason",
    "grit": "grit_reason",
    "llama3-70b": "llama3-70b_reason",
}
"""Models that rewrote the queries, and the hub's table of each."""

_NONE = "N/A"
_REMEDY = f"it needs the files of https://huggingface.co/datasets/{REPOSITORY[0]}"
_WANTED = {
    "leetcode": "examples",
    "aops": "examples",
    "theoremqa_questions": "examples",
    "theoremqa_theorems": "theorems",
}


class _HubExample(msgspec.Struct, rename={"query_id": "id"}):
    query_id: Id
    query: str
    gold_ids: list[Id]
    excluded_ids: list[Id]
    gold_ids_long: list[Id] = []


class _HubDocument(msgspec.Struct, rename={"doc_id": "id", "text": "content"}):
    doc_id: Id
    text: str


class _FlagText(msgspec.Struct, rename={"text_id": "id"}):
    text_id: Id
    text: str


class _FlagQrel(msgspec.Struct):
    qid: Id
    docid: Id
    relevance: Literal[0, 1]


class _Example(NamedTuple):
    place: str
    query: Query
    gold: list[str]
    excluded: set[str]


def load_bright(
    folder: str | Path,
    task: str,
    *,
    reasoning: str = "",
    long: bool = False,
    merge: bool = False,
    revision: str = "",
    protocol: Protocol | None = None,
) -> Collection:
    """Load one task.

    Args:
        folder: a local copy of the hub's files, as shown above.
        task: one of `TASKS`.
        reasoning: one of `REASONING`: its rewritten queries instead of the original ones.
        long: whole pages instead of passages; `LONG_TASKS` have them.
        merge: keep the last of several documents with the same id, as the official code does, and say in
            the revision how many were dropped; otherwise duplicates are refused.
        revision: the edition of the files, if it is known.
        protocol: how it is evaluated; BRIGHT's by default.

    Raises:
        InputError: there is no such task, or a file is missing or wrong; and as Collection does.
    """
    folder = Path(folder)
    known = LONG_TASKS if long else tuple(TASKS)
    if task not in known:
        raise InputError(
            f"{quoted(task)}: BRIGHT's tasks{' with long documents' if long else ''} are {', '.join(known)}"
        )
    if reasoning and reasoning not in REASONING:
        raise InputError(f"{quoted(reasoning)}: BRIGHT's queries were rewritten by {', '.join(REASONING)}")
    saved = not long and (folder / task / "corpus.jsonl").is_file()
    table = REASONING[reasoning] if reasoning else "examples"
    passages = _flag_documents(folder / task) if saved else _hub_documents(folder, task, long=long)
    documents = LastOfEach(passages) if merge else passages
    examples = list(
        _flag_examples(folder / task, table) if saved else _hub_examples(folder, task, table, long=long)
    )
    for example in examples:
        query_id = quoted(example.query.query_id)
        if not example.gold:
            raise InputError(f"{example.place}: query {query_id} has no gold documents")
        if both := example.excluded & set(example.gold):
            raise InputError(
                f"{example.place}: query {query_id} excludes its gold document {quoted(min(both))}"
            )
    return Collection(
        name=f"bright{'-long' if long else ''}{f'-{reasoning}' if reasoning else ''}/{task}",
        documents=documents,
        queries=tuple(example.query for example in examples),
        qrels=tuple(
            Qrel(query_id=example.query.query_id, doc_id=doc_id, relevance=1)
            for example in examples
            for doc_id in example.gold
        ),
        excluded={example.query.query_id: example.excluded for example in examples if example.excluded},
        instruction=instruction(task, long=long),
        revision=with_merged(revision, documents),
        protocol=protocol or PROTOCOLS["bright-long" if long else "bright"],
    )


def instruction(task: str, *, long: bool = False) -> str:
    """Return the task in words, for encoders that take it."""
    what = TASKS[task]
    kind = what.split()[-1]
    wanted = _WANTED.get(task, "documents" if long else "passages")
    stop = "" if long and task == "pony" else "."  # FlagEmbedding's table lacks it there
    return f"Given {what}, retrieve relevant {wanted} that help answer the {kind}{stop}"


def _hub_documents(folder: Path, task: str, *, long: bool) -> Iterable[Document]:
    files = need_table(folder / ("long_documents" if long else "documents"), task, _REMEDY)
    return TableDocuments(files, _HubDocument, lambda row: Document(doc_id=word(row.doc_id), text=row.text))


def _hub_examples(folder: Path, task: str, table: str, *, long: bool) -> Iterator[_Example]:
    for place, row in read_rows(need_table(folder / table, task, _REMEDY), _HubExample):
        # a dictionary in the official code: a duplicate id counts once
        gold = dict.fromkeys(map(word, row.gold_ids_long if long else row.gold_ids))
        yield _Example(
            place,
            Query(query_id=row.query_id, text=row.query),
            [doc_id for doc_id in gold if doc_id != _NONE],
            {*map(word, row.excluded_ids)} - {_NONE},
        )


def _flag_documents(folder: Path) -> Iterable[Document]:
    files = need_table(folder, "corpus", _REMEDY)
    return TableDocuments(files, _FlagText, lambda row: Document(doc_id=word(row.text_id), text=row.text))


def _flag_examples(folder: Path, table: str) -> Iterator[_Example]:
    judged: dict[str, dict[str, int]] = {}
    for _, qrel in read_rows(need_table(folder, f"{table}_qrels", _REMEDY), _FlagQrel):
        judged.setdefault(qrel.qid, {})[word(qrel.docid)] = qrel.relevance
    for place, row in read_rows(need_table(folder, f"{table}_queries", _REMEDY), _FlagText):
        if not row.text_id.startswith(f"{table}-"):
            raise InputError(f"{place}: query id {quoted(row.text_id)} does not start with '{table}-'")
        relevance = judged.get(row.text_id, {})
        yield _Example(
            place,
            Query(query_id=row.text_id.removeprefix(f"{table}-"), text=row.text),
            [doc_id for doc_id, value in relevance.items() if value],
            {doc_id for doc_id, value in relevance.items() if not value},
        )
