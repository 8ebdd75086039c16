"""Training texts that the test set has seen: overlap of word n-grams with queries and relevant documents."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from o1_records import Example, InputError, Record, open_documents, open_qrels, open_queries, quoted
from o1_records.files import is_folder
from o1_records.kit.text import SHINGLE, is_unspaced, runs, words
from o1_vote.curation.sieve import Kind, Place, Removal, Sieved, sieve


class Overlap(NamedTuple):
    """A test text, by its name, how it is found in a training text, and which share of it."""

    name: str
    kind: str
    share: float


class Holdout:
    """The texts of a test set, by name, that training texts must not overlap.

    A training text overlaps where it holds at least the share `contained` of the runs of `ngram` words of a
    test text, all of a test text that has fewer, but at least `shortest` words, or at least `near` of the
    word triples of both. All are counted exactly. Where a script has no spaces every character is a word,
    and runs have twice as many. Memory grows with the test texts only.

    Attributes:
        short: names of the test texts with fewer words, which are found only where a text as a whole is near.
        blank: names of the test texts without a word, which cannot be found.
    """

    def __init__(
        self,
        texts: Iterable[tuple[str, str]],
        *,
        ngram: int = 8,
        shortest: int = 4,
        contained: float = 0.5,
        near: float = 0.8,
    ) -> None:
        if not 1 <= shortest <= ngram:
            raise InputError(f"lengths must be 1 <= shortest <= ngram, got {shortest} and {ngram}")
        for name, share in (("contained", contained), ("near", near)):
            if not 0 < share <= 1:
                raise InputError(f"{name} must be above 0 and at most 1, got {share}")
        self._contained, self._near = contained, near
        self._runs: dict[int, defaultdict[str, list[str]]] = {}
        self._starts: dict[int, defaultdict[str, list[tuple[str, str]]]] = {}
        self._triples: defaultdict[str, list[str]] = defaultdict(list)
        self._sizes: dict[str, tuple[int, int]] = {}
        self.short: list[str] = []
        self.blank: list[str] = []
        for name, text in texts:
            self._add(name, words(text), ngram, shortest)

    def _add(self, name: str, found: list[str], ngram: int, shortest: int) -> None:
        twice = 2 if 2 * sum(map(is_unspaced, found)) > len(found) else 1
        long, least = twice * ngram, twice * shortest
        whole: frozenset[str] = frozenset()
        if len(found) >= long:
            whole = runs(found, long)
            for run in whole:
                self._runs.setdefault(long, defaultdict(list))[run].append(name)
        elif len(found) >= least:
            start = " ".join(found[:least])
            self._starts.setdefault(least, defaultdict(list))[start].append((name, f" {' '.join(found)} "))
        else:
            (self.short if found else self.blank).append(name)
        triples = runs(found, SHINGLE)
        self._sizes[name] = (len(whole), len(triples))
        for triple in triples:
            self._triples[triple].append(name)

    def overlap(self, text: str) -> Overlap | None:
        """Return the test text that overlaps most with a training text, or None."""
        found, own = [], words(text)
        for size, known in self._runs.items():
            held = Counter(name for run in runs(own, size) for name in known.get(run, ()))
            for name, count in held.items():
                share = count / self._sizes[name][0]
                if share >= self._contained:
                    found.append(Overlap(name, "contained", share))
        for size, begun in self._starts.items():
            spaced = ""
            for start in runs(own, size):
                for name, whole in begun.get(start, ()):
                    spaced = spaced or f" {' '.join(own)} "
                    if whole in spaced:
                        found.append(Overlap(name, "contained", 1.0))
        triples = runs(own, SHINGLE)
        shared = Counter(name for triple in triples for name in self._triples.get(triple, ()))
        for name, count in shared.items():
            share = count / (len(triples) + self._sizes[name][1] - count)
            if share >= self._near:
                found.append(Overlap(name, "near-duplicate", share))
        return min(found, key=lambda each: (-each.share, each.name), default=None)


def read_test_set(
    queries: str | Path,
    qrels: str | Path | None = None,
    corpus: str | Path | None = None,
    *,
    split: str = "test",
    relevance: int = 1,
) -> Iterator[tuple[str, str]]:
    """Yield the texts of a test set by name: its queries, and with `qrels` their relevant documents.

    Args:
        queries: JSONL or a BEIR folder.
        qrels: JSONL, TREC or BEIR .tsv qrels, or a BEIR folder.
        corpus: JSONL or a BEIR folder; the folder of the queries by default.
        split: of BEIR folders.
        relevance: the lowest grade of a relevant document.

    Raises InputError where a text is missing, because it would be found in no training text: there is no
    query, no document is judged relevant, or the corpus lacks one that is.
    """
    empty = True
    for query in open_queries(queries, split):
        empty = False
        yield f"query {query.query_id}", query.text
    if empty:
        raise InputError(f"{queries}: has no test query, so nothing could be found; give another")
    if qrels is None:
        return
    if corpus is None and not is_folder(queries):
        raise InputError(f"{queries}: is no BEIR folder, so its corpus is not known; give the corpus, too")
    relevant = {qrel.doc_id for qrel in open_qrels(qrels, split) if qrel.relevance >= relevance}
    if not relevant:
        raise InputError(f"{qrels}: judges no document relevant; leave the qrels out")
    missing = set(relevant)
    for document in open_documents(corpus or queries):
        if document.doc_id in relevant:
            missing.discard(document.doc_id)
            yield f"document {document.doc_id}", document.full_text
    if missing:
        raise InputError(
            f"{corpus or queries}: lacks {len(missing)} of the {len(relevant)} relevant documents of "
            f"{qrels}, the first is {quoted(min(missing))}; give the corpus that has them"
        )


def decontaminate(
    files: Sequence[str | Path], kind: Kind, holdout: Holdout, *, out: str | Path, reasons: str | Path
) -> Sieved:
    """Remove the records that overlap with a test set; returns how many were kept and removed.

    An example is removed when its query, its thought or one of its positives overlaps; a negative that does
    is taken out of its example, with its score.

    Args:
        files: JSONL.
        kind: what the files hold, a value of `KINDS`.
        holdout: the test set.
        out: JSONL of what is kept.
        reasons: JSONL of what is removed, and why.
    """

    def judge(place: Place, record: Any) -> tuple[Record | None, Sequence[Removal]]:
        def removal(worst: Overlap, part: str = "") -> Removal:
            return Removal(
                file=place.file,
                number=place.number,
                name=kind.name(record),
                part=part,
                reason=worst.kind,
                like=worst.name,
                share=worst.share,
            )

        found = [overlap for text in _texts(record, kind) if (overlap := holdout.overlap(text))]
        if found:
            return None, (removal(max(found, key=lambda overlap: overlap.share)),)
        if not isinstance(record, Example):
            return record, ()
        bad = {
            number: overlap
            for number, document in enumerate(record.negatives)
            if (overlap := holdout.overlap(document.full_text))
        }
        removals = [
            removal(overlap, f"negative {number}: {record.negatives[number].doc_id}")
            for number, overlap in bad.items()
        ]
        return _without(record, bad) if bad else record, removals

    return sieve(files, kind, judge, out=out, reasons=reasons)


def _without(example: Example, bad: Mapping[int, object]) -> Example:
    """Return an example without some of its negatives, and their scores."""
    left = [number for number in range(len(example.negatives)) if number not in bad]
    scores, count = example.teacher_scores, len(example.positives)
    return structs.replace(
        example,
        negatives=tuple(example.negatives[number] for number in left),
        teacher_scores=(*scores[:count], *(scores[count + number] for number in left)) if scores else (),
    )


def _texts(record: Any, kind: Kind) -> list[str]:
    if not isinstance(record, Example):
        return [kind.text(record)]
    thought = [record.thought.text] if record.thought else []
    positives = (document.full_text for document in record.positives)
    reasoning = [record.reasoning_query] if record.reasoning_query else []
    return [record.query.text, *thought, *reasoning, *positives]
