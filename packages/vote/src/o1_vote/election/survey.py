"""Counts over a whole election: who agreed with whom, who won, and how often nobody did."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from o1_vote.tally import Scores, Sheets, Verdict, first_places, krippendorff_alpha

BINS = 10
"""Of the histogram of alpha, from -1 to 1."""
DISPUTED = 10
"""Queries that are shown in full."""


class Disputed(NamedTuple):
    """One of the queries on which members agree least."""

    agreement: float
    query_id: str
    sheets: Sheets
    verdict: Verdict


class Written(NamedTuple):
    """Who wrote a thought, and how long it is."""

    model: str
    words: int


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
class Thinker:
    """Counts over the thoughts of one model; `gain` and `better` are over the query alone, by member."""

    queries: int = 0
    thoughts: int = 0
    elected: int = 0
    words: Mean = field(default_factory=Mean)
    elected_words: Mean = field(default_factory=Mean)
    gain: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    better: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))


@dataclass
class Survey:
    """Counts over queries: `add` each, and `count_thoughts` where it is known who wrote them.

    Agreement, members and scores are counted over the queries that have a thought: on the others nobody can
    disagree, and many of them would hide how the rest was decided.
    """

    queries: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    winners: dict[str, str | None] = field(default_factory=dict)
    with_winner: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    prefers_none: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    pairs: defaultdict[tuple[str, str], Mean] = field(default_factory=lambda: defaultdict(Mean))
    scores: defaultdict[tuple[str, str], Mean] = field(default_factory=lambda: defaultdict(Mean))
    alphas: Counter[int] = field(default_factory=Counter)
    alpha: Mean = field(default_factory=Mean)
    models: dict[str, Thinker] = field(default_factory=dict)
    duels: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
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
            elif "is level with" in kind:
                kind = "no thought is above the query alone"
        self.reasons[kind] += 1
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

    def count_thoughts(self, sheets: Sheets, winner: str | None, thoughts: Mapping[str, Written]) -> None:
        """Compare the models that wrote the thoughts of a query: what they gain, and who is elected."""
        own: defaultdict[str, list[str]] = defaultdict(list)
        for name, written in thoughts.items():
            own[written.model].append(name)
            thinker = self.models.setdefault(written.model, Thinker())
            thinker.thoughts += 1
            thinker.words.add(written.words)
            if name == winner:
                thinker.elected += 1
                thinker.elected_words.add(written.words)
            for member, scores in sheets.items():
                if name in scores and None in scores:
                    thinker.gain[member].add(scores[name] - scores[None])
                    thinker.better[member].add(float(scores[name] > scores[None]))
        for model in own:
            self.models[model].queries += 1
        for one, other in itertools.combinations(sorted(own), 2):
            outcome = (
                "neither" if winner is None else thoughts[winner].model if winner in thoughts else "neither"
            )
            self.duels[one, other][outcome if outcome in (one, other) else "neither"] += 1

    @property
    def disputed(self) -> Sequence[Disputed]:
        """The queries on which members agree least, the worst first."""
        return [dispute for *_, dispute in sorted(self._disputed, reverse=True)]

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
