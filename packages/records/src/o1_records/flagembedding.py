"""FlagEmbedding's training JSONL, as BGE, O1 Embedder and ReasonEmbed exchange it.

A row has `query`, `pos`, `neg` and, where known, `pos_scores`, `neg_scores`, `prompt`, `type`,
`thought`, `all_thought`, `reasoning_query`, `train_group_size`. It names neither queries nor
documents: where it has no `query_id`, `pos_id`, `neg_id`, names are digests of the content.
Whatever an `Example` cannot hold becomes an `Extra`, keyed by query_id, and comes back with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from o1_records.files import InputError, open_output, quoted
from o1_records.jsonl import decode_line, refuse_repeated_fields
from o1_records.keys import KeySet, QueryNames, content_doc_id, content_query_id, documents_of
from o1_records.lines import Refuse, checked_lines
from o1_records.types import Document, Example, Query, Record, Source, Thought

_UNKNOWN_MODEL = "unknown"


class Extra(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of a foreign row that its record has no place for."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id",)
    query_id: str
    fields: dict[str, Any]


class _Row(msgspec.Struct):
    """The fields of a row that become an example; others are kept apart."""

    query: str
    pos: list[str]
    neg: list[str] = []
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None
    prompt: str | None = None
    thought: str | None = None
    reasoning_query: str | None = None
    train_group_size: int | None = None
    dataset: str | None = None
    query_id: str | None = None
    pos_id: list[str] | None = None
    neg_id: list[str] | None = None
    thought_id: str | None = None


def read(
    path: str | Path,
    *,
    refused: Refuse | None = None,
    extra: Callable[[Extra], None] | None = None,
) -> Iterator[Example]:
    """Yield the rows of a file as examples. Raises InputError with file and line.

    What an example cannot hold goes to `extra`, or is dropped where that is not given.
    """
    decoder, fields_decoder = msgspec.json.Decoder(_Row), msgspec.json.Decoder(dict[str, Any])
    names, seen = QueryNames(), KeySet()

    def decode(line: bytes, place: str) -> Example:
        row = decode_line(decoder, line, place)
        refuse_repeated_fields(line, place)
        try:
            example = _example(row, names)
        except ValueError as error:
            raise InputError(f"{place}: {error}; in {quoted(line[:200])}") from error
        if not seen.add(example.key):
            raise InputError(f"{place}: duplicate query_id {quoted(example.query.query_id)}; keep one")
        if extra is not None:
            again = _fields(example)
            fields = decode_line(fields_decoder, line, place)
            lost = {k: v for k, v in fields.items() if k not in again or again[k] != v}
            if lost:
                extra(Extra(query_id=example.query.query_id, fields=lost))
        return example

    return checked_lines(path, decode, refused)


def write(
    path: str | Path,
    examples: Iterable[Example],
    *,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Write examples; returns how many. `extra` maps a query_id to the fields of its `Extra`.

    Titles go in front of their texts, and of a thought its text and id stay: the format has no
    place for more. Names that are digests of the content are left out, for they come back.
    """
    count = 0
    with open_output(path) as file:
        for example in examples:
            count += 1
            row = {**_fields(example), **(extra or {}).get(example.query.query_id, {})}
            try:
                file.write(msgspec.json.encode(row) + b"\n")
            except UnicodeError as error:
                raise InputError(f"{path}: {quoted(row)}: {error}") from error
    return count


def _example(row: _Row, names: QueryNames) -> Example:
    for field, ids, texts in (("pos_id", row.pos_id, row.pos), ("neg_id", row.neg_id, row.neg)):
        if ids is not None and (len(ids) != len(texts) or not all(ids)):
            raise ValueError(f"{field} has {len(ids)} ids for {len(texts)} passages, or an empty one")
    query_id = row.query_id or names.name(row.query, row.prompt or "")
    query = Query(query_id=query_id, text=row.query, instruction=row.prompt or "")
    thought = None
    if row.thought and row.thought.strip():
        thought = Thought(
            query_id=query_id,
            thought_id=row.thought_id or f"{query_id}#0",
            text=row.thought,
            source=Source(model=_UNKNOWN_MODEL),
        )
    scores = (*(row.pos_scores or ()), *(row.neg_scores or ()))
    return Example(
        query=query,
        positives=documents_of(row.pos, row.pos_id),
        negatives=documents_of(row.neg, row.neg_id),
        thought=thought,
        teacher_scores=scores if len(scores) == len(row.pos) + len(row.neg) else (),
        reasoning_query=row.reasoning_query or "",
        dataset=row.dataset or "",
        group_size=row.train_group_size if (row.train_group_size or 0) > 0 else None,
    )


def _fields(example: Example) -> dict[str, Any]:
    """Return the row of an example, without fields at their defaults."""
    query, thought = example.query, example.thought
    positives, negatives = example.positives, example.negatives
    scores = list(example.teacher_scores)
    optional = {
        "prompt": query.instruction,
        "pos_scores": scores[: len(positives)],
        "neg_scores": scores[len(positives) :],
        "thought": thought.text if thought else "",
        "reasoning_query": example.reasoning_query,
        "train_group_size": example.group_size,
        "dataset": example.dataset,
        "query_id": _own_name(query),
        "pos_id": _own_names(positives),
        "neg_id": _own_names(negatives),
        "thought_id": thought.thought_id if thought and thought.thought_id != f"{query.query_id}#0" else "",
    }
    row = {
        "query": query.text,
        "pos": [document.full_text for document in positives],
        "neg": [document.full_text for document in negatives],
    }
    return {**row, **{name: value for name, value in optional.items() if value}}


def _own_name(query: Query) -> str:
    derived = query.query_id.split("#")[0] == content_query_id(query.text, query.instruction)
    return "" if derived else query.query_id


def _own_names(documents: tuple[Document, ...]) -> list[str]:
    derived = all(document.doc_id == content_doc_id(document.full_text) for document in documents)
    return [] if derived else [document.doc_id for document in documents]
