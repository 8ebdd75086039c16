"""The mixture of a query and its thoughts, for vectors and for scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import InputError, Query
from o1_records.mixture import Mixture, mix_scores, mix_vectors, read_thoughts, unit_rows, z_scores


def units(rows, dim=8, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_it_is_the_weighted_sum_at_unit_length():
    v_q, own = units(1), units(3, seed=1)
    wanted = 0.8 * v_q[0].astype(float) + 0.2 * own.astype(float).mean(axis=0)
    mixed = mix_vectors(v_q, [own], 0.2)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed[0], wanted / np.linalg.norm(wanted), atol=1e-6)


@given(st.integers(0, 50), st.integers(0, 4), st.floats(0, 1))
def test_rows_are_of_unit_length_and_queries_without_thoughts_keep_theirs(seed, thoughts, weight):
    v_q = units(3, seed=seed)
    own = [units(thoughts, seed=seed + 1), np.empty((0, 8), np.float32), units(1, seed=seed + 2)]
    mixed = mix_vectors(v_q, own, weight)
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(mixed[1], v_q[1], atol=1e-6)


def test_no_weight_is_the_query_and_all_weight_the_thoughts():
    v_q, own = units(2), [units(2, seed=1), units(1, seed=2)]
    np.testing.assert_allclose(mix_vectors(v_q, own, 0), v_q, atol=1e-6)
    alone = mix_vectors(v_q, own, 1)
    np.testing.assert_allclose(alone[1], own[1][0], atol=1e-6)


def test_thoughts_that_disagree_weigh_less():
    v_q = np.eye(3, dtype=np.float32)[:1]
    agree = np.array([[0, 1, 0], [0, 1, 0]], np.float32)
    disagree = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    assert mix_vectors(v_q, [disagree], 0.4)[0, 0] > mix_vectors(v_q, [agree], 0.4)[0, 0]


def test_a_copy_changes_nothing_and_an_opposite_does_not_erase_the_query():
    v_q = units(4)
    np.testing.assert_allclose(mix_vectors(v_q, list(v_q[:, None]), 0.4), v_q, atol=1e-6)
    np.testing.assert_allclose(mix_vectors(v_q, list(-v_q[:, None]), 0.5), v_q, atol=1e-6)


def test_rows_are_scaled_to_unit_length_and_zeros_stay():
    rows = np.array([[3, 4], [0, 0], [1e30, 0]], dtype=np.float32)
    np.testing.assert_allclose(unit_rows(rows), [[0.6, 0.8], [0, 0], [1, 0]], atol=1e-6)


def test_scores_are_mixed_on_one_scale():
    query, thought = np.array([10.0, 0, 0, 0]), np.array([0, 1000.0, 0, 0])
    mixed = mix_scores(query, [thought], 0.2)
    assert mixed.argsort()[::-1][:2].tolist() == [0, 1]
    np.testing.assert_allclose(mixed, 0.8 * z_scores(query) + 0.2 * z_scores(thought), atol=1e-6)


def test_thoughts_that_match_nothing_leave_the_order():
    query = np.random.default_rng(0).normal(size=50)
    mixed = mix_scores(query, [np.zeros(50)], 0.5)
    assert mixed.argsort().tolist() == query.argsort().tolist()
    np.testing.assert_allclose(mix_scores(query, [], 0.5), z_scores(query))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_z_scores_have_mean_0_and_deviation_1_or_are_all_0(values):
    scaled = z_scores(np.array(values))
    assert np.isfinite(scaled).all()
    assert abs(scaled.mean()) < 1e-2
    if scaled.any():
        assert scaled.std() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(InputError, match="weight must be between 0 and 1, got"):
        Mixture(weight=weight)


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="1 lists of thoughts for 2 queries"):
        mix_vectors(units(2), [units(1)], 0.2)
    with pytest.raises(InputError, match="do not fit vectors of 8 dimensions"):
        mix_vectors(units(1), [units(1, dim=4)], 0.2)


class Telling:
    """A model whose vectors tell what was read: a number for each text, and of which kind it was."""

    def queries(self, queries):
        return self._vectors("q", [f"{query.instruction}{query.text}" for query in queries])

    def documents(self, documents):
        return self._vectors("d", [document.full_text for document in documents])

    def joint(self, queries, thoughts):
        return self._vectors("j", [f"{q.text}+{t}" for q, t in zip(queries, thoughts, strict=True)])

    def _vectors(self, kind, texts):
        self.read = [f"{kind}:{text}" for text in texts]
        return np.arange(2 * len(texts), dtype=np.float32).reshape(-1, 2)


@pytest.mark.parametrize(
    ("reading", "read"),
    [
        ("document", ["d:a", "d:b", "d:c"]),
        ("query", ["q:I a", "q:I b", "q:c"]),
        ("joint", ["j:one+a", "j:one+b", "j:three+c"]),
    ],
)
def test_thoughts_are_read_in_one_of_three_ways_and_go_back_to_their_queries(reading, read):
    queries = [
        Query(query_id="1", text="one", instruction="I "),
        Query(query_id="2", text="two"),
        Query(query_id="3", text="three"),
    ]
    model = Telling()
    found = read_thoughts(model, queries, [["a", "b"], [], ["c"]], reading)
    assert model.read == read
    assert [own.tolist() for own in found] == [[[0, 1], [2, 3]], [], [[4, 5]]]
    assert [own.shape for own in read_thoughts(model, queries, [[], [], []], reading)] == [(0, 0)] * 3
    with pytest.raises(InputError, match="2 lists of thoughts for 3 queries"):
        read_thoughts(model, queries, [[], []], reading)
