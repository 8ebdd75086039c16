"""Training texts that the test set has seen: overlap of word n-grams with queries and relevant documents."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from o1_records import Example, InputError, open_documents, open_qrels, open_queries, quoted
from o1_records.kit.text import shingles, words
from o1_vote.curation.sieve import Kind, Removal, Sieved, sieve


class Overlap(NamedTuple):
    """A test text, by its name, how it is found in a training text, and which share of it."""

    name: str
    kind: str
    share: float


class Holdout:
    """The texts of a test set, by name, that training texts must not overlap.

    A training text overlaps where it holds at least the share `contained` of the runs of `ngram` words
    of a test text (of one that has as many words), or shares at least `near` of the word triples of both.
    Both are counted exactly. Memory grows with the test texts only.
    """

    def __init__(
        self, texts: Iterable[tuple[str, str]], *, ngram: int = 8, contained: float = 0.5, near: float = 0.8
    ) -> None:
        if ngram < 1:
            raise InputError(f"ngram must be 1 or more, got {ngram}")
        for name, share in (("contained", contained), ("near", near)):
            if not 0 < share <= 1:
                raise InputError(f"{name} must be above 0 and at most 1, got {share}")
        self._ngram, self._contained, self._near = ngram, contained, near
        self._runs: defaultdict[str, list[str]] = defaultdict(list)
        self._triples: defaultdict[str, list[str]] = defaultdict(list)
        self._sizes: dict[str, tuple[int, int]] = {}
        for name, text in texts:
            runs = shingles(text, ngram) if len(words(text)) >= ngram else frozenset[str]()
            triples = shingles(text)
            self._sizes[name] = (len(runs), len(triples))
            for index, parts in ((self._runs, runs), (self._triples, triples)):
                for part in parts:
                    index[part].append(name)

    def overlap(self, text: str) -> Overlap | None:
        """Return the test text that overlaps most with a training text, or None."""
        found = []
        held = Counter(name for run in shingles(text, self._ngram) for name in self._runs.get(run, ()))
        for name, count in held.items():
            share = count / self._sizes[name][0]
            if share >= self._contained:
                found.append(Overlap(name, "contained", share))
        triples = shingles(text)
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
) -> Iterator[tuple[str, str]]:
    """Yield the texts of a test set by name: its queries, and with `qrels` their relevant documents.

    Args:
        queries: JSONL or a BEIR folder.
        qrels: JSONL, TREC or BEIR .tsv qrels, or a BEIR folder.
        corpus: JSONL or a BEIR folder; the folder of the queries by default.
        split: of BEIR folders.

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
    relevant = {qrel.doc_id for qrel in open_qrels(qrels, split) if qrel.relevance > 0}
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

    An example is removed when its query, its thought or one of its positives overlaps.

    Args:
        files: JSONL.
        kind: what the files hold, a value of `KINDS`.
        holdout: the test set.
        out: JSONL of what is kept.
        reasons: JSONL of what is removed, and why.
    """

    def judge(file: str, record: Any) -> Removal | None:
        found = [overlap for text in _texts(record, kind) if (overlap := holdout.overlap(text))]
        if not found:
            return None
        worst = max(found, key=lambda overlap: overlap.share)
        name = kind.name(record)
        return Removal(file=file, name=name, reason=worst.kind, like=worst.name, share=worst.share)

    return sieve(files, kind, judge, out=out, reasons=reasons)


def _texts(record: Any, kind: Kind) -> list[str]:
    if not isinstance(record, Example):
        return [kind.text(record)]
    thought = [record.thought.text] if record.thought else []
    return [record.query.text, *thought, *(document.full_text for document in record.positives)]
