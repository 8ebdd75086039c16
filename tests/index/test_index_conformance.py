"""What every vector store has to do, whatever engine is behind it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from o1_index import exact_search
from o1_index.documents import condition
from o1_records import InputError

RANDOM = np.random.default_rng(7)
QUERIES = np.array([[1, 0, 0], [1, 2, -1], [0, 1, 1]], dtype="f4")
NAMES = ["p", "q", "r"]


def found(hits):
    return [(hit.query_id, hit.doc_id, hit.rank) for hit in hits]


def exact(held, queries, names, **options):
    """The hits of an exact search in documents by id."""
    dim = queries.shape[1]
    vectors = np.array(list(held.values()), dtype="f4").reshape(-1, dim)
    return exact_search((list(held), vectors), (names, queries), **options)


def test_any_series_of_changes_leaves_what_an_exact_search_finds(kind):
    random = np.random.default_rng(3)
    store, held = kind.create(), {}
    for step in range(9):
        names = random.choice(list("abcdefgh"), random.integers(1, 6), replace=False).tolist()
        if step % 3 == 2:
            assert store.delete(sorted(names)) == len(held.keys() & set(names))
            held = {name: vector for name, vector in held.items() if name not in names}
        else:
            change = {name: [random.integers(1, 3), *random.integers(-2, 3, 2)] for name in names}
            vectors = np.array(list(change.values()), dtype="f4")
            store.upsert(vectors, names, [{"first": float(vector[0])} for vector in vectors])
            held |= change
        assert store.count() == len(held)
        for k, only in [(3, None), (9, set("abch")), (2, set("xyz")), (1, set())]:
            allowed = {name: vector for name, vector in held.items() if only is None or name in only}
            hits = list(store.search(QUERIES, NAMES, k=k, only=only))
            assert hits == list(exact(allowed, QUERIES, NAMES, k=k))
        there = store.fetch(list("hgfedcba"))
        assert there.ids == [name for name in "hgfedcba" if name in held]
        assert there.vectors.tolist() == [list(held[name]) for name in there.ids]
        assert there.payloads == [{"first": held[name][0]} for name in there.ids]
        if held:
            twos = {hit.doc_id for hit in store.search(QUERIES[:1], ["q"], k=9, where="first = 2")}
            assert twos == {name for name, vector in held.items() if vector[0] == 2}


def test_an_upsert_that_is_refused_changes_nothing(kind):
    store = kind.create()
    store.upsert(np.eye(3), list("abc"), [{"n": 1}, {"n": 2}, {"n": 3}])
    before = list(store.search(QUERIES, NAMES, k=5))
    for vectors, ids, payloads, message in [
        (np.full((2, 3), np.nan), ["a", "new"], None, "zero or not finite.*'a'"),
        (np.array([[1, 0, 0], [0, np.inf, 0]]), ["a", "new"], None, "'new'"),
        (np.zeros((1, 3)), ["new"], None, "'new'"),
        (np.eye(3), ["a", "new", "new"], None, "duplicate id 'new'"),
        (np.eye(2), ["a", "new"], None, "2 dimensions, the index has 3"),
        (np.eye(3)[:2], ["a", "new"], [{"n": 1}], "1 payloads"),
        (np.eye(3)[:2], ["a", "new"], [{"n": 1}, {"n": object()}], "payload"),
        (np.eye(3)[:2], ["a", ""], None, "not a non-empty string"),
        (np.eye(3)[:2], ["a", 7], None, "not a non-empty string"),
    ]:
        with pytest.raises(InputError, match=message):
            store.upsert(vectors, ids, payloads)
    assert list(store.search(QUERIES, NAMES, k=5)) == before
    assert store.count() == 3
    assert store.fetch(["a"]).payloads == [{"n": 1}]


def test_a_search_that_cannot_be_done_is_refused(kind):
    store = kind.create()
    store.upsert(np.eye(3), list("abc"), [{"n": 1}] * 3)
    for vectors, names, options, message in [
        (QUERIES, NAMES, {"k": 0}, "k must be 1 or more"),
        (QUERIES, ["p", "q", "p"], {"k": 1}, "duplicate id 'p'"),
        (np.eye(2), ["p", "q"], {"k": 1}, "2 dimensions, the index has 3"),
        (np.full((1, 3), np.nan), ["p"], {"k": 1}, "'p'"),
        (QUERIES, NAMES, {"k": 1, "where": "n ~ 1"}, "give a field, one of"),
        (QUERIES, NAMES, {"k": 1, "where": "n in 3"}, "give a list after 'in'"),
        (QUERIES, NAMES, {"k": 1, "where": "n = null"}, "compare with numbers, texts"),
        (QUERIES, NAMES, {"k": 1, "only": "abc"}, "is a single string"),
    ]:
        with pytest.raises(InputError, match=message):
            store.search(vectors, names, **options)


PAYLOADS = [
    {"year": 2019, "lang": "en", "tags": ["x", "y"], "open": True},
    {"year": 2021, "lang": "en", "tags": [], "open": False},
    {"year": 2022.5, "lang": "de", "tags": ["x"], "open": None},
    {"year": [2018, 2023], "lang": ["de", "fr"]},
    {"year": "2021", "lang": 7, "tags": "x", "deep": {"year": 2030}},
    {},
    {"lang": 'say "é"', "year": -4},
    {"with space": 1, "a.b": 2, "lang": "it's"},
]
FILTERS = {
    "year >= 2020": "bcd",
    "year > 2022": "cd",
    "year<2020": "adg",
    "year <= -4": "g",
    "year = 2021": "b",
    "year = 2021.0": "b",
    "year = 2022.5": "c",
    "year >= 2022.25": "cd",
    "year < 2019.5": "adg",
    "year != 2021": "acdg",
    'year = "2021"': "e",
    "year in [2019, 2018, 2022.5]": "acd",
    "lang = en": "ab",
    "lang == en": "ab",
    "lang != en": "cdgh",
    "lang >= en": "abdgh",
    'lang in ["de", "fr"]': "cd",
    'lang = "say \\"é\\""': "g",
    "lang = it's": "h",
    "lang = 7": "e",
    "tags = x": "ace",
    "open = true": "a",
    "open != true": "b",
    "open = 1": "",
    "with_space = 1": "",
    "a.b = 2": "h",
    "absent = 1": "",
    "absent != 1": "",
    "deep = 2030": "",
}


def test_payloads_are_filtered_before_the_best_are_chosen(kind):
    store = kind.create()
    store.upsert(np.ones((8, 3)), list("abcdefgh"), PAYLOADS)
    wrong = {}
    for where, names in FILTERS.items():
        hits = [hit.doc_id for hit in store.search(QUERIES[:1], ["q"], k=2, where=where)]
        if hits != sorted(names, reverse=True)[:2]:
            wrong[where] = (hits, names)
    assert not wrong
    both = store.search(QUERIES[:1], ["q"], k=8, where=["lang = en", "year >= 2020"])
    assert [hit.doc_id for hit in both] == ["b"]
    own = store.search(QUERIES[:1], ["q"], k=8, where=lambda payload: payload.get("year") == -4)
    assert [hit.doc_id for hit in own] == ["g"]
    assert store.fetch(list("abcdefgh")).payloads == PAYLOADS


def test_a_filter_that_leaves_few_of_many_loses_no_hit(kind):
    random = np.random.default_rng(1)
    vectors = random.integers(-20, 21, (1500, 8)).astype("f4") + 0.5
    ids = [f"d{row}" for row in range(1500)]
    payloads = [{"part": row % 100, "rare": row in (7, 700)} for row in range(1500)]
    store = kind.create(8)
    store.upsert(vectors, ids, payloads)
    queries = random.integers(-20, 21, (4, 8)).astype("f4")
    names = ["q0", "q1", "q2", "q3"]
    chosen = set(ids[3::70])
    for where in ["part = 3", "part >= 98", "rare = true", lambda payload: payload["part"] == 5]:
        kept = {
            name: vector
            for name, vector, payload in zip(ids, vectors, payloads, strict=True)
            if condition(where)(payload)
        }
        hits = list(store.search(queries, names, k=10, where=where))
        assert hits == list(exact(kept, queries, names, k=10))
        assert len(hits) == 4 * min(10, len(kept))
    kept = {name: vector for name, vector in zip(ids, vectors, strict=True) if name in chosen}
    assert list(store.search(queries, names, k=50, only=chosen)) == list(exact(kept, queries, names, k=50))
    both = {name: kept[name] for name in kept if int(name[1:]) % 100 >= 50}
    hits = store.search(queries, names, k=50, only=chosen, where="part >= 50")
    assert list(hits) == list(exact(both, queries, names, k=50))


def test_excluded_documents_do_not_come_back_and_others_take_their_places(kind):
    vectors = RANDOM.integers(-9, 10, (60, 3)).astype("f4") + 0.5
    ids = [f"d{row}" for row in range(60)]
    store = kind.create()
    store.upsert(vectors, ids)
    excluded = {"p": set(ids[:30]), "r": {ids[0], "unknown"}}
    expected = exact_search((ids, vectors), (NAMES, QUERIES), k=40, excluded=excluded)
    assert list(store.search(QUERIES, NAMES, k=40, excluded=excluded)) == list(expected)


def test_of_documents_that_tie_the_larger_id_comes_first(kind):
    random = np.random.default_rng(2)
    vectors = random.standard_normal((240, 8)).astype("f4")
    vectors[::3] = vectors[0]  # 80 equal ones, in every part of the collection
    ids = [f"d{number}" for number in random.permutation(240)]
    store = kind.create(8)
    for start in range(0, 240, 60):
        store.upsert(vectors[start : start + 60], ids[start : start + 60])
    tied = sorted(ids[::3], reverse=True)
    for k in (1, 5, 79, 80):
        hits = store.search(vectors[:1], ["q"], k=k)
        assert [hit.doc_id for hit in hits] == tied[:k]
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_scores_are_those_of_an_exact_search(kind, metric):
    vectors = RANDOM.standard_normal((100, 16)).astype("f4")
    queries = RANDOM.standard_normal((5, 16)).astype("f4")
    ids, names = [f"d{row}" for row in range(100)], [f"q{row}" for row in range(5)]
    store = kind.create(16, metric=metric)
    store.upsert(vectors, ids)
    hits = list(store.search(queries, names, k=100))
    expected = list(exact_search((ids, vectors), (names, queries), k=100, metric=metric))
    assert found(hits) == found(expected)
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], rel=1e-5, abs=1e-5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    stored = unit if metric == "cosine" else vectors
    assert np.allclose(store.fetch(ids).vectors, stored, rtol=1e-6, atol=0)


def test_ids_may_be_any_text(kind):
    ids = [*"éÉ日😀%0{'\"\\", "a b", "a'b", 'a"b\\', "%s", "{}", "-1", "007", "x" * 500, "a\nb", "\t", "\x01"]
    ids += ["e\u0301"]  # é in two parts is another id
    vectors = RANDOM.integers(-9, 10, (len(ids), 3)).astype("f4") + 0.5
    store = kind.create()
    store.upsert(vectors, ids, [{"name": name} for name in ids])
    assert store.count() == len(ids)
    expected = exact_search((ids, vectors), (["ü"], QUERIES[:1]), k=50)
    assert list(store.search(QUERIES[:1], ["ü"], k=50)) == list(expected)
    there = store.fetch([*ids, "unknown"])
    assert there.ids == ids
    assert [payload["name"] for payload in there.payloads] == ids
    for name in ids:
        only = store.search(QUERIES[:1], ["q"], k=50, only={name, "unknown"})
        assert [hit.doc_id for hit in only] == [name]
    assert store.delete([*ids[::2], "unknown"]) == len(ids[::2])
    assert store.fetch(ids).ids == ids[1::2]


def test_a_store_that_is_opened_again_is_as_it_was(kind):
    store = kind.create(metric="cosine")
    store.upsert(np.eye(3) * 2, list("abc"), [{"n": 1}, {}, {"n": [1, "x"]}])
    store.delete(["b"])
    before, there = list(store.search(QUERIES, NAMES, k=5)), store.fetch(["a", "c"])
    again = kind.again(store)
    assert list(again.search(QUERIES, NAMES, k=5)) == before
    assert again.count() == 2
    assert (again.dim, again.settings.metric) == (3, "cosine")
    assert again.info()["documents"] == 2
    found = again.fetch(["c", "b", "a"])
    assert found.ids == ["c", "a"]
    assert found.payloads == [{"n": [1, "x"]}, {"n": 1}] == there.payloads[::-1]
    again.upsert(np.eye(3), list("bcd"))
    assert again.count() == 4
    assert again.fetch(["c"]).payloads == [{}]


def test_many_threads_search_what_one_would_find(kind):
    vectors = RANDOM.integers(-9, 10, (300, 8)).astype("f4") + 0.5
    queries = RANDOM.integers(-9, 10, (24, 8)).astype("f4")
    ids = [f"d{row}" for row in range(300)]
    store = kind.create(8)
    store.upsert(vectors, ids, [{"odd": bool(row % 2)} for row in range(300)])
    gate = threading.Barrier(4)

    def ask(row):
        if row < 4:
            gate.wait()
        return list(store.search(queries[row : row + 1], [str(row)], k=9, where="odd = true"))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(24)))
    for row, hits in enumerate(answers):
        assert hits == list(
            exact_search((ids[1::2], vectors[1::2]), ([str(row)], queries[row : row + 1]), k=9)
        )


def test_an_empty_store_answers_with_nothing(kind):
    store = kind.create()
    assert list(store.search(QUERIES, NAMES, k=5)) == []
    assert store.count() == 0
    assert store.delete(["a"]) == 0
    assert store.fetch(["a"]).ids == []
    store.upsert(np.zeros((0, 3)), [])
    assert store.count() == 0
