"""Search against the oracle, and the oracle against the definition."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from o1_index import build, exact_search, hits
from o1_records import Hit, InputError, rank

METRICS = pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
# few small whole numbers: their products are exact in float32 in any order of summation, and ties
# and duplicates are common. The first dimension is never 0, so that no vector is zero.
SMALL = st.integers(-2, 2)


@st.composite
def collections(draw):
    dim = draw(st.integers(1, 4))
    documents, queries = draw(st.integers(0, 40)), draw(st.integers(0, 4))

    def matrix(rows):
        values = draw(hnp.arrays(np.float32, (rows, dim), elements=SMALL))
        values[:, 0] = np.where(values[:, 0] == 0, 3, values[:, 0])
        return values

    names = draw(st.permutations([f"d{i}" for i in range(documents)]))
    query_ids = [f"q{i}" for i in range(queries)]
    banned = draw(
        st.dictionaries(
            st.sampled_from(["q0", "q1", "q9"]), st.sets(st.sampled_from(["d0", "d1", "d5", "x"]))
        )
    )
    return (names, matrix(documents)), (query_ids, matrix(queries)), banned


def from_definition(documents, queries, k, excluded):
    hits = []
    for query_id, query in zip(*queries, strict=True):
        banned = excluded.get(query_id, set())
        scores = {
            name: float(vector @ query) for name, vector in zip(*documents, strict=True) if name not in banned
        }
        hits.extend(rank(query_id, scores, k))
    return hits


@given(case=collections(), k=st.integers(1, 50))
def test_the_oracle_equals_the_definition(case, k):
    documents, queries, excluded = case
    expected = from_definition(documents, queries, k, excluded)
    assert list(exact_search(documents, queries, k=k, excluded=excluded)) == expected


@given(case=collections(), k=st.integers(1, 50))
def test_flat_search_equals_the_oracle_ids_scores_and_order(case, k):
    documents, queries, excluded = case
    index = build(documents[1], documents[0])
    hits = index.search(queries[1], queries[0], k=k, excluded=excluded)
    assert list(hits) == list(exact_search(documents, queries, k=k, excluded=excluded))


@given(seed=st.integers(0, 10_000), k=st.integers(1, 30), dtype=st.sampled_from("efd"))
@METRICS
def test_flat_search_equals_the_oracle_on_real_numbers(metric, seed, k, dtype):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(200, 16)).astype(dtype)
    queries = random.normal(size=(25, 16)).astype(dtype)
    ids, query_ids = [f"d{i}" for i in range(200)], [f"q{i}" for i in range(25)]
    hits = build(vectors, ids, metric=metric).search(queries, query_ids, k=k)
    oracle = exact_search((ids, vectors), (query_ids, queries), k=k, metric=metric)
    np.testing.assert_allclose(hits.scores, oracle.scores, rtol=1e-5, atol=1e-5)
    # documents whose scores are further apart than rounding stand at the same rank
    scores = oracle.scores.astype(float)
    apart = np.abs(np.diff(scores, axis=1)) > 1e-4
    clear = np.pad(apart, ((0, 0), (1, 0)), constant_values=True)
    clear[:, :-1] &= apart
    clear[:, -1] = False  # its neighbour is not in the list
    assert (hits.rows == oracle.rows)[clear].all()


@given(copies=st.integers(1, 400), k=st.integers(1, 20))
def test_of_equal_documents_the_larger_ids_come_back(copies, k):
    ids = [f"d{i:03d}" for i in range(copies)]
    index = build(np.ones((copies, 4), dtype=np.float32), ids[::-1])
    hits = list(index.search(np.ones((1, 4)), ["q"], k=k))
    assert [hit.doc_id for hit in hits] == sorted(ids, reverse=True)[:k]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_the_order_of_building_does_not_matter():
    random = np.random.default_rng(0)
    vectors = random.integers(-3, 4, size=(100, 3)).astype(np.float32)
    vectors[:, 0] = 1
    ids = [f"d{i}" for i in range(100)]
    order = random.permutation(100)
    queries = vectors[:5]
    first = build(vectors, ids).search(queries, list("abcde"), k=17)
    second = build(vectors[order], [ids[i] for i in order]).search(queries, list("abcde"), k=17)
    assert list(first) == list(second)


def test_one_query_at_a_time_finds_what_a_batch_finds():
    random = np.random.default_rng(0)
    vectors = random.integers(-3, 4, size=(500, 8)).astype(np.float32) + 0.5
    ids = [f"d{i}" for i in range(500)]
    index = build(vectors, ids)
    names = [f"q{i}" for i in range(60)]
    together = list(index.search(vectors[:60], names, k=10))
    alone = [hit for i in range(60) for hit in index.search(vectors[i : i + 1], names[i : i + 1], k=10)]
    assert together == alone


def test_a_single_vector_and_a_k_beyond_the_index():
    index = build(np.ones((1, 2)), ["only"])
    hits = index.search(np.ones((1, 2)), ["q"], k=10**9)
    assert [(hit.doc_id, hit.score, hit.rank) for hit in hits] == [("only", 2.0, 1)]


def test_k_may_be_any_whole_number():
    index = build(np.eye(3), list("abc"))
    assert list(index.search(np.eye(3), list("xyz"), k=np.int64(2))) == list(
        index.search(np.eye(3), list("xyz"), k=2)
    )


def test_an_empty_index_has_no_hits():
    hits = build(np.zeros((0, 3)), []).search(np.ones((2, 3)), ["a", "b"], k=5)
    assert list(hits) == []
    assert len(hits) == 0
    assert hits.arrays()[0].shape == (2, 0)


def test_hits_as_arrays_say_what_the_records_say():
    index = build(np.eye(3), ["a", "b", "c"])
    hits = index.search(np.eye(3)[:2], ["q1", "q2"], k=3, excluded={"q2": {"b", "unknown"}})
    ids, scores = hits.arrays()
    assert ids.tolist() == [["a", "c", "b"], ["c", "a", None]]
    assert scores.tolist() == [[1, 0, 0], [0, 0, -np.inf]]
    assert len(hits) == len(list(hits)) == 5


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW16", "IVF4,PQ4x4", "SQ8"])
def test_an_approximate_index_keeps_the_order_and_finds_most(factory):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1000, 16))
    ids = [f"d{i}" for i in range(1000)]
    index = build(vectors, ids, factory=factory, metric="cosine")
    if factory.startswith("IVF"):
        index.set_parameters("nprobe=8")
    names = [f"q{i}" for i in range(50)]
    found = list(index.search(vectors[:50], names, k=5))
    for name in names:
        hits = [hit for hit in found if hit.query_id == name]
        assert hits == rank(name, {hit.doc_id: hit.score for hit in hits})
        assert [hit.rank for hit in hits] == list(range(1, 6))
    itself = {hit.query_id for hit in found if hit.doc_id == f"d{hit.query_id[1:]}"}
    assert len(itself) > 40


def test_half_precision_is_searched_as_float32():
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float16)
    ids = [f"d{i}" for i in range(50)]
    half = build(vectors, ids).search(vectors[:3], ["a", "b", "c"], k=5)
    full = build(vectors.astype(np.float32), ids).search(vectors[:3].astype(np.float32), ["a", "b", "c"], k=5)
    assert list(half) == list(full)


@pytest.mark.extra
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@METRICS
def test_tensors_are_searched_as_the_same_numbers_in_numpy(metric, dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    numbers = tensor.float().numpy()
    ids = [f"d{i}" for i in range(50)]
    hits = build(tensor, ids, metric=metric).search(tensor[:3], ["a", "b", "c"], k=5)
    assert list(hits) == list(build(numbers, ids, metric=metric).search(numbers[:3], ["a", "b", "c"], k=5))


@pytest.mark.extra
def test_filters_work_where_torch_utils_has_replaced_methods_of_faiss():
    """Its replacements take no search parameters; other libraries import it."""
    code = """
import numpy as np, torch, faiss.contrib.torch_utils
from o1_index import build
index = build(np.eye(5), list("abcde"), factory="Flat")
assert [hit.doc_id for hit in index.search(np.ones((1, 5)), ["q"], k=9, only={"b"})] == ["b"]
index.remove(["b"])
assert [hit.doc_id for hit in index.range_search(np.ones((1, 5)), ["q"], above=0.5)] == list("edca")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0])
def test_bad_vectors_are_refused_by_id_on_both_sides(bad):
    vectors = np.ones((5, 3), dtype=np.float32)
    vectors[3] = bad
    ids = list("abcde")
    with pytest.raises(InputError, match=r"1 vectors are zero or not finite.*\['d'\]"):
        build(vectors, ids)
    index = build(np.ones((5, 3)), ids)
    with pytest.raises(InputError, match=r"the queries: 1 vectors.*\['d'\]"):
        index.search(vectors, ids, k=1)


def test_a_number_too_large_for_float32_is_refused():
    with pytest.raises(InputError, match=r"not finite.*\['b'\]"):
        build(np.array([[1.0], [1e60]]), ["a", "b"])


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (np.ones((2, 3)), ["a", "a"], r"duplicate id 'a' \(rows 0 and 1\)"),
        (np.ones((2, 3)), ["a", 7], "row 1: id 7 is not a non-empty string"),
        (np.ones((2, 3)), ["a", ""], "row 1: id '' is not a non-empty string"),
        (np.ones((2, 3)), ["a"], r"1 ids for vectors of shape \(2, 3\)"),
        (np.ones(3), ["a", "b", "c"], r"3 ids for vectors of shape \(3,\)"),
        (np.ones((2, 3), dtype=np.uint16), ["a", "b"], "are uint16; give float16, float32 or"),
    ],
)
def test_what_is_no_collection_is_refused(vectors, ids, message):
    with pytest.raises(InputError, match=message):
        build(vectors, ids)


def test_another_dimension_is_refused_naming_both():
    index = build(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(InputError, match="the queries have 4 dimensions, the index has 3"):
        index.search(np.ones((1, 4)), ["q"], k=1)


def test_impossible_searches_are_refused():
    index = build(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(InputError, match="k must be 1 or more, got 0"):
        index.search(np.ones((1, 3)), ["q"], k=0)
    with pytest.raises(InputError, match="duplicate id 'q'"):
        index.search(np.ones((2, 3)), ["q", "q"], k=1)


@pytest.mark.parametrize("factory", ["HNSW8,PQ2x4", "PCA4,HNSW8,PQ2x4", "ZnLattice2x4_4"])
def test_a_factory_that_ranks_by_distance_is_refused(factory):
    """FAISS forgets the metric there; the worst documents would come back first."""
    vectors = np.random.default_rng(0).normal(size=(300, 8))
    with pytest.raises(InputError, match="ranks by distance here"):
        build(vectors, [str(i) for i in range(300)], factory=factory)


def test_a_search_that_faiss_refuses_is_one_sentence():
    index = build(
        np.random.default_rng(0).normal(size=(90, 4)), [str(i) for i in range(90)], factory="IVF2,Flat"
    )
    index.engine.nprobe = 0
    with pytest.raises(InputError, match="search: FAISS refuses"):
        index.search(np.ones((1, 4)), ["q"], k=3)


@pytest.mark.parametrize(
    ("factory", "parameters", "name"),
    [
        ("IVF2,Flat", "nprobe=0", "nprobe"),
        ("IVF2,Flat", "nprobe=-3", "nprobe"),
        ("HNSW8", "efSearch=0", "efSearch"),
        ("IVF2,PQ2x4,RFlat", "nprobe=2,k_factor_rf=0.5", "k_factor_rf"),
    ],
)
def test_parameters_with_which_nothing_is_found_are_refused(factory, parameters, name):
    index = build(np.random.default_rng(0).normal(size=(90, 4)), [str(i) for i in range(90)], factory=factory)
    before = index.settings
    with pytest.raises(InputError, match=f"parameters '{parameters}': {name} must be 1 or more, got "):
        index.set_parameters(parameters)
    assert index.settings == before


@given(case=collections(), k=st.integers(1, 9), most=st.integers(1, 60))
def test_fetching_in_parts_finds_the_same(case, k, most):
    documents, queries, excluded = case
    index = build(documents[1], documents[0])
    before, hits.MOST_FOUND = hits.MOST_FOUND, most
    try:
        found = list(index.search(queries[1], queries[0], k=k, excluded=excluded))
    finally:
        hits.MOST_FOUND = before
    assert found == list(exact_search(documents, queries, k=k, excluded=excluded))


@given(case=collections(), k=st.integers(1, 50), keep=st.sets(st.integers(0, 39)), remove=st.booleans())
def test_what_is_filtered_or_removed_might_as_well_not_be_there(case, k, keep, remove):
    (names, vectors), queries, excluded = case
    index, kept = build(vectors, names), [row for row in range(len(names)) if row in keep]
    only = {names[row] for row in kept}
    if remove:
        index.remove([name for name in names if name not in only])
    hits = index.search(queries[1], queries[0], k=k, excluded=excluded, only=None if remove else only)
    rest = ([names[row] for row in kept], vectors[kept])
    assert list(hits) == list(exact_search(rest, queries, k=k, excluded=excluded))


def test_hits_are_a_list_of_records():
    hits = build(np.eye(3), np.array(["a", "b", "c"])).search(np.eye(3), np.array(["x", "y", "z"]), k=2)
    assert hits[0] == Hit(query_id="x", doc_id="a", score=1.0, rank=1)
    assert (hits[-1], hits[2:4]) == (list(hits)[-1], list(hits)[2:4])
    assert type(hits[0].doc_id) is type(hits[0].query_id) is str
    assert hits.arrays()[1] is hits.scores


def test_one_text_in_the_place_of_several_ids_is_refused():
    index = build(np.eye(3), ["a", "b", "c"])
    for use in (
        lambda: index.search(np.eye(3), "xyz", k=1),
        lambda: index.search(np.eye(3)[:1], ["x"], k=1, only="abc"),
        lambda: index.search(np.eye(3)[:1], ["x"], k=1, excluded={"x": "a"}),
        lambda: index.remove("abc"),
        lambda: build(np.eye(3), "abc"),
    ):
        with pytest.raises(InputError, match="is a single string; give a list or set of ids"):
            use()


def test_what_faiss_refuses_is_one_sentence():
    vectors, ids = np.random.default_rng(0).normal(size=(20, 4)), [str(i) for i in range(20)]
    for factory, message in [
        ("Nonsense", "could not parse index string Nonsense"),
        ("IVF9999,Flat", "Number of training points .20. should be at least"),
        ("PQ3", "should be a multiple of the number of subquantizers"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            build(vectors, ids, factory=factory)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="parameters 'nprobe=4': FAISS refuses"):
        build(vectors, ids).set_parameters("nprobe=4")
    with pytest.raises(InputError, match="unknown metric 'l1'; choose one of inner_product, cosine, l2"):
        build(vectors, ids, metric="l1")
