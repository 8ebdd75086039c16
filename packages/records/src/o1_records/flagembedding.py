"""FlagEmbedding's training JSONL, as BGE, O1 Embedder and ReasonEmbed exchange it.

A row has `query`, `pos`, `neg` and, where known, `pos_scores`, `neg_scores`, `prompt`, `type`,
`thought`, `all_thought`, `reasoning_query`, `train_group_size`, `batch_size`. It names neither queries
nor documents: where it has no `query_id`, `pos_id`, `neg_id`, names are digests of the content.
Whatever an `Example` cannot hold becomes an `Extra`, keyed by query_id, and comes back with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from o1_records.files import InputError, quoted, sha256_file
from o1_records.jsonl import decode_line, refuse_repeated_fields, write_jsonl
from o1_records.keys import KeySet, QueryNames, content_doc_id, content_query_id, documents_of
from o1_records.lines import Refuse, checked_lines
from o1_records.rows import Left, write_rows
from o1_records.types import Document, Example, Query, Record, Source, Thought

_UNKNOWN_MODEL = "unknown"
_HOLDS = frozenset(("thought", "teacher_scores", "reasoning_query", "dataset", "group_size", "batch_size"))


class Extra(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of a foreign row that its record has no place for."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id",)
    query_id: str
    fields: dict[str, Any]


class ExtraHeader(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a file of Extra records: of which file they are the rest."""

    key_fields: ClassVar[tuple[str, ...]] = ("file",)
    file: str
    sha256: str


class _Row(msgspec.Struct):
    """The fields of a row that become an example; others are kept apart."""

    query: str
    pos: list[str]
    neg: list[str] | None = None
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None
    prompt: str | None = None
    thought: str | None = None
    reasoning_query: str | None = None
    train_group_size: int | None = None
    batch_size: int | None = None
    dataset: str | None = None
    query_id: str | int | None = None
    pos_id: list[str | int] | None = None
    neg_id: list[str | int] | None = None
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
            # "" and null are what a row has for a field that only others have
            lost = {k: v for k, v in fields.items() if again.get(k, v if v in ("", None) else ...) != v}
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
    place for more. Names that are digests of the content are left out, for they come back. What one
    row has, all rows have, as "" or null where it is missing: else FlagEmbedding could not load them.
    """
    left = Left(path, "FlagEmbedding", _HOLDS)

    def rows() -> Iterator[dict[str, Any]]:
        for example in examples:
            left.count(example)
            if example.thought and example.thought.source != Source(model=_UNKNOWN_MODEL):
                left.add("the source of a thought")
            yield {**_fields(example), **(extra or {}).get(example.query.query_id, {})}

    count = write_rows(path, rows())
    left.tell()
    return count


def write_extras(path: str | Path, extras: Iterable[Extra], of: str | Path) -> None:
    """Write what the examples in the file `of`, already written, had no place for."""
    header = ExtraHeader(file=Path(of).name, sha256=sha256_file(of))
    write_jsonl(path, itertools.chain([header], extras))


def read_extras(path: str | Path, of: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the fields of each Extra by query_id.

    Raises InputError where `of` is given and is not the file that they were written for.
    """
    fields: dict[str, dict[str, Any]] = {}
    decoder = msgspec.json.Decoder(Extra)
    header: list[ExtraHeader] = []

    def decode(line: bytes, place: str) -> None:
        if not header:
            header.append(decode_line(msgspec.json.Decoder(ExtraHeader), line, place))
            return
        extra = decode_line(decoder, line, place)
        if extra.query_id in fields:
            raise InputError(f"{place}: duplicate query_id {quoted(extra.query_id)}; keep one of them")
        fields[extra.query_id] = extra.fields

    for _ in checked_lines(path, decode):
        pass
    if of is not None and header and header[0].sha256 != sha256_file(of):
        raise InputError(
            f"{path}: was written for another {header[0].file} than {of} is now; remove it, or give "
            f"--extra {path} to add its fields by query_id all the same"
        )
    return fields


def _example(row: _Row, names: QueryNames) -> Example:
    neg = row.neg or []
    ids = {}
    for field, given, texts in (("pos_id", row.pos_id, row.pos), ("neg_id", row.neg_id, neg)):
        ids[field] = named = None if given is None else [str(name) for name in given]
        if named is not None and (len(named) != len(texts) or not all(named)):
            raise ValueError(f"{field} has {len(named)} ids for {len(texts)} passages, or an empty one")
    query_id = "" if row.query_id is None else str(row.query_id)
    query_id = query_id or names.name(row.query, row.prompt or "")
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
        positives=documents_of(row.pos, ids["pos_id"]),
        negatives=documents_of(neg, ids["neg_id"]),
        thought=thought,
        teacher_scores=scores if len(scores) == len(row.pos) + len(neg) else (),
        reasoning_query=row.reasoning_query or "",
        dataset=row.dataset or "",
        group_size=row.train_group_size if (row.train_group_size or 0) > 0 else None,
        batch_size=row.batch_size if (row.batch_size or 0) > 0 else None,
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
        "batch_size": example.batch_size,
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
