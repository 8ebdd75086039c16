"""From thoughts to training examples: the whole election in one call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from o1_records import Ballot, Document, Example, InputError, Qrel, Query, Thought, quoted
from o1_vote.ballot import Nomination, Reason, cast, nominate
from o1_vote.measure import Measure, margin_to_corpus
from o1_vote.retriever import Retriever
from o1_vote.tally import mean_rank

Rule: TypeAlias = Callable[[Iterable[Ballot]], Mapping[str, str | None]]
"""Map each query_id to the elected thought_id, or to None for no thought."""

CHOSEN_ON_DEV: Rule = functools.partial(mean_rank, abstain=True)
"""With `margin_to_corpus` the best of `benchmarks/vote_quality.py` on the dev queries of four collections."""


@dataclasses.dataclass(frozen=True)
class Election:
    """What an election leaves behind: every query is in `examples` or in `reasons`."""

    examples: list[Example]
    ballots: list[Ballot]
    reasons: list[Reason]


def elect(
    queries: Iterable[Query],
    thoughts: Iterable[Thought],
    *,
    qrels: Iterable[Qrel],
    documents: Iterable[Document],
    members: Sequence[Retriever],
    rule: Rule = CHOSEN_ON_DEV,
    measure: Measure = margin_to_corpus,
    progress: bool = False,
) -> Election:
    """Elect a thought for each query and write it into an example with the query's positives.

    A query without thoughts becomes an example without a thought, and so does one whose thoughts do not
    lift its positives above the rest of the corpus; a query without positives is listed with the reason.
    The paper's way is `rule=majority, measure=thought_similarity`; it never abstains, and no member has to
    score the whole corpus. `progress` as in `poll`. Raises InputError as `nominate`, `cast` and the rule do.
    """
    refuse_like_named(member.name for member in members)
    nominations, reasons = nominate(queries, thoughts, qrels, documents)
    ballots = poll(nominations, members, measure=measure, progress=progress)
    return Election(list(conclude(nominations, rule(ballots))), ballots, reasons)


def poll(
    nominations: Sequence[Nomination],
    members: Iterable[Retriever],
    *,
    measure: Measure = margin_to_corpus,
    progress: bool = False,
) -> list[Ballot]:
    """The ballots of all members, one member after another.

    `progress` shows on stderr how many ballots of how many each member has cast, by its name.
    """
    from tqdm import tqdm  # not above: `import o1_vote` stays light

    total = sum(1 + len(nomination.thoughts) for nomination in nominations)
    ballots: list[Ballot] = []
    for member in members:
        cast_now = cast(nominations, member, measure=measure)
        bar = tqdm(cast_now, desc=member.name, total=total, unit=" ballots", disable=not progress)
        ballots.extend(bar)
    return ballots


def conclude(nominations: Iterable[Nomination], winners: Mapping[str, str | None]) -> Iterator[Example]:
    """Yield the example of each nomination with the thought that won.

    Raises InputError where a query has no result or the winner is not one of its thoughts.
    """
    for nomination in nominations:
        name = nomination.query.query_id
        if name not in winners:
            raise InputError(f"query {quoted(name)} has no result; did every member vote?")
        yield Example(
            query=nomination.query,
            positives=nomination.positives,
            thought=_winner(nomination, winners[name]),
        )


def refuse_like_named(names: Iterable[str]) -> None:
    """Raise InputError for a committee without members or with two of one name."""
    listed = list(names)
    if not listed:
        raise InputError("the committee has no members; name at least one")
    for name in listed:
        if listed.count(name) > 1:
            raise InputError(f"two members are called {quoted(name)}; give each a name of its own")


def _winner(nomination: Nomination, thought_id: str | None) -> Thought | None:
    if thought_id is None:
        return None
    for thought in nomination.thoughts:
        if thought.thought_id == thought_id:
            return thought
    raise InputError(f"query {quoted(nomination.query.query_id)} has no thought {quoted(thought_id)}")
