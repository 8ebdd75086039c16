"""What `o1-model confirm` wrote, or `o1-model calibrate --values`: what thoughts did to each query."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from o1_records import InputError
from o1_records.mixture import Mixture


class Interval(msgspec.Struct):
    """A mean difference, and its 95 % interval."""

    mean: float
    low: float
    high: float


class Row(msgspec.Struct):
    """One way to ask: its mean, its gain over no thought, and the value of each query."""

    name: str
    kind: Literal["baseline", "system", "control"]
    mean: float
    gain: Interval
    values: list[float]


class ConfirmedQuery(msgspec.Struct):
    """What was asked, thought and found: the first ten documents by the name of a row."""

    text: str
    thoughts: list[str]
    tokens: float
    relevant: dict[str, int]
    found: dict[str, list[str]]


class Confirmed(msgspec.Struct):
    """What was measured, and how; `held_out`: each query at what is best for the other folds."""

    embedder: str
    thinker: str
    search: str
    mixture: Mixture
    document_weight: float
    calibrated_on: str
    collection: str
    split: str
    documents: int
    query_ids: list[str]
    measure: str
    rows: list[Row]
    queries: list[ConfirmedQuery] = []
    held_out: bool = False

    def main(self) -> Row:
        """Return the row of what would be used; where nothing gained, that of the thoughts."""
        names = {row.name: row for row in self.rows if row.kind == "system"}
        wanted = "mixture" if self.mixture.weight else "documents think" if self.document_weight else ""
        if self.mixture.weight and self.document_weight:
            wanted = "mixture, documents think"
        return names.get(wanted) or next(iter(names.values()))


def load_confirmed(path: str | Path) -> Confirmed | None:
    """Return what a file confirms; None for a folder, or a file of something else.

    Raises InputError for a calibration, which keeps means only, and for a file that does not say what was
    asked or lacks values.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        told = msgspec.json.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if not isinstance(told, dict):
        return None
    if "by_weight" in told and "ms_thinking" in told:
        raise InputError(
            f"{path}: a calibration keeps means, not what happened to each query; run `o1-model calibrate` "
            "again with --values FILE, which thinks about nothing again, and explore that file"
        )
    if "query_ids" not in told or "rows" not in told:
        return None
    try:
        found = msgspec.convert(told, Confirmed)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}; is this a file of `o1-model confirm`?") from error
    if not found.queries:
        raise InputError(
            f"{path}: does not say what was asked; run `o1-model confirm` again, which keeps its thoughts"
        )
    count = len(found.query_ids)
    if len(found.queries) != count or any(len(row.values) != count for row in found.rows):
        raise InputError(f"{path}: is not whole: {count} query_ids, but not as many queries and values")
    if [row.kind for row in found.rows[:2]] != ["baseline", "system"]:
        raise InputError(f"{path}: does not begin with no thought and a system; is it a file of confirm?")
    return found
