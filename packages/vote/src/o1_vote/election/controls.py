"""Thoughts without content, measured beside the others: what a member's score owes to noise.

Any text that is added to a query moves a score a little, and half of the time upwards, so that every second
filler would be elected. So members also measure the query said twice, sentences that say nothing, and
thoughts about other queries. What 99 of 100 of these gain at most is the member's tolerance: scores that are
no further from that of the query alone count as equal to it (`o1_vote.tally`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from o1_records import InputError, Source, Thought, quoted
from o1_vote.election.nominate import Nomination, candidate_of
from o1_vote.measure import Measure
from o1_vote.members.protocol import Retriever
from o1_vote.settings import Outcome
from o1_vote.tally import Counting, Scores

SAMPLE = 200
"""Queries on which controls are measured, evenly spread over the election."""
SHARE = 0.99
"""Of the controls of a kind that a tolerance levels with the query alone."""
FILLERS = {
    "filler": "Let me think about this for a moment.",
    "long filler": "This is an interesting question and there are many things to consider.",
}
COPY, OTHER = "the query again", "another query's thought"
KINDS = (COPY, *FILLERS, OTHER)

Measured = dict[str, dict[str | None, float]]
"""Scores by query_id and kind of control; None is the query alone."""


def places(count: int) -> list[int]:
    """Return the places of the queries that controls are measured on, of `count`."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(SAMPLE, count))}) if count else []


def measured(nominations: Sequence[Nomination], member: Retriever, measure: Measure) -> Measured:
    """Return what a member says of controls of queries; raise InputError for a score that is not finite."""
    candidates, keys = [], []
    thinking = [nomination for nomination in nominations if nomination.thoughts]
    for number, nomination in enumerate(nominations):
        texts = {COPY: nomination.query.text, **FILLERS}
        # the next in turn, so that a thought is as long as thoughts are here
        others = [n for n in thinking if n.query.query_id != nomination.query.query_id]
        if others:
            texts[OTHER] = others[number % len(others)].thoughts[0].text
        thoughts = {kind: _control(nomination, kind, text) for kind, text in texts.items() if text.strip()}
        for thought in (None, *thoughts.values()):
            candidates.append(candidate_of(nomination, thought))
            keys.append((nomination.query.query_id, thought.thought_id if thought else None))
    found: Measured = {}
    for (query_id, kind), score in zip(keys, measure(member, candidates).tolist(), strict=True):
        if not np.isfinite(score):
            raise InputError(
                f"member {quoted(member.name)}: score {score} for query {quoted(query_id)}, {kind or 'alone'}"
            )
        found.setdefault(query_id, {})[kind] = score
    return found


def tolerance_of(measured: Measured) -> float:
    """Return the largest of the gains that `SHARE` of the controls of a kind have at most; 0 at least."""
    gains: dict[str, list[float]] = {}
    for scores in measured.values():
        for kind, score in scores.items():
            if kind is not None:
                gains.setdefault(kind, []).append(score - scores[None])
    return max([0.0, *(float(np.quantile(own, SHARE)) for own in gains.values())])


def outcomes(by_member: Mapping[str, Measured], counting: Counting) -> dict[str, Outcome]:
    """Return for each kind of control how often it would have won as the only thought of its query."""
    plain = dataclasses.replace(counting, tolerance={})
    found = {}
    for kind in KINDS:
        asked = [name for name, own in next(iter(by_member.values()), {}).items() if kind in own]
        if asked:
            won, without = (
                sum(_won(by_member, name, kind, how) for name in asked) for how in (counting, plain)
            )
            found[kind] = Outcome(len(asked), won, without)
    return found


def _control(nomination: Nomination, kind: str, text: str) -> Thought:
    name = nomination.query.query_id
    return Thought(query_id=name, thought_id=kind, text=text, source=Source(model="control"))


def _won(by_member: Mapping[str, Measured], query_id: str, kind: str, counting: Counting) -> bool:
    sheets: dict[str, Scores] = {
        member: {None: scores[query_id][None], kind: scores[query_id][kind]}
        for member, scores in by_member.items()
    }
    return counting.decide(sheets).winner is not None
