"""What a member measures about a candidate. A measure is a function, so a new one needs no change here.

Ballots keep the raw values. The gain of a thought is its value less that of the query without a thought,
which has a ballot of its own, so a rule can take either.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, quoted
from o1_records.kit.text import jaccard, shingles
from o1_vote.members.protocol import Candidate, Found, Instructable, Pair, Retriever, Searcher

Values: TypeAlias = NDArray[np.float32]

Measure: TypeAlias = Callable[[Retriever, Sequence[Candidate]], Values]
"""Scores every candidate with a member: float32 [candidates], higher is better."""

Several: TypeAlias = Callable[[Values], float]
"""Makes one value of those of several positives: `best` or `mean`."""

NEAR_COPY = 0.8
"""Jaccard similarity of word triples from which on a document is a copy of a positive, and no competitor."""
DEPTH = 1000
"""A positive that is not among so many documents has a reciprocal rank of 0."""
_WINDOW = 16
"""Documents that are searched at first for the best one that is not positive."""


def best(values: Values) -> float:
    """Return the value of the best positive."""
    return float(values.max())


def mean(values: Values) -> float:
    """Return the mean over the positives."""
    return float(values.mean())


def thought_similarity(
    member: Retriever, candidates: Sequence[Candidate], *, several: Several = best
) -> Values:
    """Return the similarity of the thought to the positives (O1 Embedder, refinement).

    Where there is no thought, that of the query.
    """
    texts = [(c.thought.text if c.thought else c.query.text) for c in candidates]
    return _over_positives(_similarities(member, candidates, texts, _positives(candidates)), several)


def query_thought_similarity(
    member: Retriever, candidates: Sequence[Candidate], *, several: Several = best
) -> Values:
    """Return the similarity of query and thought, as one text, to the positives."""
    texts = [searched(c) for c in candidates]
    return _over_positives(_similarities(member, candidates, texts, _positives(candidates)), several)


def margin_to_negatives(
    member: Retriever, candidates: Sequence[Candidate], *, several: Several = best
) -> Values:
    """Return how far query and thought put the positives above the hardest of the given negatives.

    A thought that raises the positive and a hard negative equally gains nothing. Raises InputError for a
    query without negatives.
    """
    for candidate in candidates:
        if not candidate.negatives:
            name = quoted(candidate.query.query_id)
            raise InputError(f"query {name} has no hard negatives to measure against; mine some first")
    texts = [searched(c) for c in candidates]
    hardest = _over_positives(
        _similarities(member, candidates, texts, [c.negatives for c in candidates]), best
    )
    return (
        _over_positives(_similarities(member, candidates, texts, _positives(candidates)), several) - hardest
    )


def margin_to_corpus(
    member: Retriever, candidates: Sequence[Candidate], *, several: Several = best
) -> Values:
    """Return how far query and thought put the positives above the best other document of the corpus.

    The default of an election. Near-copies of a positive and documents without a word are no competitors.
    Every member has to search its corpus for every text.
    """
    values = np.zeros(len(candidates), dtype=np.float32)
    for place, positives, others in _searched(member, candidates, enough=1):
        # without others nothing is gained
        hardest = others[0] if len(others) else positives.min()
        values[place] = several(positives) - float(hardest)
    return values


def reciprocal_rank(member: Retriever, candidates: Sequence[Candidate], *, several: Several = best) -> Values:
    """Return one over the rank at which query and thought find the positives in the corpus.

    The rank counts the documents that are no positives, nor near-copies of one, and score as high or higher.
    It is 0 where a positive does not match the text, or is not among the best 1,000.
    """
    values = np.zeros(len(candidates), dtype=np.float32)
    for place, positives, others in _searched(member, candidates, enough=DEPTH):
        above = len(others) - np.searchsorted(others[::-1], positives, side="left")
        found = (above < DEPTH) & (positives != 0)
        values[place] = several(np.where(found, 1 / (1 + above), 0).astype(np.float32))
    return values


MEASURES: dict[str, Callable[..., Values]] = {
    "thought": thought_similarity,
    "query-thought": query_thought_similarity,
    "margin": margin_to_negatives,
    "corpus-margin": margin_to_corpus,
    "reciprocal-rank": reciprocal_rank,
}
"""By the names that the command line has for them."""
OF_CORPUS = ("corpus-margin", "reciprocal-rank")
"""The measures for which members have to search."""
SEVERAL: dict[str, Several] = {"best": best, "mean": mean}


def name_of(measure: Measure) -> str:
    """Return what a measure is called, and how it takes several positives."""
    function = measure.func if isinstance(measure, functools.partial) else measure
    options = measure.keywords if isinstance(measure, functools.partial) else {}
    name = next(
        (name for name, each in MEASURES.items() if each is function), getattr(function, "__name__", "")
    )
    several = next(
        (name for name, each in SEVERAL.items() if each is options.get("several", best)), "its own"
    )
    return f"{name}, {several} of several positives"


def searched(candidate: Candidate) -> str:
    """Return the text that is searched with: query and thought."""
    query, thought = candidate.query, candidate.thought
    return f"{query.text} {thought.text}" if thought else query.text


def as_instructed(member: Retriever, instruction: str) -> Retriever:
    """Return the member as it reads texts of queries with this instruction, if it can."""
    return member.instructed(instruction) if instruction and isinstance(member, Instructable) else member


class Copies:
    """Which documents are near-copies of others; the shingles of a document are made once."""

    def __init__(self, documents: Mapping[str, Document], near: float = NEAR_COPY) -> None:
        self._documents, self._near = documents, near
        self._shingles: dict[str, frozenset[str]] = {}

    def of_any(self, doc_id: str, others: Sequence[Document]) -> bool:
        """Return whether a document shares so many shingles with one of the others, or has no word at all."""
        own = self._of(doc_id, None)
        return not own or any(jaccard(own, self._of(o.doc_id, o)) >= self._near for o in others)

    def _of(self, doc_id: str, document: Document | None) -> frozenset[str]:
        if doc_id not in self._shingles:
            self._shingles[doc_id] = shingles((document or self._documents[doc_id]).full_text)
        return self._shingles[doc_id]


def _positives(candidates: Sequence[Candidate]) -> list[tuple[Document, ...]]:
    return [c.positives for c in candidates]


def _by_instruction(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[int]]]:
    """Yield each instruction with the places of its candidates."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, candidate in enumerate(candidates):
        places[candidate.query.instruction].append(place)
    yield from places.items()


def _similarities(
    member: Retriever,
    candidates: Sequence[Candidate],
    texts: Sequence[str],
    documents: Sequence[Sequence[Document]],
) -> list[Values]:
    """Return for each text its similarities to its documents."""
    found: list[Values] = [np.zeros(0, dtype=np.float32)] * len(texts)
    for instruction, places in _by_instruction(candidates):
        pairs: list[Pair] = [(texts[place], d.doc_id) for place in places for d in documents[place]]
        ends = np.cumsum([len(documents[place]) for place in places], dtype=np.int64)
        scores = np.split(as_instructed(member, instruction).similarities(pairs), ends[:-1])
        for place, own in zip(places, scores, strict=True):
            found[place] = own
    return found


def _over_positives(values: Sequence[Values], several: Several) -> Values:
    return np.array([several(each) for each in values], dtype=np.float32)


def _searched(
    member: Retriever, candidates: Sequence[Candidate], *, enough: int
) -> Iterator[tuple[int, Values, Values]]:
    """Yield the place of each candidate, the scores of its positives, and those of the best competitors.

    Competitors come best first: one, or up to `enough` that score no less than the worst positive. Documents
    that do not match score 0. Each distinct text is searched once: two rows of one matrix product may round
    differently, and equal thoughts must tie.
    """
    if not isinstance(member, Searcher):
        raise InputError(
            f"member {quoted(member.name)} cannot search a corpus; "
            "use a measure of similarity, or the margin to given negatives"
        )
    copies = Copies(member.documents)
    positives = _similarities(member, candidates, [searched(c) for c in candidates], _positives(candidates))
    for instruction, places in _by_instruction(candidates):
        view = as_instructed(member, instruction)
        assert isinstance(view, Searcher)
        waiting: dict[str, list[int]] = {}
        for place in places:
            waiting.setdefault(searched(candidates[place]), []).append(place)
        width = enough + _WINDOW + max(len(candidates[place].positives) for place in places)
        while waiting:
            texts = list(waiting)
            for text, found in zip(texts, view.search(texts, width), strict=True):
                left = []
                for place in waiting[text]:
                    least = float(positives[place].min()) if enough > 1 else -np.inf
                    others, settled = _competitors(found, candidates[place], copies, enough, least)
                    if not settled and len(found.doc_ids) == width:  # there may be more of them below
                        left.append(place)
                        continue
                    if not settled and len(found.doc_ids) < len(member.documents):
                        others = np.append(others, np.float32(0))  # the best of those that do not match
                    yield place, positives[place], others
                waiting[text] = left
            waiting = {text: left for text, left in waiting.items() if left}
            width *= 4


def _competitors(
    found: Found, candidate: Candidate, copies: Copies, enough: int, least: float
) -> tuple[Values, bool]:
    """Return the scores of the best documents found that are neither positive, related nor near-copies.

    Also whether these are all that count: `enough`, or all that score `least` or more.
    """
    hidden = {document.doc_id for document in candidate.positives} | candidate.related
    scores: list[np.float32] = []
    settled = False
    for doc_id, score in zip(found.doc_ids, found.scores, strict=True):
        settled = len(scores) == enough or score < least
        if settled:
            break
        if doc_id not in hidden and not copies.of_any(doc_id, candidate.positives):
            scores.append(score)
    return np.array(scores, dtype=np.float32), settled or len(scores) == enough
