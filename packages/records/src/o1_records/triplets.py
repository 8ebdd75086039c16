"""sentence-transformers' rows: `anchor`, `positive` and `negative` or `negative_1` to `negative_n`.

They name nothing; names are digests of the content (`o1_records.content`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from o1_records.files import InputError, open_output, quoted
from o1_records.jsonl import decode_line, refuse_repeated_fields
from o1_records.keys import QueryNames, documents_of
from o1_records.lines import Refuse, checked_lines
from o1_records.types import Example, Query


def read(path: str | Path, *, refused: Refuse | None = None) -> Iterator[Example]:
    """Yield the rows of a file as examples of one positive. Raises InputError with file and line."""
    decoder = msgspec.json.Decoder(dict[str, str])
    names = QueryNames()

    def decode(line: bytes, place: str) -> Example:
        row = decode_line(decoder, line, place)
        refuse_repeated_fields(line, place)
        negatives = sorted((f for f in row if f.partition("_")[0] == "negative"), key=_number)
        if set(row) != {"anchor", "positive", *negatives}:
            raise InputError(
                f"{place}: expected anchor, positive and negatives (negative, or negative_1 and so on), "
                f"got {quoted(sorted(row))}"
            )
        return Example(
            query=Query(query_id=names.name(row["anchor"], ""), text=row["anchor"]),
            positives=documents_of([row["positive"]]),
            negatives=documents_of([row[field] for field in negatives]),
        )

    return checked_lines(path, decode, refused)


def write(path: str | Path, examples: Iterable[Example]) -> int:
    """Write a row for each positive of each example; returns the number of examples.

    An instruction goes in front of the query, a title in front of its text; names are lost.
    """
    count = 0
    with open_output(path) as file:
        for example in examples:
            count += 1
            query = example.query
            anchor = f"{query.instruction}\n{query.text}" if query.instruction else query.text
            texts = [document.full_text for document in example.negatives]
            one = len(texts) == 1
            rest = {"negative" if one else f"negative_{n}": text for n, text in enumerate(texts, start=1)}
            for positive in example.positives:
                row = {"anchor": anchor, "positive": positive.full_text, **rest}
                try:
                    file.write(msgspec.json.encode(row) + b"\n")
                except UnicodeError as error:
                    raise InputError(f"{path}: example {count}: {error}") from error
    return count


def _number(field: str) -> int:
    digits = field.partition("_")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
