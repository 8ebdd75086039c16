"""What stands for election, and the ballots that a member casts about it.

`nominate` joins queries, thoughts and positives by their ids; `cast` yields a member's ballots.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import ClassVar, TypeVar

import numpy as np

from o1_records import Ballot, Document, InputError, Qrel, Query, Record, Thought, quoted
from o1_records.types import Id, NonBlank
from o1_vote.measure import Candidate, Measure, margin_to_corpus
from o1_vote.retriever import Retriever
from o1_vote.scores import ScoreFileMember

_T = TypeVar("_T")

BLOCK = 256
"""Queries that a member sees at a time: memory stays bounded and progress can be shown."""

NO_POSITIVE = "no document is judged relevant, so thoughts cannot be compared"
NO_NEGATIVE = "no hard negative is known, so no margin to it can be measured"


@dataclasses.dataclass(frozen=True)
class Nomination:
    """A query with its candidate thoughts (possibly none) and at least one positive document."""

    query: Query
    thoughts: tuple[Thought, ...]
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a query without positives and a thought about another query."""
        name = self.query.query_id
        if not self.positives:
            raise InputError(f"query {quoted(name)} has no positive document to measure against")
        for thought in self.thoughts:
            if thought.query_id != name:
                raise InputError(
                    f"thought {quoted(thought.thought_id)} belongs to query "
                    f"{quoted(thought.query_id)}, not to {quoted(name)}"
                )


class Reason(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a query takes no part in the election."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id",)
    query_id: Id
    reason: NonBlank


def nominate(
    queries: Iterable[Query],
    thoughts: Iterable[Thought],
    qrels: Iterable[Qrel],
    documents: Iterable[Document],
) -> tuple[list[Nomination], list[Reason]]:
    """Join what belongs together; every query is nominated or has a reason why not.

    Positives are the documents of relevance 1 or more, the most relevant first. Judgements of
    queries that are not asked for are passed over, so that a sample of the queries can be elected
    with the qrels of all. Order is that of `queries`; thoughts are ordered by thought_id.

    Raises InputError for a thought of an unknown query, a positive that is not in the corpus, and
    ids that stand twice.
    """
    asked = _by_id("query", ((query.query_id, query) for query in queries))
    found = _by_id("document", ((document.doc_id, document) for document in documents))
    candidates = _thoughts_by_query(asked, thoughts)
    positives = _positives_by_query(asked, qrels, found)
    nominations, reasons = [], []
    for name, query in asked.items():
        if positives[name]:
            nominations.append(Nomination(query, candidates[name], positives[name]))
        else:
            reasons.append(Reason(query_id=name, reason=NO_POSITIVE))
    return nominations, reasons


def cast(
    nominations: Iterable[Nomination],
    member: Retriever | ScoreFileMember,
    *,
    measure: Measure = margin_to_corpus,
) -> Iterator[Ballot]:
    """Yield a member's ballots: for each query the query alone, then its thoughts.

    The raw score is kept. What a score file says is taken as it is, whatever the measure. Raises
    InputError for a score that is not finite.
    """
    remaining = iter(nominations)
    while block := list(itertools.islice(remaining, BLOCK)):
        candidates = [candidate for nomination in block for candidate in _candidates(nomination)]
        if isinstance(member, ScoreFileMember):
            scores = member.scores(candidates)
        else:
            scores = measure(member, candidates).tolist()
        for candidate, score in zip(candidates, scores, strict=True):
            yield _ballot(candidate, member.name, score)


def _candidates(nomination: Nomination) -> Iterator[Candidate]:
    for thought in (None, *nomination.thoughts):
        yield Candidate(nomination.query, thought, nomination.positives, nomination.negatives)


def _ballot(candidate: Candidate, name: str, score: float) -> Ballot:
    thought_id = candidate.thought.thought_id if candidate.thought else None
    if not np.isfinite(score):
        raise InputError(
            f"member {quoted(name)}: score {score} for query {quoted(candidate.query.query_id)}, "
            f"thought {quoted(thought_id)}"
        )
    return Ballot(query_id=candidate.query.query_id, thought_id=thought_id, retriever=name, score=score)


def _by_id(kind: str, items: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    known: dict[str, _T] = {}
    for name, item in items:
        if name in known:
            raise InputError(f"{kind} {quoted(name)} stands twice; keep one of them")
        known[name] = item
    return known


def _thoughts_by_query(
    asked: dict[str, Query], thoughts: Iterable[Thought]
) -> dict[str, tuple[Thought, ...]]:
    grouped: dict[str, dict[str, Thought]] = {name: {} for name in asked}
    for thought in thoughts:
        if thought.query_id not in asked:
            raise InputError(
                f"thought {quoted(thought.thought_id)} is about query {quoted(thought.query_id)}, "
                "which is not among the queries; give the queries that the thoughts were made for"
            )
        siblings = grouped[thought.query_id]
        if thought.thought_id in siblings:
            raise InputError(
                f"thought {quoted(thought.thought_id)} of query {quoted(thought.query_id)} "
                "stands twice; keep one of them"
            )
        siblings[thought.thought_id] = thought
    return {name: tuple(each[key] for key in sorted(each)) for name, each in grouped.items()}


def _positives_by_query(
    asked: dict[str, Query], qrels: Iterable[Qrel], found: dict[str, Document]
) -> defaultdict[str, tuple[Document, ...]]:
    grouped: defaultdict[str, list[Qrel]] = defaultdict(list)
    for qrel in qrels:
        if qrel.relevance > 0 and qrel.query_id in asked:
            grouped[qrel.query_id].append(qrel)
            if qrel.doc_id not in found:
                raise InputError(
                    f"document {quoted(qrel.doc_id)}, a positive of query "
                    f"{quoted(qrel.query_id)}, is not in the corpus"
                )
    ordered = defaultdict(tuple)
    for name, group in grouped.items():
        group.sort(key=lambda qrel: -qrel.relevance)
        ordered[name] = tuple(found[qrel.doc_id] for qrel in group)
    return ordered
