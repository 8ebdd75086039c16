"""Counts over a whole election: who agreed with whom, who won, and how often nobody did."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from o1_records import Thought
from o1_records.kit.text import words
from o1_vote.tally import Scores, Sheets, Verdict, first_places, krippendorff_alpha

BINS = 10
"""Of the histogram of alpha, from -1 to 1."""
DISPUTED = 10
"""Queries that are shown in full."""
MOST_CANDIDATES = 10_000
"""Candidates whose wins are counted; where there are more, the rarest are dropped."""


class Disputed(NamedTuple):
    """One of the queries on which members agree least."""

    agreement: float
    query_id: str
    sheets: Sheets
    verdict: Verdict


class Mean:
    """A running mean."""

    def __init__(self) -> None:
        self.count, self._sum = 0, 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self.count += 1
        self._sum += value

    @property
    def value(self) -> float:
        """The mean so far; nan without a value."""
        return self._sum / self.count if self.count else math.nan


@dataclass
class Survey:
    """Counts over queries: `add` each, then `measure_lengths` with the thoughts.

    Agreement, members and scores are counted over the queries that have a thought: on the others nobody can
    disagree, and many of them would hide how the rest was decided.
    """

    queries: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    winners: dict[str, str | None] = field(default_factory=dict)
    wins: Counter[str] = field(default_factory=Counter)
    stood: Counter[str] = field(default_factory=Counter)
    with_winner: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    prefers_none: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    pairs: defaultdict[tuple[str, str], Mean] = field(default_factory=lambda: defaultdict(Mean))
    scores: defaultdict[tuple[str, str], Mean] = field(default_factory=lambda: defaultdict(Mean))
    alphas: Counter[int] = field(default_factory=Counter)
    alpha: Mean = field(default_factory=Mean)
    lengths: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    _disputed: list[tuple[float, int, Disputed]] = field(default_factory=list)

    def add(self, query_id: str, sheets: Sheets, verdict: Verdict) -> None:
        """Count one query."""
        self.queries += 1
        self.winners[query_id] = verdict.winner
        kind = "a thought was elected"
        if verdict.winner is None:
            kind = verdict.why.partition(":")[0]
            if "points above" in kind:
                kind = "no thought is far enough above the query alone"
        self.reasons[kind] += 1
        self._count_candidates(query_id, sheets, verdict.winner)
        if all(name is None for name in next(iter(sheets.values()))):
            return
        self.alpha.add(verdict.agreement)
        self.alphas[min(BINS - 1, max(0, math.floor((verdict.agreement + 1) / 2 * BINS)))] += 1
        for member, scores in sheets.items():
            self._count_member(member, scores, verdict.winner)
        for one, other in itertools.combinations(sorted(sheets), 2):
            self.pairs[one, other].add(krippendorff_alpha([sheets[one], sheets[other]]))
        dispute = Disputed(verdict.agreement, query_id, sheets, verdict)
        keep = heapq.heappush if len(self._disputed) < DISPUTED else heapq.heappushpop
        keep(self._disputed, (-verdict.agreement, -self.queries, dispute))

    def measure_lengths(self, thoughts: Iterable[Thought]) -> None:
        """Compare the words of elected thoughts with those of the others."""
        for thought in thoughts:
            if thought.query_id in self.winners:
                elected = self.winners[thought.query_id] == thought.thought_id
                self.lengths["elected" if elected else "not elected"].add(len(words(thought.text)))

    @property
    def disputed(self) -> Sequence[Disputed]:
        """The queries on which members agree least, the worst first."""
        return [dispute for *_, dispute in sorted(self._disputed, reverse=True)]

    def _count_candidates(self, query_id: str, sheets: Sheets, winner: str | None) -> None:
        """Count by the thought_id without the query's: o1-synth calls a thought QUERY_ID#n."""
        for name in next(iter(sheets.values())):
            if name is not None:
                shared = name.removeprefix(f"{query_id}#")
                self.stood[shared] += 1
                self.wins[shared] += name == winner
        if len(self.stood) > MOST_CANDIDATES:
            self.stood = Counter(dict(self.stood.most_common(MOST_CANDIDATES // 2)))
            self.wins = Counter({name: self.wins[name] for name in self.stood})

    def _count_member(self, member: str, scores: Scores, winner: str | None) -> None:
        if winner is not None:
            thoughts: Scores = {name: score for name, score in scores.items() if name is not None}
            self.with_winner[member].add(first_places(thoughts)[winner])
            self.scores[member, "elected"].add(scores[winner])
        if None in scores:
            self.scores[member, "query alone"].add(scores[None])
            self.prefers_none[member].add(float(scores[None] >= max(scores.values())))
        for name, score in scores.items():
            if name is not None:
                self.scores[member, "all thoughts"].add(score)
