"""Turning ballots into winners. Pure functions; no models here.

A winner is a thought_id, or None for the query without a thought. Ties go to the smaller thought_id, and None
counts as the smallest: a rerun elects the same thought.

A rule is a function of what one member said of the candidates of one query; its points are averaged
over the members. All rules but `z_scores` and `softmax_sum` depend only on each member's order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict, Unpack

from o1_records import Ballot, InputError, quoted
from o1_records.kit.fusion import standard_scores

Winners: TypeAlias = dict[str, str | None]
Scores: TypeAlias = Mapping[str | None, float]
Points: TypeAlias = Callable[[Scores], dict[str | None, float]]
Sheets: TypeAlias = Mapping[str, Scores]
"""What each member, by name, said of the candidates of one query."""

_DIGITS = 9
"""Sums that agree to so many digits tie: rounding errors decide no election."""
RRF_K = 60
"""Cormack, Clarke and Büttcher 2009."""


class Terms(TypedDict, total=False):
    """What every rule can be told.

    abstain: the query without a thought (None) is a candidate too; otherwise it wins only where there is no
        thought.
    margin: with `abstain`, how many points (a mean over the members, in the unit of the rule) the best
        thought must be above the query alone; 0 by default, and a tie is not enough.
    least_agreement: None wins where Krippendorff's alpha of the members is lower.
    weights: of members by name, 1 by default; only their proportions count.
    tolerance: with `abstain`, by member: scores that differ by no more from that of the query alone count as
        equal to it, because thoughts without content move a score so far (`o1_vote.election.controls`).
    """

    abstain: bool
    margin: float
    least_agreement: float | None
    weights: Mapping[str, float]
    tolerance: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """How one query was decided; `points` are means over the members, by candidate."""

    winner: str | None
    points: dict[str | None, float]
    agreement: float
    why: str


# --- rules --------------------------------------------------------------------------------------------


def majority(ballots: Iterable[Ballot], **terms: Unpack[Terms]) -> Winners:
    """Map each query_id to the thought_id that most members put first (O1 Embedder's rule).

    A member that puts several first votes for each of them. A point is a member. Raises InputError
    for a repeated ballot and for members that judged different candidates; so do all rules.
    """
    return winners(ballots, first_places, **terms)


def mean_rank(ballots: Iterable[Ballot], **terms: Unpack[Terms]) -> Winners:
    """Map each query_id to the thought_id with the best mean rank over the members.

    Equal scores share the mean of their ranks. Borda's count elects the same. A point is a rank.
    """
    return winners(ballots, borda_points, **terms)


def reciprocal_rank_fusion(ballots: Iterable[Ballot], **terms: Unpack[Terms]) -> Winners:
    """Elect by the sum of 1 / (60 + rank) over the members; equal scores share their mean rank."""
    return winners(ballots, reciprocal_points, **terms)


def z_scores(ballots: Iterable[Ballot], **terms: Unpack[Terms]) -> Winners:
    """Elect by the mean of standard scores, taken over the candidates of a query.

    A point is a standard deviation. How much better a candidate is counts, whatever the scale of a member.
    Not monotone: a candidate raised far above the others widens the deviation that it is measured in.
    """
    return winners(ballots, standard_scores, **terms)


def softmax_sum(ballots: Iterable[Ballot], **terms: Unpack[Terms]) -> Winners:
    """Elect by the sum of softmaxes of raw scores: the public script's rule, for comparison.

    The member with the largest scale (BM25) decides alone.
    """
    return winners(ballots, softmax, **terms)


def winners(ballots: Iterable[Ballot], points: Points, **terms: Unpack[Terms]) -> Winners:
    """Map each query_id to its winner, given the points of a rule."""
    return {name: verdict.winner for name, verdict in verdicts(ballots, points, **terms).items()}


def verdicts(ballots: Iterable[Ballot], points: Points, **terms: Unpack[Terms]) -> dict[str, Verdict]:
    """Map each query_id to how it was decided."""
    return {name: decide(sheets, points, **terms) for name, sheets in sheets_of(ballots).items()}


def decide(sheets: Sheets, points: Points, **terms: Unpack[Terms]) -> Verdict:
    """Decide one query."""
    abstain, margin = terms.get("abstain", False), terms.get("margin", 0.0)
    tolerance = terms.get("tolerance", {}) if abstain else {}
    level = {member: _level(scores, tolerance.get(member, 0.0)) for member, scores in sheets.items()}
    standing = {member: _standing(scores, abstain) for member, scores in level.items()}
    totals = _mean_points(standing, points, terms.get("weights", {}))
    agreement = krippendorff_alpha(list(standing.values()))
    best = min(totals, key=lambda name: (-totals[name], name or ""))
    least = terms.get("least_agreement")
    level_with = [quoted(name) for name in totals if name is not None and totals[name] == totals[best]]
    if best is None and level_with:
        why = f"the query alone is level with {', '.join(sorted(level_with))}, and a tie is not enough"
    elif best is None:
        why = "the query alone has the most points" if len(totals) > 1 else "there is no thought"
    elif least is not None and agreement < least:
        best, why = None, f"the members disagree: alpha {agreement:.3f} is below {least}"
    elif abstain and totals[best] - totals[None] < margin:
        gain = totals[best] - totals[None]
        best, why = None, f"{quoted(best)} is {gain:.3g} points above the query alone, less than {margin:g}"
    else:
        tie = len(level_with) > 1
        why = (
            f"the smallest id of {len(level_with)} that tie for the most points" if tie else "the most points"
        )
    return Verdict(best, totals, agreement, why)


@dataclass(frozen=True)
class Counting:
    """How ballots are counted: a rule by its name, and its terms. Call it as a rule.

    Attributes:
        rule: one of `RULES`.
        abstain: as in `Terms`, and so are the others.
        margin: with `abstain`.
        least_agreement: None asks for none.
        weights: by member.
        tolerance: by member; `elect` measures it where its `controls` are on.
    """

    rule: str = "mean-rank"
    abstain: bool = True
    margin: float = 0.0
    least_agreement: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an unknown rule, terms that are no numbers, and terms without effect."""
        if self.rule not in RULES:
            raise InputError(f"no rule {quoted(self.rule)}; there are {', '.join(RULES)}")
        for name in ("margin", "least_agreement"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value}")
        if self.margin and not self.abstain:
            raise InputError("margin has no effect without abstain; leave one of them out")
        if bad := {name: weight for name, weight in self.weights.items() if not weight >= 0}:
            raise InputError(f"weights must be 0 or more, got {bad}")
        if self.weights and not any(self.weights.values()):
            raise InputError("no weight is above 0, so no vote would count")

    def __call__(self, ballots: Iterable[Ballot]) -> Winners:
        """Map each query_id to its winner."""
        return {name: self.decide(sheets).winner for name, sheets in sheets_of(ballots).items()}

    def decide(self, sheets: Sheets) -> Verdict:
        """Decide one query."""
        return decide(
            sheets,
            RULES[self.rule],
            abstain=self.abstain,
            margin=self.margin,
            least_agreement=self.least_agreement,
            weights=self.weights,
            tolerance=self.tolerance,
        )

    def __str__(self) -> str:
        """The rule and the terms that are not as they are by default, as on the command line."""
        words = [self.rule if self.abstain else f"{self.rule} --no-abstain"]
        words += [f"--margin {self.margin:g}"] if self.margin else []
        if self.least_agreement is not None:
            words.append(f"--least-agreement {self.least_agreement:g}")
        words += [f"weight of {name} {weight:g}" for name, weight in sorted(self.weights.items())]
        return ", ".join(words)


def refuse_weights_of_nobody(weights: Mapping[str, float], names: Iterable[str]) -> None:
    """Raise InputError for a weight whose member is none of `names`."""
    known = list(names)
    if strangers := sorted(set(weights) - set(known)):
        there = f"the members are {', '.join(known)}" if known else "there are no members"
        raise InputError(f"weights: no member is called {quoted(strangers[0])}; {there}")


# --- points: what one member's scores are worth -------------------------------------------------------


def first_places(scores: Scores) -> dict[str | None, float]:
    """Return 1 for each of the best candidates, 0 for the others."""
    best = max(scores.values())
    return {name: float(score == best) for name, score in scores.items()}


def borda_points(scores: Scores) -> dict[str | None, float]:
    """Return how many candidates each beats; ties count half."""
    return {name: len(scores) - rank for name, rank in ranks(scores).items()}


def reciprocal_points(scores: Scores) -> dict[str | None, float]:
    """Return 1 / (60 + rank)."""
    return {name: 1 / (RRF_K + rank) for name, rank in ranks(scores).items()}


def softmax(scores: Scores) -> dict[str | None, float]:
    """Return the softmax of the raw scores."""
    best = max(scores.values())
    powers = {name: math.exp(score - best) for name, score in scores.items()}
    total = math.fsum(powers.values())
    return {name: power / total for name, power in powers.items()}


def ranks(scores: Scores) -> dict[str | None, float]:
    """Return the rank of each candidate, 1 for the best; equal scores share the mean of their ranks."""
    ordered = sorted(scores.values(), reverse=True)
    first = {score: place for place, score in reversed(list(enumerate(ordered, start=1)))}
    return {name: first[score] + (ordered.count(score) - 1) / 2 for name, score in scores.items()}


RULES: dict[str, Points] = {
    "majority": first_places,
    "mean-rank": borda_points,
    "borda": borda_points,
    "rrf": reciprocal_points,
    "z-scores": standard_scores,
    "softmax-sum": softmax,
}
"""How the points of each rule are given, by its name on the command line."""


# --- agreement ----------------------------------------------------------------------------------------


def krippendorff_alpha(sheets: Sequence[Scores]) -> float:
    """Return Krippendorff's alpha of the ranks that members gave to the same candidates.

    1 is full agreement, 0 what chance would give, and it can be negative. The difference of two ranks
    is squared (his interval metric). It is 1 where nobody can disagree: one member, or only ties.
    """
    rows = [ranks(scores) for scores in sheets]
    names = list(rows[0])
    count = len(rows) * len(names)
    if len(rows) < 2:
        return 1.0
    observed = math.fsum(
        (one[name] - other[name]) ** 2 for name in names for one, other in itertools.combinations(rows, 2)
    ) / (len(names) * len(rows) * (len(rows) - 1) / 2)
    values = [row[name] for row in rows for name in names]
    mean = math.fsum(values) / count
    # half the mean squared difference of two values is their sample variance
    expected = 2 * math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return 1.0 if expected == 0 else 1 - observed / expected


# --- ballots ------------------------------------------------------------------------------------------


def sheets_of(ballots: Iterable[Ballot]) -> dict[str, dict[str, dict[str | None, float]]]:
    """Return the scores by query, member and candidate.

    Raises InputError for a repeated ballot, and where members of a query judged different candidates.
    """
    queries: dict[str, dict[str, dict[str | None, float]]] = {}
    for ballot in ballots:
        sheet = queries.setdefault(ballot.query_id, {}).setdefault(ballot.retriever, {})
        if ballot.thought_id in sheet:
            raise InputError(f"repeated ballot {quoted(ballot.key)}; keep one of them")
        sheet[ballot.thought_id] = ballot.score
    for query_id, sheets in queries.items():
        everything = set().union(*sheets.values())
        for member, sheet in sheets.items():
            if missing := everything.difference(sheet):
                raise InputError(
                    f"member {quoted(member)} has no ballot for {quoted(missing)} of query "
                    f"{quoted(query_id)}; let every member judge the same candidates"
                )
    return queries


def _level(scores: Scores, tolerance: float) -> Scores:
    """Return the scores with those near the query's equal to it."""
    if None not in scores or not tolerance > 0:
        return scores
    alone = scores[None]
    return {name: alone if abs(score - alone) <= tolerance else score for name, score in scores.items()}


def _standing(scores: Scores, abstain: bool) -> Scores:
    """Return the scores of the candidates: without the query alone, unless it may win or is all there is."""
    if abstain or set(scores) == {None}:
        return scores
    return {name: score for name, score in scores.items() if name is not None}


def _mean_points(sheets: Sheets, points: Points, weights: Mapping[str, float]) -> dict[str | None, float]:
    counted = [(weights.get(member, 1.0), points(scores)) for member, scores in sheets.items()]
    total = math.fsum(weight for weight, _ in counted)
    if not total > 0:
        raise InputError(f"the weights of the members {quoted(sorted(sheets))} add up to {total}; raise one")
    candidates = next(iter(sheets.values()))
    # an exact sum, so that the order of members does not matter
    return {
        name: round(math.fsum(weight * own[name] for weight, own in counted) / total, _DIGITS)
        for name in candidates
    }
