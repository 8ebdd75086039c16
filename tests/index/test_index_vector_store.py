"""What every vector store has to do: one index, and several that work as one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_index import build, exact_search
from o1_index.vector_store import Shards, open_shards
from o1_records import InputError


def one_index():
    return build(np.zeros((0, 3)), [])


def three_shards():
    return Shards([one_index() for _ in range(3)])


STORES = pytest.mark.parametrize("store", [one_index, three_shards])
NUMBERS = st.integers(-2, 2)
VECTOR = st.tuples(st.sampled_from([1, 2]), NUMBERS, NUMBERS)
NAME = st.sampled_from("abcdefgh")
CHANGE = st.one_of(
    st.tuples(st.just("upsert"), st.dictionaries(NAME, VECTOR, min_size=1)),
    st.tuples(st.just("delete"), st.sets(NAME)),
)
QUERIES = np.array([[1, 0, 0], [1, 2, -1], [0, 1, 1]], dtype="f4")
NAMES = ["p", "q", "r"]


@STORES
@given(changes=st.lists(CHANGE, max_size=8), k=st.integers(1, 9), only=st.none() | st.sets(NAME))
@settings(max_examples=30)
def test_any_series_of_changes_leaves_what_an_exact_search_finds(store, changes, k, only):
    mine, held = store(), {}
    for what, change in changes:
        if what == "upsert":
            vectors = np.array(list(change.values()), dtype="f4")
            mine.upsert(vectors, list(change), [{"first": vector[0]} for vector in change.values()])
            held |= change
        else:
            assert mine.delete(sorted(change)) == len(change & held.keys())
            held = {name: vector for name, vector in held.items() if name not in change}
    assert mine.count() == len(held)
    names = [name for name in held if only is None or name in only]
    exact = exact_search(
        (names, np.array([held[name] for name in names], dtype="f4").reshape(-1, 3)), (NAMES, QUERIES), k=k
    )
    assert list(mine.search(QUERIES, NAMES, k=k, only=only)) == list(exact)
    found = mine.fetch(list("hgfedcba"))
    assert found.ids == [name for name in "hgfedcba" if name in held]
    assert found.vectors.tolist() == [list(held[name]) for name in found.ids]
    assert found.payloads == [{"first": held[name][0]} for name in found.ids]
    if held:
        twos = {hit.doc_id for hit in mine.search(QUERIES[:1], ["q"], k=9, where="first = 2")}
        assert twos == {name for name, vector in held.items() if vector[0] == 2}


@STORES
def test_an_upsert_that_is_refused_changes_nothing(store):
    mine = store()
    mine.upsert(np.eye(3), list("abc"), [{"n": 1}, {"n": 2}, {"n": 3}])
    before = list(mine.search(QUERIES, NAMES, k=5))
    for vectors, ids, payloads in [
        (np.full((2, 3), np.nan), ["a", "new"], None),
        (np.eye(3), ["a", "new", "new"], None),
        (np.eye(2), ["a", "new"], None),
        (np.eye(3)[:2], ["a", "new"], [{"n": 1}]),
        (np.eye(3)[:2], ["a", "new"], [{"n": 1}, {"n": object()}]),
    ]:
        with pytest.raises(InputError):
            mine.upsert(vectors, ids, payloads)
    assert list(mine.search(QUERIES, NAMES, k=5)) == before
    assert mine.count() == 3


@STORES
@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("year >= 2020", "bc"),
        ("year<2020", "a"),
        ("lang = en", "ab"),
        ("lang == en", "ab"),
        ("lang != en", "c"),
        ('lang in ["de", "fr"]', "c"),
        (["lang = en", "year >= 2020"], "b"),
        ("tags = x", "ac"),
        ("absent = 1", ""),
        ("lang >= 2020", ""),
        (lambda payload: payload.get("year") == 2021, "b"),
    ],
)
def test_payloads_are_filtered_before_the_best_are_chosen(store, where, names):
    mine = store()
    payloads = [
        {"year": 2019, "lang": "en", "tags": ["x", "y"]},
        {"year": 2021, "lang": "en", "tags": []},
        {"year": 2022, "lang": "de", "tags": ["x"]},
        {},
    ]
    mine.upsert(np.ones((4, 3)), list("abcd"), payloads)
    for _ in range(2):
        hits = mine.search(QUERIES[:1], ["q"], k=1, where=where)
        assert [hit.doc_id for hit in hits] == sorted(names, reverse=True)[:1]


def test_filters_that_cannot_be_read_are_refused():
    index = build(np.eye(3), list("abc"))
    with pytest.raises(InputError, match="the index has no payloads to filter by"):
        index.search(QUERIES, NAMES, k=1, where="a = 1")
    index = build(np.eye(3), list("abc"), payloads=[{"a": 1}, {"a": 2}, {}])
    for where, message in [
        ("a", "give a field, one of"),
        ("a in b", "give a list after 'in'"),
        ("= 1", "give a field"),
    ]:
        with pytest.raises(InputError, match=message):
            index.search(QUERIES, NAMES, k=1, where=where)


def test_shards_are_exact_search_in_the_whole_and_open_as_one(tmp_path):
    random = np.random.default_rng(0)
    vectors = random.integers(-3, 4, size=(90, 3)).astype("f4") + 0.5
    ids = [f"d{row}" for row in range(90)]
    for number in range(3):
        build(vectors[number::3], ids[number::3]).save(tmp_path / str(number))
    shards = open_shards([tmp_path / str(number) for number in range(3)])
    exact = exact_search((ids, vectors), (NAMES, QUERIES), k=20)
    assert list(shards.search(QUERIES, NAMES, k=20)) == list(exact)
    excluded = {"p": {exact[0].doc_id}}
    assert list(shards.search(QUERIES, NAMES, k=20, excluded=excluded)) == list(
        exact_search((ids, vectors), (NAMES, QUERIES), k=20, excluded=excluded)
    )
    assert shards.count() == 90


def test_shards_that_do_not_belong_together_are_refused():
    for other, message in [
        (build(np.eye(2), ["x", "y"]), "shard 1 has 3 dimensions and the metric inner_product, shard 2 2"),
        (build(np.eye(3), list("xyz"), metric="l2"), "shard 2 3 and l2"),
        (build(np.eye(3), list("xbz")), r"1 documents are in shard 1 and in shard 2: \['b'\]"),
    ]:
        with pytest.raises(InputError, match=message):
            Shards([build(np.eye(3), list("abc")), other])
    with pytest.raises(InputError, match="give at least one index"):
        Shards([])
