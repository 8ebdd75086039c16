"""Exact and near-duplicates among texts, in the order in which they come.

Near-duplicates need the extra `dedup`.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from o1_records import Example, InputError, InputWarning, MissingExtraError, Record
from o1_records.jsonl import encode
from o1_records.keys import same_text
from o1_records.kit.job import Database
from o1_records.kit.text import jaccard, share_read, shingles, words
from o1_vote.curation.sieve import Kind, Place, Removal, Sieved, records_of, sieve

_PERMUTATIONS = 128
_LEAST_READ = 0.5  # of the characters of texts that are compared by their words


def _same_words(text: str) -> str:
    return " ".join(words(text))


SAME: dict[str, Callable[[str], str]] = {"text": same_text, "words": _same_words}
"""What duplicates have in common: the text but for case, white space and Unicode's forms, or the words."""


class Twin(NamedTuple):
    """The text that came before, by its name, the share of shingles in common, and whether it is the same."""

    name: str
    similarity: float
    exact: bool


class Duplicates:
    """Find for each text the one like it that came before.

    Two texts are duplicates when they are the same by `by`, a key of `SAME`, and with `near` (above 0, at
    most 1) also when they share that part of their word triples or more. MinHash finds the pairs, and every
    pair found is counted exactly; it misses some pairs just above the limit. By their words, texts without
    a word are duplicates of each other. Memory holds a digest, or a MinHash, of each text, not the text.
    """

    def __init__(self, near: float | None = None, *, by: str = "text") -> None:
        if near is not None and not 0 < near <= 1:
            raise InputError(f"near must be above 0 and at most 1, got {near}")
        if by not in SAME:
            raise InputError(f"no kind of duplicates {by!r}; there are {', '.join(SAME)}")
        self._near, self._same = near, SAME[by]
        self._exact: dict[bytes, str] = {}
        # MinHash cannot ask for all shingles in common, and need not
        self._alike: dict[bytes, str] = {}
        self._index: Any = _lsh(near) if near is not None and near < 1 else None
        self._texts = Database("", "CREATE TABLE text (name TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")

    def first(self, name: str, text: str) -> Twin | None:
        """Return the most similar of the texts before, or None; a text without a twin is remembered.

        Names are unique.
        """
        digest = _digest(self._same(text))
        if digest in self._exact:
            return Twin(self._exact[digest], 1.0, exact=True)
        twin = None if self._near is None else self._near_twin(name, text)
        if twin is None:
            self._exact[digest] = name
        return twin

    def _near_twin(self, name: str, text: str) -> Twin | None:
        own = shingles(text)
        if self._index is None:
            known = self._alike.setdefault(_digest("\n".join(sorted(own))), name)
            return None if known == name else Twin(known, 1.0, exact=False)
        sketch = _sketch(own)
        found = []
        for other in self._index.query(sketch):
            (body,) = self._texts.row("SELECT body FROM text WHERE name = ?", other)
            found.append(Twin(other, jaccard(own, shingles(body)), exact=False))
        best = min(found, key=lambda twin: (-twin.similarity, twin.name), default=None)
        if best is not None and best.similarity >= (self._near or 0):
            return best
        self._index.insert(name, sketch)
        self._texts.execute("INSERT INTO text VALUES (?, ?)", name, text)
        return None


def dedup(
    files: Sequence[str | Path],
    kind: Kind,
    *,
    out: str | Path,
    reasons: str | Path,
    near: float | None = None,
    by: str = "text",
    against: Sequence[str | Path] = (),
) -> Sieved:
    """Keep the first of each text within and across JSONL files; returns how many were kept and removed.

    Queries with different instructions are different. A removed example leaves its positives to the one that
    is kept, near-duplicate or not, and what is positive there is no negative any more.

    Args:
        files: what is compared; an earlier file's records come first.
        kind: what the files hold, a value of `KINDS`.
        out: JSONL of what is kept.
        reasons: JSONL of what is removed, and why.
        near: as in `Duplicates`.
        by: as in `Duplicates`.
        against: files whose records come before all others, and are not written.

    Raises InputError as `Duplicates` and `sieve` do.
    """
    known = Duplicates(near, by=by)
    read = _Read() if near is not None or by == "words" else None
    for place, record in records_of(against, kind):
        known.first(_named(place, kind, record), _text(kind, record))
    with _Merged() as merged:

        def judge(place: Place, record: Any) -> tuple[Record | None, Sequence[Removal]]:
            name, text = _named(place, kind, record), _text(kind, record)
            if read:
                read.add(text)
            twin = known.first(name, text)
            if twin is None:
                if not isinstance(record, Example):
                    return record, ()
                merged.keep(name, place, record)
                return None, ()
            if isinstance(record, Example):
                merged.unite(twin.name, record)
            reason = f"the same {by}" if twin.exact else "near-duplicate"
            removal = Removal(
                file=place.file,
                number=place.number,
                name=kind.name(record),
                reason=reason,
                like=twin.name,
                share=twin.similarity,
            )
            return None, (removal,)

        done = sieve(files, kind, judge, out=out, reasons=reasons, later=merged.examples)
        merged.tell(out)
    if read:
        read.tell(out)
    return done


class _Merged:
    """Examples that are kept, on the disk, so that they can get the positives of those that are removed."""

    def __init__(self) -> None:
        self._db = Database(
            "",
            "CREATE TABLE kept (name TEXT PRIMARY KEY, place INTEGER, file TEXT, number INTEGER, body BLOB)",
        )
        self._count = itertools.count()
        self._gained = self._lost = self._unscored = 0

    def __enter__(self) -> _Merged:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def keep(self, name: str, place: Place, example: Example) -> None:
        """Keep an example."""
        body = encode(example, name)
        self._db.execute("INSERT INTO kept VALUES (?,?,?,?,?)", name, next(self._count), *place, body)

    def unite(self, name: str, other: Example) -> None:
        """Give the positives of an example to the one that is kept, or count them where none is."""
        row = self._db.row("SELECT body FROM kept WHERE name = ?", name)
        if row is None:
            self._lost += len(other.positives)
            return
        kept = msgspec.json.decode(row[0], type=Example)
        mine = {same_text(document.full_text) for document in kept.positives}
        new = [place for place, d in enumerate(other.positives) if same_text(d.full_text) not in mine]
        if not new:
            return
        self._gained += len(new)
        positives = (*kept.positives, *(other.positives[place] for place in new))
        texts = {same_text(document.full_text) for document in positives}
        left = [n for n, d in enumerate(kept.negatives) if same_text(d.full_text) not in texts]
        scores: tuple[float, ...] = ()
        if kept.teacher_scores and other.teacher_scores:
            own, count = kept.teacher_scores, len(kept.positives)
            scores = (
                *own[:count],
                *(other.teacher_scores[place] for place in new),
                *(own[count + n] for n in left),
            )
        self._unscored += bool(kept.teacher_scores) and not scores
        negatives = tuple(kept.negatives[n] for n in left)
        united = msgspec.structs.replace(
            kept, positives=positives, negatives=negatives, teacher_scores=scores
        )
        self._db.execute("UPDATE kept SET body = ? WHERE name = ?", encode(united, name), name)

    def examples(self) -> Iterator[tuple[Place, Record]]:
        """Yield the examples that are kept, in their order, each with its place."""
        for file, number, body in self._db.rows("SELECT file, number, body FROM kept ORDER BY place"):
            yield Place(file, number), msgspec.json.decode(body, type=Example)

    def tell(self, out: str | Path) -> None:
        """Warn of what the removed examples had and nobody has any more, and say what was united."""
        if self._gained:
            _tell(f"{out}: examples have {self._gained} positives more, of removed ones with like queries")
        if self._unscored:
            _tell(f"{out}: {self._unscored} examples lost their teacher scores, for new positives have none")
        if self._lost:
            _tell(
                f"{out}: {self._lost} positives are removed with examples whose query has a twin in --against"
            )


class _Read:
    """How many texts are mostly no words, which is what they are compared by."""

    def __init__(self) -> None:
        self._texts = self._little = 0

    def add(self, text: str) -> None:
        self._texts += 1
        self._little += share_read([text], [words(text)]) < _LEAST_READ

    def tell(self, out: str | Path) -> None:
        if self._little:
            _tell(
                f"{out}: {self._little} of {self._texts} texts are mostly no words, and compared by the rest"
            )


def _text(kind: Kind, record: Any) -> str:
    query = record.query if isinstance(record, Example) else record
    instruction = getattr(query, "instruction", "")
    return f"{instruction}\n{kind.text(record)}" if instruction else kind.text(record)


def _named(place: Place, kind: Kind, record: Any) -> str:
    return f"{place.file}:{place.number}: {kind.name(record)}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _lsh(near: float) -> Any:
    try:
        import datasketch
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-vote", "dedup", "Finding near-duplicates") from error
    # a pair missed is worse than a pair looked at in vain
    return datasketch.MinHashLSH(threshold=near, num_perm=_PERMUTATIONS, weights=(0.2, 0.8))


def _sketch(own: frozenset[str]) -> Any:
    import datasketch

    sketch = datasketch.MinHash(num_perm=_PERMUTATIONS)
    if own:
        sketch.update_batch([shingle.encode(errors="surrogatepass") for shingle in sorted(own)])
    return sketch


def _tell(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=3)
