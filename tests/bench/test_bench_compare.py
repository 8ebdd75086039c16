import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_bench.compare import holm, paired_test
from o1_records import InputError

values = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.tuples(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([0.0, 0.3, 0.5, 1.0])),
    min_size=1,
    max_size=12,
)


def split(pairs):
    return {q: a for q, (a, _) in pairs.items()}, {q: b for q, (_, b) in pairs.items()}


def exact_p(differences):
    """The two-sided p-value over all 2^n sign patterns."""
    observed = abs(sum(differences)) - 1e-9
    signs = list(itertools.product([-1, 1], repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(row, differences, strict=True)) for row in signs]
    return sum(abs(total) >= observed for total in sums) / len(signs)


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_is_that_of_all_sign_patterns(seed):
    rng = random.Random(seed)
    differences = [rng.choice([0.0, 0.1, 0.1, 0.5, -0.2, rng.gauss(0.1, 0.3)]) for _ in range(11)]
    a = {f"q{place}": value for place, value in enumerate(differences)}
    p = exact_p(differences)
    spread = 4 * (p * (1 - p) / 20_000) ** 0.5 + 1e-4
    assert paired_test(a, dict.fromkeys(a, 0.0), permutations=20_000).p_value == pytest.approx(p, abs=spread)


def test_the_smallest_p_value_counts_the_observed_run():
    a = {f"q{number}": 1.0 for number in range(60)}
    assert paired_test(a, dict.fromkeys(a, 0.0), permutations=999).p_value == 1 / 1000


def test_the_interval_is_that_of_a_normal_mean():
    rng = random.Random(1)
    a = {f"q{number}": rng.gauss(0.1, 1.0) for number in range(2000)}
    test = paired_test(a, dict.fromkeys(a, 0.0))
    error = statistics.stdev(a.values()) / len(a) ** 0.5
    assert test.low == pytest.approx(test.difference - 1.96 * error, abs=0.06 * error)
    assert test.high == pytest.approx(test.difference + 1.96 * error, abs=0.06 * error)


@given(values)
def test_swapping_the_two_flips_the_sign(pairs):
    a, b = split(pairs)
    forth, back = paired_test(a, b, permutations=200), paired_test(b, a, permutations=200)
    assert forth.difference == -back.difference
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.p_value == back.p_value
    assert (forth.wins, forth.ties, forth.losses) == (back.losses, back.ties, back.wins)
    assert forth.queries == len(pairs)
    assert forth.low <= forth.difference + 1e-12
    assert forth.difference <= forth.high + 1e-12


@given(values)
def test_equal_runs_differ_by_nothing(pairs):
    a, _ = split(pairs)
    test = paired_test(a, dict(a), permutations=100)
    assert (test.p_value, test.difference, test.low, test.high) == (1.0, 0.0, 0.0, 0.0)
    assert (test.wins, test.ties, test.losses) == (0, len(a), 0)


@given(values, st.randoms())
def test_the_order_of_queries_does_not_matter_and_a_seed_repeats(pairs, rng):
    a, b = split(pairs)
    shuffled = dict(rng.sample(list(a.items()), len(a)))
    assert paired_test(a, b, permutations=100) == paired_test(shuffled, b, permutations=100)


def test_blocks_of_many_queries_do_not_change_the_law():
    rng = random.Random(3)
    a = {f"q{number}": rng.gauss(0.0, 1.0) for number in range(3000)}  # several blocks
    test = paired_test(a, dict.fromkeys(a, 0.0), permutations=2000)
    z = abs(test.difference) / (statistics.stdev(a.values()) / len(a) ** 0.5)
    expected = 2 * (1 - statistics.NormalDist().cdf(z))
    assert test.p_value == pytest.approx(expected, abs=0.05)


def test_other_queries_are_refused_by_name():
    with pytest.raises(InputError, match="2 are in only one of them, the first 'q2'"):
        paired_test({"q1": 0.0, "q2": 1.0}, {"q1": 0.0, "q3": 0.0})
    with pytest.raises(InputError, match="no per-query values"):
        paired_test({}, {})


def test_no_permutations_are_refused():
    with pytest.raises(ValueError, match="permutations"):
        paired_test({"q": 1.0}, {"q": 0.0}, permutations=0)


def test_holm_gives_the_textbook_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8), st.randoms())
def test_holm_keeps_order_and_never_lowers(p_values, rng):
    corrected = holm(p_values)
    assert all(old <= new <= 1 for old, new in zip(p_values, corrected, strict=True))
    places = rng.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[place] for place in places]) == [corrected[place] for place in places]
    ranked = sorted(zip(p_values, corrected, strict=True))
    assert [new for _, new in ranked] == sorted(corrected)
