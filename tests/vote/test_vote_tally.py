"""Laws of counting: order, names and ties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import Ballot, InputError
from o1_vote.tally import majority, mean_rank

CANDIDATES = ["a", "b", "c", "d"]
RULES = pytest.mark.parametrize("rule", [majority, mean_rank])
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


@RULES
@given(committee=COMMITTEE, candidate=st.sampled_from(CANDIDATES), by=st.integers(1, 4))
def test_a_winner_that_every_member_raises_still_wins(rule, committee, candidate, by):
    if rule(one(committee))["q"] != candidate:
        return
    raised = {m: {**sheet, candidate: sheet[candidate] + by} for m, sheet in committee.items()}
    assert rule(one(raised))["q"] == candidate


@RULES
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
    """The public way adds softmaxes of raw scores, so one uncalibrated member decides alone."""
    committee = {
        "quiet1": {"a": 0.62, "b": 0.61, "c": 0.1},
        "quiet2": {"a": 0.55, "b": 0.54, "c": 0.2},
        "loud": {"a": 1.0, "b": 31.0, "c": 2.0},
    }
    assert majority(one(committee)) == {"q": "a"}


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
