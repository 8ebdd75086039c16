"""sentence-transformers' rows: `anchor`, `positive`, negatives and `scores`; or pairs with a `label`.

A row of triplets has `negative`, or `negative_1` to `negative_n`, and where a teacher gave them `scores` of
the positive and each negative. A row of pairs has `document` and `label`, 1 or 0. Rows of one anchor that
follow each other are one example. They name nothing; names are digests of the content (`o1_records.keys`).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, InputWarning, quoted
from o1_records.jsonl import decode_line, refuse_repeated_fields
from o1_records.keys import QueryNames, documents_of, same_text
from o1_records.lines import Refuse, checked_lines
from o1_records.rows import Left, write_rows
from o1_records.types import Example, Query

_NAMES = {
    "anchor": ("anchor", "query", "question"),
    "positive": ("positive", "answer", "passage", "document"),
    "document": ("document", "positive", "answer", "passage"),
    "label": ("label",),
}
"""What columns are called in public data sets, ours first."""


@dataclasses.dataclass
class _Row:
    """One row: the anchor, and its documents with their scores."""

    anchor: str
    positives: list[str]
    negatives: list[str]
    scores: list[float] = dataclasses.field(default_factory=list)


def read(
    path: str | Path, *, refused: Refuse | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Example]:
    """Yield triplets as examples. Raises InputError with file and line.

    `columns` maps "anchor" and "positive" to what the file calls them; without it `query` or `question` is
    taken for the anchor and `answer`, `passage` or `document` for the positive, with a warning.
    """
    decoder = msgspec.json.Decoder(dict[str, str | list[float]])
    names = _Columns(path, ("anchor", "positive"), columns)

    def decode(line: bytes, place: str) -> _Row:
        row = decode_line(decoder, line, place)
        refuse_repeated_fields(line, place)
        anchor, positive = names.of(row, place)
        negatives = sorted((f for f in row if f.partition("_")[0] == "negative"), key=_number)
        scores = row.pop("scores", [])
        texts = [row[field] for field in (anchor, positive, *negatives)]
        if set(row) != {anchor, positive, *negatives} or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"{place}: expected anchor, positive, negative (or negative_1 and so on) and scores, "
                f"got {quoted(sorted(row))}; drop the other columns"
            )
        if not isinstance(scores, list) or len(scores) not in (0, 1 + len(negatives)):
            raise InputError(f"{place}: expected {1 + len(negatives)} scores, got {quoted(scores)}")
        first, second, *rest = (str(text) for text in texts)
        return _Row(first, [second], rest, scores)

    return _examples(checked_lines(path, decode, refused))


def read_pairs(
    path: str | Path, *, refused: Refuse | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Example]:
    """Yield labelled pairs as examples; as `read`, with "document" and "label" in the place of "positive"."""
    decoder = msgspec.json.Decoder(dict[str, str | float | bool])
    names = _Columns(path, ("anchor", "document", "label"), columns)

    def decode(line: bytes, place: str) -> _Row:
        row = decode_line(decoder, line, place)
        refuse_repeated_fields(line, place)
        anchor, document, label = (row[name] for name in names.of(row, place))
        if label not in (0, 1):
            raise InputError(f"{place}: label {quoted(label)} is neither 0 nor 1; make it one of them")
        if len(row) > 3 or not isinstance(anchor, str) or not isinstance(document, str):
            raise InputError(
                f"{place}: expected two texts and a label, got {quoted(row)}; drop other columns"
            )
        return _Row(anchor, [document] if label else [], [] if label else [document])

    return _examples(checked_lines(path, decode, refused))


def write(path: str | Path, examples: Iterable[Example], *, negatives: int | None = None) -> int:
    """Write a row for each positive of each example; returns the number of examples that have rows.

    An instruction goes in front of the query, a title in front of its text; names are lost. Trainers need the
    same columns in all rows: `negatives` is how many each has, the first of its example. Examples that have
    fewer, or no positive, are left out with a warning, and so are scores that not all of the rest have.

    Raises InputError where `negatives` is not given and the examples have different numbers of them.
    """
    width, written, scored = negatives, 0, 0
    left = Left(path, "a file of triplets", frozenset(("teacher_scores",)))
    short: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal width, written, scored
        for example in examples:
            own = len(example.negatives)
            width = own if width is None else width
            if negatives is None and own != width:
                raise InputError(
                    f"{path}: examples have {width} negatives and {own}, and trainers need equally many in "
                    "all rows; give --negatives N: the first N are taken, examples with fewer are left out"
                )
            short.update(fewer=own < width, unjudged=not example.positives, cut=max(0, own - width))
            if own < width or not example.positives:
                continue
            left.count(example)
            written += 1
            scored += bool(example.teacher_scores)
            yield from _triplets(example, width)

    write_rows(path, rows(), whole={"scores"})
    if any(short.values()):
        _tell(
            f"{path}: left out {short['fewer']} examples with fewer than {width} negatives, "
            f"{short['unjudged']} without a positive, and {short['cut']} negatives beyond the first {width}"
        )
    if 0 < scored < written:
        _tell(f"{path}: left out the scores of {scored} examples, for {written - scored} have none")
    left.tell()
    return written


def write_pairs(path: str | Path, examples: Iterable[Example]) -> int:
    """Write a row for each document of each example, label 1 for positives, else 0; returns how many."""
    left = Left(path, "a file of pairs")
    count = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count
        for example in examples:
            count += 1
            left.count(example)
            for label, documents in ((1, example.positives), (0, example.negatives)):
                for document in documents:
                    yield {"anchor": _anchor(example), "document": document.full_text, "label": label}

    write_rows(path, rows())
    left.tell()
    return count


class _Columns:
    """What a file calls its columns: as told, or the only name of `_NAMES` that its rows have."""

    def __init__(self, path: str | Path, wanted: tuple[str, ...], told: Mapping[str, str] | None) -> None:
        self._path, self._wanted, self._told = path, wanted, dict(told or {})
        if strange := sorted(set(self._told) - set(wanted)):
            raise InputError(f"no column {quoted(strange[0])} to name; there are {', '.join(wanted)}")

    def of(self, row: Mapping[str, object], place: str) -> list[str]:
        """Return the names of the wanted columns of a row. Raises InputError where they cannot be told."""
        found: list[str] = []
        for name in self._wanted:
            choices = [self._told[name]] if name in self._told else _NAMES[name]
            there = [choice for choice in choices if choice in row and choice not in found]
            if not there or (len(there) > 1 and name not in row):
                example = ",".join(f"{wanted}=NAME" for wanted in self._wanted)
                raise InputError(
                    f"{place}: no column is plainly the {name} in {quoted(sorted(row))}; say which is which: "
                    f"--columns {example}"
                )
            found.append(there[0])
            if there[0] != name and name not in self._told:
                _tell(f"{self._path}: {quoted(there[0])} is read as the {name}")
        return found


def _examples(rows: Iterator[_Row]) -> Iterator[Example]:
    """Yield an example for each run of rows with one anchor."""
    names = QueryNames()
    held: _Row | None = None
    for row in rows:
        if held is not None and same_text(held.anchor) == same_text(row.anchor):
            _unite(held, row)
            continue
        if held is not None:
            yield _example(held, names)
        held = row
    if held is not None:
        yield _example(held, names)


def _unite(held: _Row, row: _Row) -> None:
    """Add the documents of a row to those of the rows before it."""
    scored = bool(held.scores) and bool(row.scores)
    score = dict(zip((*held.positives, *held.negatives), held.scores, strict=False))
    score |= dict(zip((*row.positives, *row.negatives), row.scores, strict=False))
    held.positives = list(dict.fromkeys((*held.positives, *row.positives)))
    both = dict.fromkeys((*held.negatives, *row.negatives))
    held.negatives = [text for text in both if text not in held.positives]
    if len(held.negatives) < len(both):
        _tell(f"{quoted(held.anchor)}: the positive of one row is a negative of another; it stays positive")
    held.scores = [score[text] for text in (*held.positives, *held.negatives)] if scored else []


def _example(row: _Row, names: QueryNames) -> Example:
    return Example(
        query=Query(query_id=names.name(row.anchor, ""), text=row.anchor),
        positives=documents_of(row.positives),
        negatives=documents_of(row.negatives),
        teacher_scores=tuple(row.scores),
    )


def _triplets(example: Example, width: int) -> Iterator[dict[str, Any]]:
    texts = [document.full_text for document in example.negatives[:width]]
    rest = {"negative" if width == 1 else f"negative_{n}": text for n, text in enumerate(texts, start=1)}
    positives, scores = example.positives, example.teacher_scores
    for place, positive in enumerate(positives):
        own: dict[str, Any] = {"anchor": _anchor(example), "positive": positive.full_text, **rest}
        if scores:
            own["scores"] = [scores[place], *scores[len(positives) : len(positives) + width]]
        yield own


def _anchor(example: Example) -> str:
    query = example.query
    return f"{query.instruction}\n{query.text}" if query.instruction else query.text


def _number(field: str) -> int:
    digits = field.partition("_")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def _tell(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=3)
