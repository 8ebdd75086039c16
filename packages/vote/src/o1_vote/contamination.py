"""Training texts that the test set has seen: overlap of word n-grams with queries and relevant documents."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from o1_records import InputError
from o1_vote.shingles import shingles, words


class Overlap(NamedTuple):
    """A test text, by its name, how it is found in a training text, and which share of it."""

    name: str
    kind: str
    share: float


class Holdout:
    """The texts of a test set, by name, against which training texts are held.

    A training text overlaps where it holds at least the share `contained` of the runs of `ngram` words
    of a test text (of one that has as many words), or shares at least `near` of the word triples of both.
    Both are counted exactly. Memory grows with the test texts only.
    """

    def __init__(
        self, texts: Iterable[tuple[str, str]], *, ngram: int = 8, contained: float = 0.5, near: float = 0.8
    ) -> None:
        if ngram < 1 or not 0 < contained <= 1 or not 0 < near <= 1:
            raise InputError(
                f"ngram {ngram}, contained {contained}, near {near}: 1 or more, then shares of 1"
            )
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
        """The test text that overlaps most with a training text, or None."""
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
