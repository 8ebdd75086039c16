"""What an index knows about its rows: their ids, their payloads, and which of them were removed.

Ids lie in a few arrays, not in a Python object each. `Documents` is immutable: a change returns a new one,
so whoever holds the old one can go on reading.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, quoted
from o1_records.files import open_input

Rows = NDArray[np.int64]
Excluded = Mapping[str, Set[str]]
"""For a query_id, the documents that are never returned for it."""
Payload = Mapping[str, Any]
"""What is stored beside a document: fields by name, any JSON values."""

# --- texts in arrays ----------------------------------------------------------------------------------


class Texts:
    """Byte strings by row, in one block of bytes and the place where each ends."""

    def __init__(self, data: bytes = b"", ends: NDArray[Any] | None = None) -> None:
        self.data = data
        self.ends = np.zeros(0, dtype=np.uint32) if ends is None else ends

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        """Put byte strings into one block."""
        ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.uint64, count=len(texts)), dtype=np.uint64)
        return cls(b"".join(texts), _narrow(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in self.ends.tolist():
            yield self.data[start:end]
            start = end

    def take(self, rows: NDArray[Any]) -> list[bytes]:
        """Return the texts of some rows."""
        ends = self.ends[rows].tolist()
        starts = np.where(rows > 0, self.ends[rows - 1], 0).tolist()
        return [self.data[start:end] for start, end in zip(starts, ends, strict=True)]

    def kept(self, keep: NDArray[np.bool_]) -> Texts:
        """Return the rows that a mask keeps."""
        return Texts.of([text for text, wanted in zip(self, keep.tolist(), strict=True) if wanted])

    def __add__(self, other: Texts) -> Texts:
        ends = np.concatenate([self.ends.astype(np.uint64), other.ends.astype(np.uint64) + len(self.data)])
        return Texts(self.data + other.data, _narrow(ends))


def _narrow(ends: NDArray[np.uint64]) -> NDArray[Any]:
    """Return numbers in 4 bytes each where they fit."""
    return ends.astype(np.uint32) if not len(ends) or ends[-1] < 2**32 else ends


_PRIME = np.uint64(0x100000001B3)
_INVERSE = np.uint64(pow(0x100000001B3, -1, 2**64))
_HASHED = 2**20  # bytes at a time


def hashes(texts: Texts) -> NDArray[np.uint64]:
    """Return a hash of 64 bits of each text, the same on every machine.

    A polynomial in the bytes, mixed (splitmix64). Equal hashes are compared byte by byte by who uses them.
    """
    found = np.empty(len(texts), dtype=np.uint64)
    ends = texts.ends.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    first = 0
    while first < len(texts):
        # as many rows as have their bytes within the limit, and at least one
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _HASHED, side="right")))
        block = np.frombuffer(texts.data, np.uint8, ends[last - 1] - starts[first], starts[first])
        with np.errstate(over="ignore"):
            powers = np.full(len(block) + 1, _PRIME, dtype=np.uint64)
            powers[0] = 1
            np.multiply.accumulate(powers, out=powers)
            sums = np.concatenate([[np.uint64(0)], np.cumsum((block + np.uint64(1)) * powers[1:])])
            begin, end = starts[first:last] - starts[first], ends[first:last] - starts[first]
            back = np.full(len(block) + 1, _INVERSE, dtype=np.uint64)
            back[0] = 1
            np.multiply.accumulate(back, out=back)
            mixed = (sums[end] - sums[begin]) * back[begin]
            mixed ^= mixed >> np.uint64(30)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(27)
            mixed *= np.uint64(0x94D049BB133111EB)
            found[first:last] = mixed ^ (mixed >> np.uint64(31))
        first = last
    return found


class Ids:
    """The ids of rows 0, 1, ..., and the rows of ids: sorted hashes, and the row of each.

    A row that was removed keeps its id here, so an id may have several rows; `find` is told which are alive.
    """

    def __init__(
        self, texts: Texts, by_hash: tuple[NDArray[np.uint64], NDArray[np.uint32]] | None = None
    ) -> None:
        self.texts = texts
        if by_hash is not None:
            self.by_hash = by_hash

    @functools.cached_property
    def by_hash(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """The hashes in ascending order, and the row of each; made when first needed."""
        unordered = hashes(self.texts)
        order = np.argsort(unordered, kind="stable").astype(np.uint32)
        return unordered[order], order

    def __len__(self) -> int:
        return len(self.texts)

    def find(self, wanted: Texts, removed: NDArray[np.bool_] | None = None) -> Rows:
        """Return the row of each wanted id, -1 where there is none that is not removed."""
        known, order = self.by_hash
        asked = hashes(wanted)
        names = list(wanted)
        found = np.full(len(asked), -1, dtype=np.int64)
        place = np.searchsorted(known, asked)
        pending = np.arange(len(asked))
        while len(pending):  # ends soon: rows of equal hash are those of one id, removed but for one
            here = place[pending]
            inside = here < len(known)
            pending, here = pending[inside], here[inside]
            equal = known[here] == asked[pending]
            pending, rows = pending[equal], order[here[equal]].astype(np.int64)
            same = np.fromiter(
                (text == names[ask] for text, ask in zip(self.texts.take(rows), pending, strict=True)),
                np.bool_,
                len(rows),
            )
            if removed is not None:
                same &= ~removed[rows]
            found[pending[same]] = rows[same]
            pending = pending[~same]
            place[pending] += 1
        return found

    def refuse_duplicates(self) -> None:
        """Raise InputError where two rows have one id."""
        known, order = self.by_hash
        shared = np.zeros(len(known), dtype=np.bool_)  # whether two rows have this hash
        shared[1:] |= known[1:] == known[:-1]
        shared[:-1] |= known[1:] == known[:-1]
        rows = np.sort(order[shared]).astype(np.int64)
        first: dict[bytes, int] = {}
        for row, text in zip(rows.tolist(), self.texts.take(rows), strict=True):
            if first.setdefault(text, row) != row:
                raise InputError(f"duplicate id {quoted(text.decode())} (rows {first[text]} and {row})")


def encoded(ids: Iterable[Any], *, first: int = 0) -> list[bytes]:
    """Return ids as UTF-8. Raises InputError for an id that is not text, by its row, counted from `first`."""
    texts = []
    for row, name in enumerate(listed(ids), start=first):
        if not isinstance(name, str) or not name:
            raise InputError(f"row {row}: id {quoted(name)} is not a non-empty string")
        try:
            texts.append(name.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"row {row}: id {quoted(name)} is not valid Unicode") from error
    return texts


def listed(ids: Iterable[Any]) -> list[Any]:
    """Return ids as a list; of a numpy array, with Python's own strings."""
    return ids.tolist() if isinstance(ids, np.ndarray) else list(refuse_text(ids, "ids"))


def refuse_text(ids: Iterable[str], what: str) -> Iterable[str]:
    """Raise InputError for a string in place of several ids: its letters would be taken for ids."""
    if isinstance(ids, str):
        raise InputError(f"{what}: {quoted(ids)} is a single string; give a list or set of ids")
    return ids


def unique(ids: Sequence[str]) -> list[str]:
    """Return ids as a list. Raises InputError for duplicate ids and ids that are not text."""
    names = listed(ids)
    encoded(names)
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if rows.setdefault(name, row) != row:
            raise InputError(f"duplicate id {quoted(name)} (rows {rows[name]} and {row})")
    return names


# --- documents ----------------------------------------------------------------------------------------


class Documents:
    """The documents of an index by row: first those of the engine, then those that were added since.

    The row of a removed document is never a hit; `count` is how many documents there are without those.
    """

    def __init__(
        self,
        ids: Ids,
        payloads: Texts | None = None,
        *,
        added: Mapping[str, int] | None = None,
        added_ids: tuple[str, ...] = (),
        added_payloads: tuple[bytes, ...] = (),
        removed: NDArray[np.bool_] | None = None,
    ) -> None:
        self.ids = ids
        self.payloads = payloads
        self.added_ids = added_ids
        self.added_payloads = added_payloads
        self.removed = removed
        rows = len(ids) + len(added_ids)
        self.count = rows - (int(np.count_nonzero(removed)) if removed is not None else 0)
        if added is None:
            places = enumerate(added_ids, start=len(ids))
            added = {name: row for row, name in places if removed is None or not removed[row]}
        self._added = added
        self._masks: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    @classmethod
    def of(cls, batches: Iterable[Sequence[str]], payloads: Iterable[Payload] | None = None) -> Documents:
        """Take the ids of rows 0, 1, ..., in batches, and a payload for each.

        Raises InputError for duplicate ids, ids that are not text, and another number of payloads.
        """
        blocks: list[Texts] = []
        rows = 0
        for batch in batches:
            blocks.append(Texts.of(encoded(batch, first=rows)))
            rows += len(blocks[-1])
        ids = Ids(_joined(blocks))
        ids.refuse_duplicates()
        return cls(ids, None if payloads is None else Texts.of(encoded_payloads(payloads, rows)))

    def __len__(self) -> int:
        return len(self.ids) + len(self.added_ids)

    def __contains__(self, name: str) -> bool:
        return bool(self.rows([name])[0] >= 0)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of the documents that are not removed, row by row."""
        every = [text.decode() for text in self.ids.texts] + list(self.added_ids)
        if self.removed is None:
            return iter(every)
        return (name for name, gone in zip(every, self.removed.tolist(), strict=True) if not gone)

    def texts(self, rows: Rows) -> NDArray[np.object_]:
        """Return the ids of rows [any]."""
        rows = np.asarray(rows, dtype=np.int64)
        names: NDArray[np.object_] = np.empty(len(rows), dtype=object)
        old = rows < len(self.ids)
        names[old] = [text.decode() for text in self.ids.texts.take(rows[old])]
        if not old.all():
            names[~old] = [self.added_ids[row] for row in (rows[~old] - len(self.ids)).tolist()]
        return names

    def rows(self, names: Sequence[str]) -> Rows:
        """Return the row of each id, -1 where there is none."""
        found = self.ids.find(Texts.of(encoded(names)), self.removed)
        if self._added:
            for place, name in enumerate(names):
                row = self._added.get(name, -1)
                if row >= 0:
                    found[place] = row
        return found

    def payload(self, row: int) -> dict[str, Any]:
        """Return what is stored beside the document of a row; empty where nothing is."""
        if row >= len(self.ids):
            text = self.added_payloads[row - len(self.ids)] if self.added_payloads else b""
        else:
            text = b"" if self.payloads is None else self.payloads.take(np.array([row]))[0]
        return msgspec.json.decode(text, type=dict[str, Any]) if text else {}

    # --- changing -------------------------------------------------------------------------------------

    def extended(self, ids: Sequence[str], payloads: Sequence[Payload] | None = None) -> Documents:
        """Return these documents and further rows. Raises InputError for ids that are there already."""
        names = unique(ids)
        known = np.flatnonzero(self.rows(names) >= 0)
        if len(known):
            named = quoted([names[place] for place in known[:10]])
            raise InputError(f"{len(known)} ids are in the index already: {named}; upsert replaces them")
        stored = self.added_payloads
        if payloads is not None or stored:
            before = stored or (b"",) * len(self.added_ids)
            more = [b""] * len(names) if payloads is None else encoded_payloads(payloads, len(names))
            stored = (*before, *more)
        removed = self.removed
        if removed is not None:
            removed = np.concatenate([removed, np.zeros(len(names), dtype=np.bool_)])
        added = dict(self._added)
        added.update(zip(names, range(len(self), len(self) + len(names)), strict=True))
        return self._with(
            added=added, added_ids=(*self.added_ids, *names), added_payloads=stored, removed=removed
        )

    @staticmethod
    def refuse_new(ids: Sequence[str], payloads: Sequence[Payload] | None) -> None:
        """Raise InputError for ids and payloads that no index takes."""
        names = unique(ids)
        if payloads is not None:
            encoded_payloads(payloads, len(names))

    def shared_with(self, other: Documents) -> list[str]:
        """Return the ids that both have, of documents that are not removed."""
        mine, others = self.compacted(), other.compacted()
        both = np.intersect1d(mine.ids.by_hash[0], others.ids.by_hash[0])
        rows = mine.ids.by_hash[1][np.searchsorted(mine.ids.by_hash[0], both)].astype(np.int64)
        return [name for name in sorted(mine.texts(rows).tolist()) if name in others]

    def without(self, ids: Iterable[str]) -> Documents:
        """Return these documents without some. Raises InputError for ids that are not there."""
        gone = sorted(set(refuse_text(ids, "ids")))
        rows = self.rows(gone)
        unknown = [gone[place] for place in np.flatnonzero(rows < 0)[:10]]
        if unknown:
            count = int((rows < 0).sum())
            raise InputError(f"{count} ids are not in the index: {quoted(unknown)}")
        removed = np.zeros(len(self), dtype=np.bool_) if self.removed is None else self.removed.copy()
        removed[rows] = True
        added = {name: row for name, row in self._added.items() if not removed[row]}
        return self._with(added=added, removed=removed if gone else self.removed)

    def folded(self) -> Documents:
        """Return the same rows, all of them as rows of the engine."""
        if not self.added_ids:
            return self
        more = Ids(Texts.of([name.encode() for name in self.added_ids]))
        payloads = self.payloads
        if payloads is not None or self.added_payloads:
            old = payloads if payloads is not None else Texts.of([b""] * len(self.ids))
            payloads = old + Texts.of(self.added_payloads or (b"",) * len(self.added_ids))
        known, order = self.ids.by_hash
        new, new_order = more.by_hash
        places = np.searchsorted(known, new, side="right")
        by_hash = (
            np.insert(known, places, new),
            np.insert(order, places, new_order + np.uint32(len(self.ids))),
        )
        return Documents(Ids(self.ids.texts + more.texts, by_hash), payloads, removed=self.removed)

    def compacted(self) -> Documents:
        """Return the documents that are not removed, as rows 0, 1, ... of the engine."""
        folded = self.folded()
        if folded.removed is None:
            return folded
        keep = ~folded.removed
        payloads = None if folded.payloads is None else folded.payloads.kept(keep)
        return Documents(Ids(folded.ids.texts.kept(keep)), payloads)

    def _with(self, **changes: Any) -> Documents:
        fields = {
            "added": self._added,
            "added_ids": self.added_ids,
            "added_payloads": self.added_payloads,
            "removed": self.removed,
        }
        return Documents(self.ids, self.payloads, **{**fields, **changes})

    # --- filters --------------------------------------------------------------------------------------

    def banned_rows(self, query_id: str, excluded: Excluded | None) -> list[int]:
        """Return the rows of the documents that are excluded for a query, of those in the index."""
        names = sorted(refuse_text((excluded or {}).get(query_id, ()), "excluded documents"))
        rows = self.rows(names) if names else np.zeros(0, dtype=np.int64)
        found: list[int] = rows[rows >= 0].tolist()
        return found

    def allowed(self, only: Set[str] | None = None, where: Where | None = None) -> NDArray[np.bool_] | None:
        """Return which rows may be hits; None where all may be.

        Raises InputError for a filter that cannot be read, and for one on an index without payloads.
        """
        if only is None and where is None:
            return None if self.removed is None else ~self.removed
        mask = np.ones(len(self), dtype=np.bool_) if self.removed is None else ~self.removed
        if only is not None:
            rows = self.rows(list(refuse_text(only, "only")))
            chosen = np.zeros(len(self), dtype=np.bool_)
            chosen[rows[rows >= 0]] = True
            mask &= chosen
        return mask if where is None else mask & self._matching(where)

    def _matching(self, where: Where) -> NDArray[np.bool_]:
        if self.payloads is None and not self.added_payloads and len(self):
            raise InputError(
                "the index has no payloads to filter by; give them with the documents, or leave `where` out"
            )
        key = None if callable(where) else (where,) if isinstance(where, str) else tuple(where)
        if key is not None and key in self._masks:
            return self._masks[key]
        matches = condition(where)
        old = self.payloads if self.payloads is not None else Texts.of([b""] * len(self.ids))
        texts = [*old, *(self.added_payloads or (b"",) * len(self.added_ids))]
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        mask = np.fromiter((matches(decode(text) if text else {}) for text in texts), np.bool_, len(texts))
        if key is not None:
            self._masks[key] = mask  # of one filter at a time: another thread's may be dropped
            for other in list(self._masks)[:-1]:
                self._masks.pop(other, None)
        return mask


def _joined(blocks: Sequence[Texts]) -> Texts:
    if len(blocks) == 1:
        return blocks[0]
    ends, base = [np.zeros(0, dtype=np.uint64)], 0
    for block in blocks:
        ends.append(block.ends.astype(np.uint64) + np.uint64(base))
        base += len(block.data)
    return Texts(b"".join(block.data for block in blocks), _narrow(np.concatenate(ends)))


def encoded_payloads(payloads: Iterable[Payload], rows: int) -> list[bytes]:
    """Return payloads as JSON, b"" for an empty one. Raises InputError for what is no object, by its row."""
    texts = []
    for row, payload in enumerate(payloads):
        if not isinstance(payload, Mapping):
            raise InputError(f"row {row}: payload {quoted(payload)} is not an object of fields")
        try:
            text = msgspec.json.encode(dict(payload))
            msgspec.json.decode(text, type=dict[str, Any])
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise InputError(f"row {row}: payload {quoted(payload)}: {error}") from error
        texts.append(text if payload else b"")
    if len(texts) != rows:
        raise InputError(f"{rows} ids but {len(texts)} payloads; give one for each")
    return texts


def read_payloads(path: str | Path, ids: Sequence[str], *, others: bool = False) -> Iterator[Payload]:
    """Yield what a JSONL file has for each document, in the order of the ids.

    With `others` it may have more documents than these.

    Raises InputError for a line that is no object with a doc_id (or _id), for one that is repeated, and for
    documents that have none.
    """
    lines: dict[str, bytes] = {}
    with open_input(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
                key = "doc_id" if "doc_id" in fields else "_id"
                name = msgspec.json.decode(fields.pop(key), type=str)
            except (msgspec.MsgspecError, UnicodeError, KeyError) as error:
                raise InputError(f"{path}:{number}: not an object with a doc_id: {error}") from error
            if name in lines:
                raise InputError(f"{path}:{number}: duplicate doc_id {quoted(name)}; keep one of them")
            lines[name] = msgspec.json.encode(fields)
    missing = [name for name in ids if name not in lines]
    if missing:
        raise InputError(
            f"{path}: nothing for {len(missing)} documents, such as {missing[:10]}; give them all"
        )
    unknown = len(lines) - len(set(ids))
    if unknown and not others:
        raise InputError(f"{path}: {unknown} of its documents have no vectors; leave them out")
    return (msgspec.json.decode(lines[name], type=dict[str, Any]) for name in ids)


# --- conditions on payloads ---------------------------------------------------------------------------

Condition = Callable[[Payload], bool]
Where = str | Sequence[str] | Condition
"""A filter on payloads: `"year >= 2020"`, several of which all hold, or a function of the payload."""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WHERE = re.compile(
    r"\s*(?P<field>[^\s=<>!]+)\s*(?P<how>==|=|!=|<=|>=|<|>|\bin\b)\s*(?P<value>.*\S)\s*", re.DOTALL
)


class Comparison(NamedTuple):
    """One comparison of a filter: a field, one of = != < <= > >= in, and a value (of "in", a list)."""

    field: str
    how: str
    value: Any

    def matches(self, payload: Payload) -> bool:
        """Return whether a payload passes.

        A field that is absent or of another type does not; of a list, one element that does is enough.
        """
        if self.field not in payload:
            return False
        value = payload[self.field]
        elements = value if isinstance(value, list) else [value]
        wanted = self.value if self.how == "in" else [self.value]
        compare = _OPERATORS["=" if self.how == "in" else self.how]
        return any(_comparable(one, two) and compare(one, two) for one in elements for two in wanted)


def _comparable(one: Any, two: Any) -> bool:
    """Return whether two JSON values have an order: two numbers, two texts, true and false."""
    return _kind(one) is _kind(two) and _kind(one) is not None


def _kind(value: Any) -> type | None:
    return {int: float, float: float, str: str, bool: bool}.get(type(value))


def comparisons(where: str | Sequence[str]) -> list[Comparison]:
    """Return the comparisons of a filter, all of which have to hold.

    A value is JSON, or else plain text: `lang = en`, `year >= 2020`, `lang in ["en", "de"]`.

    Raises InputError for text that is not such a filter.
    """
    return [_comparison(text) for text in ([where] if isinstance(where, str) else where)]


def condition(where: Where) -> Condition:
    """Return a filter as a function of a payload. Raises InputError as `comparisons` does."""
    if callable(where):
        return where
    tests = comparisons(where)
    return lambda payload: all(test.matches(payload) for test in tests)


def _comparison(text: str) -> Comparison:
    match = _WHERE.fullmatch(text)
    if match is None:
        raise InputError(
            f"filter {quoted(text)}: give a field, one of {' '.join(_OPERATORS)} in, and a value, such as "
            "'year >= 2020'"
        )
    try:
        wanted = msgspec.json.decode(match["value"])
    except msgspec.DecodeError:
        wanted = match["value"]
    how = "=" if match["how"] == "==" else match["how"]
    if how == "in" and not (isinstance(wanted, list) and wanted):
        raise InputError(f'filter {quoted(text)}: give a list after \'in\', such as ["en", "de"]')
    for value in wanted if how == "in" else [wanted]:
        if _kind(value) is None:
            raise InputError(
                f"filter {quoted(text)}: compare with numbers, texts, true or false, not with {quoted(value)}"
            )
    return Comparison(match["field"], how, wanted)
