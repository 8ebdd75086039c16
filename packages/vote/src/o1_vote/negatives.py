"""Mining hard negatives that are no false ones, by the scores of several members.

Positive-aware, as in NV-Retriever (arXiv 2407.15831): what scores too near the positive is likely to be
relevant and is left out, here by any one of the members.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, Example, InputError, quoted
from o1_vote.ballot import Nomination, Reason
from o1_vote.retriever import Retriever, Searcher
from o1_vote.shingles import jaccard, shingles
from o1_vote.tally import standard_scores

Row = NDArray[np.float32]
Teacher = Callable[[str, Sequence[str]], tuple[float, ...]]
"""Scores of the documents, by doc_id, for a text."""


@dataclass(frozen=True)
class Mining:
    """What counts as a hard negative of a query.

    Its rank, among the documents that are not known to be positive, is `first` to `last` for some
    member. For every member its score is at most that of the lowest-scored positive less `margin`,
    and at most the share `relative` (0 to 1) of it. It shares less than `near` (above 0, at most 1) of
    its shingles with every positive. The hardest `count` are taken, or with `seed` a random `count`
    that depends on the query.
    """

    count: int = 15
    first: int = 1
    last: int = 100
    margin: float | None = None
    relative: float | None = 0.95
    near: float = 0.8
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse an empty window, and limits that let through what is no negative."""
        if not 1 <= self.first <= self.last or self.count < 1:
            raise InputError(f"ranks {self.first} to {self.last} hold no {self.count} documents")
        if self.relative is not None and not 0 <= self.relative <= 1:
            raise InputError(f"relative {self.relative} is no share from 0 to 1, as 0.95")
        if not 0 < self.near <= 1:
            raise InputError(f"near {self.near} is no share above 0 and at most 1, as 0.8")
        if self.margin is not None and not math.isfinite(self.margin):
            raise InputError(f"margin {self.margin} is no distance between scores, as 0.1")


def mine(
    nominations: Sequence[Nomination],
    members: Sequence[Searcher],
    documents: Mapping[str, Document],
    mining: Mining,
    *,
    excluded: Mapping[str, Set[str]] | None = None,
    with_thought: bool = False,
    teacher: Teacher | None = None,
) -> Iterator[Example | Reason]:
    """Yield for each nomination an example with its negatives, or the reason why it has none.

    An example keeps the nomination's thought where there is exactly one; `with_thought` searches with
    query and thought. `excluded` documents of a query are never taken. Documents that tie take the
    order of hits: doc_id descending.
    """
    texts = [_text(nomination, with_thought) for nomination in nominations]
    rows = zip(*(member.corpus_scores(texts) for member in members), strict=True)
    for nomination, text, scores in zip(nominations, texts, rows, strict=True):
        name = nomination.query.query_id
        hidden = {document.doc_id for document in nomination.positives} | (excluded or {}).get(name, set())
        negatives = _negatives(nomination, members, scores, documents, mining, hidden)
        if not negatives:
            yield Reason(query_id=name, reason="no document of the window is a safe hard negative")
            continue
        judged = [document.doc_id for document in (*nomination.positives, *negatives)]
        yield Example(
            query=nomination.query,
            positives=nomination.positives,
            negatives=negatives,
            thought=nomination.thoughts[0] if len(nomination.thoughts) == 1 else None,
            teacher_scores=teacher(text, judged) if teacher else (),
        )


def committee_teacher(members: Sequence[Retriever]) -> Teacher:
    """A teacher that averages the members' standard scores over the documents of an example."""

    def teach(text: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
        pairs = [(text, doc_id) for doc_id in doc_ids]
        sheets: list[dict[str | None, float]]
        sheets = [dict(zip(doc_ids, member.similarities(pairs).tolist(), strict=True)) for member in members]
        own = [standard_scores(sheet) for sheet in sheets]
        return tuple(sum(scores[doc_id] for scores in own) / len(own) for doc_id in doc_ids)

    return teach


def _text(nomination: Nomination, with_thought: bool) -> str:
    thoughts = nomination.thoughts if with_thought else ()
    return " ".join([nomination.query.text, *(thought.text for thought in thoughts)])


def _negatives(
    nomination: Nomination,
    members: Sequence[Searcher],
    scores: Sequence[Row],
    documents: Mapping[str, Document],
    mining: Mining,
    hidden: Set[str],
) -> tuple[Document, ...]:
    windows = [_window(*each, mining, hidden) for each in zip(members, scores, strict=True)]
    in_turns = itertools.chain.from_iterable(itertools.zip_longest(*windows))
    found = list(dict.fromkeys(doc_id for doc_id in in_turns if doc_id is not None))
    if mining.seed is not None:
        random.Random(f"{mining.seed} {nomination.query.query_id}").shuffle(found)
    limits = [_limit(*each, nomination, mining) for each in zip(members, scores, strict=True)]
    safe = (
        documents[doc_id]
        for doc_id in found
        if all(row[m.row(doc_id)] <= limit for m, row, limit in zip(members, scores, limits, strict=True))
    )
    return tuple(itertools.islice(_unlike(safe, nomination.positives, mining.near), mining.count))


def _window(member: Searcher, row: Row, mining: Mining, hidden: Set[str]) -> list[str]:
    """The doc_ids at ranks first to last of those that are not hidden."""
    wanted = min(len(row), mining.last + len(hidden))
    least = np.partition(row, -wanted)[-wanted]
    places = np.flatnonzero(row >= least)
    names = member.doc_ids
    ordered = sorted(((float(row[place]), names[int(place)]) for place in places), reverse=True)
    return [name for _, name in ordered if name not in hidden][mining.first - 1 : mining.last]


def _limit(member: Searcher, row: Row, nomination: Nomination, mining: Mining) -> float:
    """What a negative may score at most."""
    try:
        positive = min(float(row[member.row(document.doc_id)]) for document in nomination.positives)
    except KeyError as error:
        raise InputError(
            f"member {quoted(member.name)}: document {quoted(error.args[0])}, a positive of query "
            f"{quoted(nomination.query.query_id)}, is not in its corpus"
        ) from None
    limit = np.inf
    if mining.margin is not None:
        limit = positive - mining.margin
    if mining.relative is not None:
        # a share of a negative score would lie above it
        limit = min(limit, positive - (1 - mining.relative) * abs(positive))
    return float(limit)


def _unlike(documents: Iterable[Document], positives: Sequence[Document], near: float) -> Iterator[Document]:
    """The documents that are no near-duplicates of a positive."""
    known = [shingles(positive.full_text) for positive in positives]
    for document in documents:
        own = shingles(document.full_text)
        if all(jaccard(own, positive) < near for positive in known):
            yield document
