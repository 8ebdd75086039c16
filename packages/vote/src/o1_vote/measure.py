"""What a member measures about a candidate. A measure is a function, so a new one needs no change here.

Ballots keep the raw values. The gain of a thought is its value less that of the query without a thought,
which has a ballot of its own, so a rule can take either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, quoted
from o1_vote.members.protocol import Candidate, Retriever, Searcher

Values: TypeAlias = NDArray[np.float32]

Measure: TypeAlias = Callable[[Retriever, Sequence[Candidate]], Values]
"""Scores every candidate with a member: float32 [candidates], higher is better."""

Several: TypeAlias = Callable[[Values], float]
"""Makes one value of those of several positives: `best` or `mean`."""


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
    return _over_positives(_similarities(member, texts, [c.positives for c in candidates]), several)


def query_thought_similarity(
    member: Retriever, candidates: Sequence[Candidate], *, several: Several = best
) -> Values:
    """Return the similarity of query and thought, as one text, to the positives."""
    documents = [c.positives for c in candidates]
    return _over_positives(_similarities(member, _searched(candidates), documents), several)


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
    texts = _searched(candidates)
    hardest = _over_positives(_similarities(member, texts, [c.negatives for c in candidates]), best)
    return _over_positives(_similarities(member, texts, [c.positives for c in candidates]), several) - hardest


def margin_to_corpus(
    member: Retriever, candidates: Sequence[Candidate], *, several: Several = best
) -> Values:
    """Return how far query and thought put the positives above the best other document of the corpus.

    The default of an election. Every member has to score every document for every text.
    """
    values = np.zeros(len(candidates), dtype=np.float32)
    for place, positives, others in _corpus_scores(member, candidates):
        hardest = others.max() if len(others) else positives.min()  # without others nothing is gained
        values[place] = several(positives) - float(hardest)
    return values


def reciprocal_rank(member: Retriever, candidates: Sequence[Candidate], *, several: Several = best) -> Values:
    """Return one over the rank at which query and thought find the positives in the corpus.

    The rank counts the documents that are not positive and score as high or higher.
    """
    values = np.zeros(len(candidates), dtype=np.float32)
    for place, positives, others in _corpus_scores(member, candidates):
        above = len(others) - np.searchsorted(np.sort(others), positives, side="left")
        values[place] = several((1 / (1 + above)).astype(np.float32))
    return values


def _searched(candidates: Sequence[Candidate]) -> list[str]:
    return [(f"{c.query.text} {c.thought.text}" if c.thought else c.query.text) for c in candidates]


def _similarities(
    member: Retriever, texts: Sequence[str], documents: Sequence[Sequence[Document]]
) -> list[Values]:
    """Return for each text its similarities to its documents."""
    pairs = [(text, d.doc_id) for text, group in zip(texts, documents, strict=True) for d in group]
    ends = np.cumsum([len(group) for group in documents], dtype=np.int64)
    return np.split(member.similarities(pairs), ends[:-1]) if len(texts) else []


def _over_positives(values: Sequence[Values], several: Several) -> Values:
    return np.array([several(each) for each in values], dtype=np.float32)


def _corpus_scores(
    member: Retriever, candidates: Sequence[Candidate]
) -> Iterator[tuple[int, Values, Values]]:
    """Yield the place of each candidate, the scores of its positives and those of all other documents.

    Each distinct text is scored once: two rows of one matrix product may round differently, and equal
    thoughts must tie.
    """
    if not isinstance(member, Searcher):
        raise InputError(
            f"member {quoted(member.name)} cannot search a corpus; "
            "use a measure of similarity, or the margin to given negatives"
        )
    places: dict[str, list[int]] = {}
    for place, text in enumerate(_searched(candidates)):
        places.setdefault(text, []).append(place)
    for same, scores in zip(places.values(), member.corpus_scores(list(places)), strict=True):
        for place in same:
            own = _rows_of_positives(member, candidates[place], len(scores))
            yield place, scores[own], scores[~own]


def _rows_of_positives(member: Searcher, candidate: Candidate, documents: int) -> NDArray[np.bool_]:
    own = np.zeros(documents, dtype=np.bool_)
    for positive in candidate.positives:
        try:
            own[member.row(positive.doc_id)] = True
        except KeyError:
            raise InputError(
                f"member {quoted(member.name)}: document {quoted(positive.doc_id)} is not in its corpus"
            ) from None
    return own
