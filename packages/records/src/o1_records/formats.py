"""The file formats that `o1-records convert` knows, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o1_records import beir, flagembedding, tevatron, trec, triplets
from o1_records.files import InputError, plain_name
from o1_records.jsonl import read_jsonl, write_jsonl
from o1_records.lines import Refuse
from o1_records.types import (
    Ballot,
    Document,
    DocumentThought,
    Example,
    Exclusion,
    Hit,
    Metric,
    Qrel,
    Query,
    Record,
    Thought,
)

RECORD_TYPES: dict[str, type[Record]] = {
    kind.__name__.lower(): kind
    for kind in (Query, Document, Qrel, Exclusion, Hit, Thought, Ballot, Example, Metric)
} | {"document-thought": DocumentThought}


@dataclass(frozen=True)
class Format:
    """A format: how it is read and written, and what it knows beyond that.

    Attributes:
        holds: its one record type, or None where it holds any.
        read: yields the records of a path.
        write: writes records to a path; returns how many.
        counts_unread: `read` takes `unread`, a counter of the fields that records have no place for.
        named_columns: `read` takes `columns`, what a file calls its columns.
        fixed_width: `write` takes `negatives`, how many every row has.
    """

    holds: type[Record] | None
    read: Callable[..., Iterator[Any]]
    write: Callable[..., int]
    counts_unread: bool = False
    named_columns: bool = False
    fixed_width: bool = False


def _read_any(path: Path, record_type: type[Record], refused: Refuse | None) -> Iterator[Record]:
    return read_jsonl(path, record_type, refused=refused)


def _write_any(path: Path, records: Iterable[Record], record_type: type[Record]) -> int:
    return write_jsonl(path, records)


def _read_parquet(path: Path, record_type: type[Record], refused: Refuse | None) -> Iterator[Record]:
    from o1_records import parquet

    return parquet.read(path, record_type, refused=refused)


def _write_parquet(path: Path, records: Iterable[Record], record_type: type[Record]) -> int:
    from o1_records import parquet

    return parquet.write(path, records, record_type)


FORMATS: dict[str, Format] = {
    "jsonl": Format(None, _read_any, _write_any),
    "parquet": Format(None, _read_parquet, _write_parquet),
    "lance": Format(None, _read_parquet, _write_parquet),
    "flagembedding": Format(Example, flagembedding.read, flagembedding.write),
    "tevatron": Format(Example, tevatron.read, tevatron.write, counts_unread=True),
    "triplets": Format(Example, triplets.read, triplets.write, named_columns=True, fixed_width=True),
    "pairs": Format(Example, triplets.read_pairs, triplets.write_pairs, named_columns=True),
    "trec-run": Format(Hit, trec.read_run, trec.write_run),
    "trec-qrels": Format(Qrel, trec.read_qrels, trec.write_qrels),
    "beir-corpus": Format(Document, beir.read_corpus_file, beir.write_corpus_file, counts_unread=True),
    "beir-queries": Format(Query, beir.read_queries_file, beir.write_queries_file, counts_unread=True),
    "beir-qrels": Format(Qrel, beir.read_qrels_file, beir.write_qrels_file),
}


def format_of(path: Path, named: str | None) -> str:
    """Return the format that was named, or the one that the file's name shows (jsonl, parquet, lance)."""
    if named in ("parquet", "lance") and (named == "lance") != (path.suffix == ".lance"):
        raise InputError(f"{path}: is not {named} by its name: those that end in .lance are Lance, no others")
    if named is not None:
        return named
    suffix = Path(plain_name(path)).suffix.removeprefix(".")
    if suffix not in ("jsonl", "parquet", "lance"):
        raise InputError(f"{path}: its name does not show its format; name one of {', '.join(FORMATS)}")
    return suffix


def read(
    path: Path,
    name: str,
    record_type: type[Record] | None,
    refused: Refuse | None = None,
    **options: Any,
) -> Iterator[Record]:
    """Yield the records of a file of format `name`; `options` are those that its `Format` says it takes."""
    kind = FORMATS[name]
    if kind.holds is None:
        return kind.read(path, record_type, refused)
    return kind.read(path, refused=refused, **options)


def write(path: Path, name: str, records: Iterable[Record], record_type: type[Record], **options: Any) -> int:
    """Write records as a file of format `name`; returns how many."""
    kind = FORMATS[name]
    if kind.holds is None:
        return kind.write(path, records, record_type)
    return kind.write(path, records, **options)


def record_type_of(names: Iterable[str], typed: str | None) -> type[Record]:
    """Return the record type that formats and `--type` agree on."""
    kinds = {FORMATS[name].holds for name in names} | {RECORD_TYPES[typed] if typed else None}
    kinds.discard(None)
    if not kinds:
        raise InputError(f"the format holds any record; add --type: {', '.join(RECORD_TYPES)}")
    if len(kinds) > 1:
        held = " and ".join(sorted(kind.__name__ for kind in kinds if kind))
        raise InputError(f"the formats and --type hold different records: {held}")
    (kind,) = kinds
    assert kind is not None
    return kind
