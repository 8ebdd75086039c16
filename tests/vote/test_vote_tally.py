"""Laws of counting: order, names and ties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import Ballot, InputError
from o1_vote.tally import (
    first_places,
    krippendorff_alpha,
    majority,
    mean_rank,
    reciprocal_rank_fusion,
    softmax_sum,
    verdicts,
    z_scores,
)

CANDIDATES = ["a", "b", "c", "d"]
BY_ORDER = [majority, mean_rank, reciprocal_rank_fusion]
RULES = pytest.mark.parametrize("rule", [*BY_ORDER, z_scores, softmax_sum])
SCALE_FREE = pytest.mark.parametrize("rule", [*BY_ORDER, z_scores])
MONOTONE = pytest.mark.parametrize("rule", [*BY_ORDER, softmax_sum])
# few distinct scores, so that ties are common
SCORES = st.integers(0, 3).map(float)
SHEET = st.fixed_dictionaries(dict.fromkeys([None, *CANDIDATES], SCORES))
COMMITTEE = st.dictionaries(st.sampled_from(["m1", "m2", "m3", "m4"]), SHEET, min_size=1)
ELECTION = st.dictionaries(st.sampled_from(["q1", "q2"]), COMMITTEE, min_size=1)


def ballots_of(election):
    return [
        Ballot(query_id=query, thought_id=thought, retriever=member, score=score)
        for query, committee in election.items()
        for member, sheet in committee.items()
        for thought, score in sheet.items()
    ]


def one(committee):
    return ballots_of({"q": committee})


@RULES
@given(election=ELECTION, abstain=st.booleans(), random=st.randoms())
def test_the_order_of_ballots_does_not_matter(rule, election, abstain, random):
    ballots = ballots_of(election)
    shuffled = list(ballots)
    random.shuffle(shuffled)
    assert rule(shuffled, abstain=abstain) == rule(ballots, abstain=abstain)


@RULES
@given(committee=COMMITTEE, names=st.permutations(["w", "x", "y", "z"]), abstain=st.booleans())
def test_the_names_of_members_do_not_matter(rule, committee, names, abstain):
    renamed = dict(zip(names, committee.values(), strict=False))
    assert rule(one(renamed), abstain=abstain) == rule(one(committee), abstain=abstain)


@MONOTONE
@given(committee=COMMITTEE, candidate=st.sampled_from(CANDIDATES), by=st.integers(1, 4))
def test_a_winner_that_every_member_raises_still_wins(rule, committee, candidate, by):
    if rule(one(committee))["q"] != candidate:
        return
    raised = {m: {**sheet, candidate: sheet[candidate] + by} for m, sheet in committee.items()}
    assert rule(one(raised))["q"] == candidate


@SCALE_FREE
@given(
    committee=COMMITTEE,
    scale=st.sampled_from([0.5, 8.0]),
    shift=st.integers(-8, 8),
    member=st.integers(0, 3),
)
def test_the_scale_of_a_member_does_not_matter(rule, committee, scale, shift, member):
    chosen = sorted(committee)[member % len(committee)]
    scaled = {name: score * scale + shift for name, score in committee[chosen].items()}
    assert rule(one({**committee, chosen: scaled})) == rule(one(committee))


@RULES
@given(committee=COMMITTEE)
def test_level_candidates_go_to_the_smaller_id_and_none_is_the_smallest(rule, committee):
    level = {member: dict.fromkeys(sheet, 1.0) for member, sheet in committee.items()}
    assert rule(one(level)) == {"q": "a"}
    assert rule(one(level), abstain=True) == {"q": None}


@RULES
@given(committee=COMMITTEE)
def test_without_abstention_the_query_alone_changes_nothing(rule, committee):
    thoughts = {m: {k: v for k, v in sheet.items() if k} for m, sheet in committee.items()}
    assert rule(one(committee)) == rule(one(thoughts))


@given(committee=COMMITTEE)
def test_the_majority_candidate_has_the_most_first_places(committee):
    firsts = dict.fromkeys(CANDIDATES, 0)
    for sheet in committee.values():
        best = max(sheet[name] for name in CANDIDATES)
        for name in CANDIDATES:
            firsts[name] += sheet[name] == best
    winner = majority(one(committee))["q"]
    assert firsts[winner] == max(firsts.values())
    assert all(firsts[name] < firsts[winner] for name in CANDIDATES if name < winner)


def test_two_members_outvote_one_that_shouts():
    """The public way adds softmaxes of raw scores, so one uncalibrated member decides alone.

    The input on which it fails: two members of three prefer `a`.
    """
    committee = {
        "quiet1": {"a": 0.62, "b": 0.30, "c": 0.1},
        "quiet2": {"a": 0.55, "b": 0.31, "c": 0.2},
        "loud": {"a": 1.0, "b": 31.0, "c": 2.0},
    }
    assert softmax_sum(one(committee)) == {"q": "b"}  # the defect
    for rule in (*BY_ORDER, z_scores):
        assert rule(one(committee)) == {"q": "a"}, rule


def test_mean_rank_prefers_a_candidate_that_all_find_good():
    committee = {
        "m1": {"a": 3.0, "b": 2.0, "c": 1.0},
        "m2": {"a": 3.0, "b": 2.0, "c": 1.0},
        "m3": {"c": 3.0, "b": 2.0, "a": 1.0},
        "m4": {"c": 3.0, "b": 2.0, "a": 1.0},
        "m5": {"b": 3.0, "c": 2.0, "a": 1.0},
    }
    assert majority(one(committee)) == {"q": "a"}
    assert mean_rank(one(committee)) == {"q": "b"}


@RULES
def test_a_query_without_thoughts_elects_none(rule):
    assert rule(one({"m1": {None: 1.0}})) == {"q": None}


@RULES
def test_no_ballots_elect_nothing(rule):
    assert rule([]) == {}


def test_a_repeated_ballot_is_refused():
    ballots = one({"m1": {"a": 1.0}})
    with pytest.raises(InputError, match="repeated ballot"):
        majority(ballots * 2)


def test_a_member_that_judged_fewer_candidates_is_refused():
    with pytest.raises(InputError, match=r"'m2' has no ballot for .'b'. of query 'q'"):
        majority(one({"m1": {"a": 1.0, "b": 2.0}, "m2": {"a": 1.0}}))


@RULES
@given(
    committee=COMMITTEE,
    names=st.permutations(CANDIDATES),
    abstain=st.booleans(),
)
def test_candidates_of_other_names_get_the_same_points(rule, committee, names, abstain):
    renaming = {None: None, **dict(zip(CANDIDATES, names, strict=True))}
    renamed = {m: {renaming[k]: v for k, v in sheet.items()} for m, sheet in committee.items()}
    before, after = rule(one(committee), abstain=abstain)["q"], rule(one(renamed), abstain=abstain)["q"]
    if renaming[before] != after:  # only where they are level may another win
        level = verdict_of(rule, committee, abstain).points
        back = {new: old for old, new in renaming.items()}
        assert level[back[after]] == level[before]


def verdict_of(rule, committee, abstain=False, **terms):
    from o1_vote import tally

    points = {
        majority: tally.first_places,
        mean_rank: tally.borda_points,
        reciprocal_rank_fusion: tally.reciprocal_points,
        z_scores: tally.standard_scores,
        softmax_sum: tally.softmax,
    }[rule]
    return verdicts(one(committee), points, abstain=abstain, **terms)["q"]


@RULES
@given(committee=COMMITTEE, weight=st.integers(1, 3))
def test_a_member_of_weight_three_is_three_members(rule, committee, weight):
    name = min(committee)
    copies = {f"{name} {number}": committee[name] for number in range(weight)}
    others = {member: sheet for member, sheet in committee.items() if member != name}
    weighted = verdict_of(rule, committee, weights={name: float(weight)})
    assert weighted.winner == verdict_of(rule, {**others, **copies}).winner


def test_a_member_of_weight_zero_has_no_say_and_weights_must_add_up():
    committee = {"m1": {"a": 1.0, "b": 2.0}, "m2": {"a": 2.0, "b": 1.0}}
    assert majority(one(committee), weights={"m2": 0.0}) == {"q": "b"}
    with pytest.raises(InputError, match=r"add up to 0.0"):
        majority(one(committee), weights={"m1": 0.0, "m2": 0.0})


def test_standard_scores_are_not_monotone():
    """Why z_scores is not among the monotone rules: every member raises `a`, and it loses."""
    before = {"m1": {"a": 0.0, "b": 4.0, "c": 6.0}, "m2": {"a": 3.0, "b": 1.0, "c": 0.0}}
    raised = {"m1": {**before["m1"], "a": 1.0}, "m2": {**before["m2"], "a": 8.0}}
    assert z_scores(one(before)) == {"q": "a"}
    assert z_scores(one(raised)) == {"q": "c"}


@RULES
@given(committee=COMMITTEE, margin=st.sampled_from([0.0, 0.1, 1.0]))
def test_a_thought_wins_only_with_its_margin_over_the_query_alone(rule, committee, margin):
    verdict = verdict_of(rule, committee, abstain=True, margin=margin)
    best = max(points for name, points in verdict.points.items() if name)
    gain = best - verdict.points[None]
    assert (verdict.winner is not None) == (gain > 0 and gain >= margin)
    assert verdict.why


def slow_alpha(sheets):
    """Krippendorff's coincidence matrix, interval metric, of shared ranks."""
    from collections import Counter

    rows = []
    for sheet in sheets:
        values = sorted(sheet.values(), reverse=True)
        places = {v: [i for i, other in enumerate(values, 1) if other == v] for v in values}
        rows.append({name: sum(places[v]) / len(places[v]) for name, v in sheet.items()})
    units = [[row[name] for row in rows] for name in rows[0]]
    matrix = Counter()
    for unit in units:
        for i, left in enumerate(unit):
            for j, right in enumerate(unit):
                if i != j:
                    matrix[left, right] += 1 / (len(unit) - 1)
    total = sum(matrix.values())
    margins = Counter()
    for (left, _), count in matrix.items():
        margins[left] += count
    observed = sum(count * (left - right) ** 2 for (left, right), count in matrix.items()) / total
    expected = sum(
        margins[left] * (margins[right] - (left == right)) * (left - right) ** 2
        for left in margins
        for right in margins
    ) / (total * (total - 1))
    return 1.0 if expected == 0 else 1 - observed / expected


@given(committee=COMMITTEE)
def test_alpha_is_krippendorffs(committee):
    sheets = list(committee.values())
    if len(sheets) == 1:
        assert krippendorff_alpha(sheets) == 1
    else:
        assert krippendorff_alpha(sheets) == pytest.approx(slow_alpha(sheets))


@given(sheet=SHEET, count=st.integers(2, 4))
def test_members_that_agree_have_alpha_one(sheet, count):
    assert krippendorff_alpha([sheet] * count) == pytest.approx(1)


@RULES
def test_where_members_disagree_there_is_no_thought(rule):
    agreed = {"m1": {None: 0.0, "a": 2.0, "b": 1.0}, "m2": {None: 0.0, "a": 2.0, "b": 1.0}}
    opposed = {"m1": {None: 0.0, "a": 2.0, "b": 1.0}, "m2": {None: 2.0, "a": 0.0, "b": 1.0}}
    assert rule(one(agreed), least_agreement=0.5) == {"q": "a"}
    assert rule(one(opposed), least_agreement=0.5) == {"q": None}
    assert rule(one(opposed)) != {"q": None}
    assert "disagree" in verdict_of(rule, opposed, least_agreement=0.5).why


def test_the_points_of_a_rule_are_a_mean_over_members():
    committee = {"m1": {"a": 1.0, "b": 2.0}, "m2": {"a": 1.0, "b": 2.0}, "m3": {"a": 3.0, "b": 2.0}}
    verdict = verdicts(one(committee), first_places)["q"]
    assert verdict.points == {"a": pytest.approx(1 / 3), "b": pytest.approx(2 / 3)}
