"""TREC runs (`query_id Q0 doc_id rank score tag`) and qrels (`query_id 0 doc_id relevance`)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from o1_records.beir import whole_number
from o1_records.files import InputError, InputWarning, open_output, quoted
from o1_records.keys import KeySet
from o1_records.lines import Refuse, checked_lines, is_json
from o1_records.types import Hit, Qrel

Number = TypeVar("Number", int, float)


def read_run(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Hit]:
    """Yield the hits of a run in file order. Raises InputError with file and line.

    A run that counts ranks from 0 is read, with a warning, as one that counts them from 1.
    """
    return checked_lines(path, run_decoder(path), refused)


def run_decoder(path: str | Path) -> Callable[[bytes, str], Hit]:
    """Return what makes a hit of (line, place) for `read_run`; it remembers what it has seen."""
    seen = KeySet()
    first: int | None = None

    def decode(line: bytes, place: str) -> Hit:
        nonlocal first
        fields = _fields(line, place, 6, "query_id Q0 doc_id rank score tag")
        query_id, _, doc_id, rank, score, _ = fields
        number = _number(rank, int, place, "rank")
        if first is None:
            first = 0 if number == 0 else 1
            if not first:
                warnings.warn(f"{path}: ranks count from 0, and are read from 1", InputWarning, stacklevel=2)
        if number < first:
            raise InputError(f"{place}: rank {number}, where the run began with ranks from 1; number it anew")
        hit = Hit(
            query_id=query_id,
            doc_id=doc_id,
            score=_number(score, float, place, "score"),
            rank=number + 1 - first,
        )
        _refuse_repeat(seen, query_id, doc_id, place)
        return hit

    return decode


def write_run(path: str | Path, hits: Iterable[Hit], tag: str = "o1") -> int:
    """Write a run that appears whole or not at all; returns the number of hits."""
    seen = KeySet()
    count = 0
    with open_output(path) as file:
        for hit in hits:
            count += 1
            place = f"{path}: hit {count}"
            _refuse_repeat(seen, _word(hit.query_id, place), _word(hit.doc_id, place), place)
            if not math.isfinite(hit.score):
                raise InputError(f"{place}: score {hit.score} of document {quoted(hit.doc_id)}")
            # repr is the shortest text that reads back as the same float
            row = f"{hit.query_id} Q0 {hit.doc_id} {hit.rank} {hit.score!r} {_word(tag, place)}\n"
            file.write(row.encode())
    return count


def read_qrels(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Qrel]:
    """Yield the judgements of a qrels file in file order. Raises InputError with file and line."""
    return checked_lines(path, qrels_decoder(path), refused)


def qrels_decoder(path: str | Path) -> Callable[[bytes, str], Qrel]:
    """Return what makes a judgement of (line, place) for `read_qrels`; it remembers what it has seen."""
    seen = KeySet()

    def decode(line: bytes, place: str) -> Qrel:
        query_id, _, doc_id, relevance = _fields(line, place, 4, "query_id 0 doc_id relevance")
        qrel = Qrel(
            query_id=query_id,
            doc_id=doc_id,
            relevance=whole_number(relevance, place, "relevance", path),
        )
        _refuse_repeat(seen, query_id, doc_id, place)
        return qrel

    return decode


def write_qrels(path: str | Path, qrels: Iterable[Qrel]) -> int:
    """Write judgements that appear whole or not at all; returns their number."""
    seen = KeySet()
    count = 0
    with open_output(path) as file:
        for qrel in qrels:
            count += 1
            place = f"{path}: judgement {count}"
            _refuse_repeat(seen, _word(qrel.query_id, place), _word(qrel.doc_id, place), place)
            file.write(f"{qrel.query_id} 0 {qrel.doc_id} {qrel.relevance}\n".encode())
    return count


def _fields(line: bytes, place: str, width: int, form: str) -> list[str]:
    try:
        fields = line.decode().split()
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8: {error}") from error
    if len(fields) != width:
        remedy = "; it looks like JSON, of which o1-records convert makes TREC's" if is_json(line) else ""
        raise InputError(
            f"{place}: expected {width} columns ({form}), got {len(fields)}: {quoted(line)}{remedy}"
        )
    return fields


def _number(text: str, kind: type[Number], place: str, name: str) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not math.isfinite(value):
        raise InputError(f"{place}: {name} {quoted(text)} is not a finite {kind.__name__}")
    return value


def _refuse_repeat(seen: KeySet, query_id: str, doc_id: str, place: str) -> None:
    if not seen.add((query_id, doc_id)):
        raise InputError(f"{place}: duplicate document {quoted(doc_id)} for query {quoted(query_id)}")


def _word(text: str, place: str) -> str:
    if not text or text.split() != [text]:
        raise InputError(f"{place}: {quoted(text)} is empty or has white space; TREC files cannot hold it")
    return text
