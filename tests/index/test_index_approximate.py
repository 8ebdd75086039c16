"""Approximate factories: what they find is measured, and said where it is less than was asked for."""

import logging
import subprocess
import sys

import faiss
import numpy as np
import pytest

from o1_index import build, build_from, exact_search, open_index
from o1_index import engine as faiss_engine
from o1_index.build import adopt
from o1_index.tuning import tune
from o1_records import InputError
from o1_records.vectors import VectorSet, VectorWriter

RANDOM = np.random.default_rng(0)


CENTRES = RANDOM.normal(size=(40, 16))


def clustered(rows):
    return (CENTRES[RANDOM.integers(0, 40, rows)] + 0.5 * RANDOM.normal(size=(rows, 16))).astype("f4")


VECTORS = clustered(4000)
QUERIES = clustered(40)
# encoders that do not normalise: lengths differ, and all vectors point more or less one way
LENGTHS = np.exp(0.7 * RANDOM.normal(size=(3000, 1)))
UNEQUAL = ((0.3 * RANDOM.normal(size=(3000, 32)) + 3) * LENGTHS).astype("f4")
ASKED = (0.3 * RANDOM.normal(size=(40, 32)) + 3).astype("f4")
IDS = [f"d{row}" for row in range(4000)]
NAMES = [f"q{row}" for row in range(40)]


def recall(hits, exact):
    pairs = zip(hits.arrays()[0].tolist(), exact.arrays()[0].tolist(), strict=True)
    return np.mean([len({*mine} & {*best} - {None}) / len({*best} - {None}) for mine, best in pairs])


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "factory", ["IVF64,Flat", "HNSW16,Flat", "IVF32,PQ8x4fs,Refine(SQ8)", "RaBitQ,Refine(SQ8)"]
)
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_parameters_that_nobody_chose_are_measured_at_build_at_the_k_that_is_searched(
    factory, metric, caplog
):
    index = build(VECTORS, IDS, factory=factory, metric=metric, k=50)
    hits = index.search(QUERIES, NAMES, k=50)
    exact = exact_search((IDS, VECTORS), (NAMES, QUERIES), k=50, metric=metric)
    assert len(hits) == 50 * len(NAMES)
    assert recall(hits, exact) >= 0.95
    measured = index.settings.measured
    assert (measured.k, measured.queries, measured.sample, measured.target) == (50, 250, "documents", 0.975)
    assert measured.recall >= 0.975
    assert "recall" not in " ".join(warnings(caplog))


@pytest.fixture
def folders(tmp_path):
    for name, ids, vectors in (("documents", IDS, VECTORS), ("queries", NAMES, QUERIES)):
        with VectorWriter(tmp_path / name) as writer:
            writer.write(ids, vectors)
            writer.close()
    return tmp_path


def test_where_there_are_queries_they_are_what_is_measured_with(folders):
    documents, queries = VectorSet(folders / "documents"), VectorSet(folders / "queries")
    index = build_from(documents, factory="IVF64,Flat", k=20, recall=0.9, queries=queries)
    measured = index.settings.measured
    assert (measured.k, measured.queries, measured.sample, measured.target) == (20, 40, "queries", 0.9)
    exact = exact_search((IDS, VECTORS), (NAMES, QUERIES), k=20)
    assert measured.recall == pytest.approx(recall(index.search(QUERIES, NAMES, k=20), exact))
    assert measured.recall >= 0.9
    index.save(folders / "index")
    assert open_index(folders / "index").settings == index.settings


def test_a_search_at_a_larger_k_than_was_measured_says_so_once(caplog):
    index = build(VECTORS, IDS, factory="IVF64,Flat", k=10)
    index.search(QUERIES, NAMES, k=10)
    assert warnings(caplog) == []
    for _ in range(2):
        index.search(QUERIES, NAMES, k=200)
    told = [message for message in warnings(caplog) if "measured at k=10" in message]
    assert len(told) == 1
    assert "tune the index at this k" in told[0]


def test_queries_that_get_fewer_than_k_hits_are_counted(caplog):
    index = build(VECTORS, IDS, factory="IVF64,Flat", parameters="nprobe=1")
    hits = index.search(QUERIES, NAMES, k=100)
    short = int(((hits.rows >= 0).sum(axis=1) < 100).sum())
    assert 0 < short <= 40
    assert warnings(caplog) == [
        f"{short} of 40 queries got fewer than k=100 hits: IVF64,Flat nprobe=1 visits too few; "
        "tune the index at this k",
        "the recall of IVF64,Flat nprobe=1 was never measured; tune the index at k=100",
    ]


def test_parameters_that_were_given_were_never_measured_which_is_said_once(caplog):
    index = build(VECTORS, IDS, factory="IVF64,Flat", parameters="nprobe=8")
    for _ in range(2):
        index.search(QUERIES, NAMES, k=10)
    assert warnings(caplog) == [
        "the recall of IVF64,Flat nprobe=8 was never measured; tune the index at k=10"
    ]


@pytest.mark.parametrize("factory", ["IVF64,Flat", "HNSW16,Flat"])
@pytest.mark.parametrize("change", ["many added", "removed and compacted"])
def test_what_was_measured_before_the_engine_changed_is_not_claimed_of_it(
    factory, change, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("o1_index.index.RECENT", 30)
    index = build(VECTORS, IDS, factory=factory, k=10)
    parameters = index.settings.parameters
    index.search(QUERIES, NAMES, k=10)
    assert not index.info()["measured"].get("outdated")
    assert warnings(caplog) == []
    if change == "many added":
        index.add(QUERIES, NAMES)
    else:
        index.remove(IDS[:1500])
        index.compact()
    index.save(tmp_path / "index")
    for changed in (index, open_index(tmp_path / "index")):
        caplog.clear()
        assert changed.settings.parameters == parameters
        assert changed.info()["measured"]["outdated"] is True
        for _ in range(2):
            changed.search(QUERIES, NAMES, k=10)
        assert warnings(caplog) == [
            f"the index has changed since the recall of {factory} {parameters} was measured; "
            "tune it again at k=10"
        ]
    documents = (list(index.documents), index.fetch(list(index.documents)).vectors)
    tune(index, QUERIES, NAMES, exact_search(documents, (NAMES, QUERIES), k=10), k=10, target=0.5)
    caplog.clear()
    index.search(QUERIES, NAMES, k=10)
    assert "outdated" not in index.info()["measured"]
    assert warnings(caplog) == []


def test_documents_beside_the_engine_leave_what_was_measured(caplog):
    index = build(VECTORS, IDS, factory="IVF64,Flat", k=10)
    index.compact()  # nothing to take in or out
    index.add(QUERIES, NAMES)
    index.search(QUERIES, NAMES, k=10)
    assert "outdated" not in index.info()["measured"]
    assert warnings(caplog) == []


def test_a_recall_that_nothing_reached_is_told_at_build_and_at_search(caplog):
    index = build(VECTORS, IDS, factory="IVF16,PQ4x4fs", recall=0.9)
    assert "nothing reached 0.950" in warnings(caplog)[-1]
    index.search(QUERIES, NAMES, k=10)
    assert f"expect a recall@100 of {index.settings.measured.recall:.3f}" in warnings(caplog)[-1]


def test_the_command_says_on_stderr_what_is_known_about_recall(folders):
    words = [sys.executable, "-m", "o1_index"]
    search = [*words, "search", "--index", "index", "--vectors", "queries", "--out", "run.txt", "--k"]

    def said(*command):
        done = subprocess.run(command, cwd=folders, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    build_words = [*words, "build", "--vectors", "documents", "--out", "index", "--factory", "IVF64,Flat"]
    built = said(*build_words, "--k", "20", "--queries", "queries", "--recall", "0.9")
    assert "recall@20" in built
    assert "measured with 40 queries" in built
    assert "tune" not in said(*search, "20")
    assert "was measured at k=20" in said(*search, "300")
    said(*build_words, "--parameters", "nprobe=1", "--new-job")
    told = said(*search, "100")
    assert "of 40 queries got fewer than k=100 hits: IVF64,Flat nprobe=1 visits too few" in told
    assert "queries have fewer than 100" in told


def test_an_exact_index_has_nothing_to_tell(caplog):
    build(VECTORS, IDS).search(QUERIES, NAMES, k=200)
    assert warnings(caplog) == []


# --- graphs -------------------------------------------------------------------------------------------


def graph(**options):
    return build(UNEQUAL, IDS[:3000], factory="HNSW16,Flat", **options)


def test_a_graph_finds_the_best_inner_products_of_vectors_of_unequal_length(tmp_path):
    index = graph(k=10)
    exact = exact_search((IDS[:3000], UNEQUAL), (NAMES, ASKED), k=10)
    index.save(tmp_path / "index")
    for each in (index, open_index(tmp_path / "index"), open_index(tmp_path / "index", mmap=True)):
        hits = each.search(ASKED, NAMES, k=10)
        assert recall(hits, exact) >= 0.98
        assert np.allclose(hits.scores, exact.scores, rtol=1e-3)
        assert each.info()["unreachable"] == len(index.unreachable) < 30
        assert each.dim == 32
    # the same graph as FAISS builds it finds less, and most of its documents never
    plain = faiss.index_factory(32, "HNSW16,Flat", faiss.METRIC_INNER_PRODUCT)
    plain.add(UNEQUAL)
    plain.hnsw.efSearch = 3000
    assert len(np.unique(plain.search(ASKED, 3000)[1])) < 1500
    assert len(np.unique(index.search(ASKED, NAMES, k=3000).rows)) == 3000


def test_of_an_adopted_graph_the_documents_that_cannot_be_reached_are_counted_and_found(
    tmp_path, caplog, monkeypatch
):
    plain = faiss.index_factory(32, "HNSW16,Flat", faiss.METRIC_INNER_PRODUCT)
    plain.add(UNEQUAL)
    faiss.write_index(plain, str(tmp_path / "plain.faiss"))
    index = adopt(tmp_path / "plain.faiss")
    lost = index.info()["unreachable"]
    assert lost > 300
    assert f"{lost:,} of 3,000 documents cannot be reached in the graph" in caplog.text
    index.set_parameters("efSearch=3000")
    names = [str(row) for row in range(3000)]
    exact = exact_search((names, UNEQUAL), (NAMES, ASKED), k=300)
    for only in (None, set(names[::2])):
        hits = index.search(ASKED, NAMES, k=300, only=only)
        assert all(len({*row}) == 300 for row in hits.arrays()[0].tolist())
    assert recall(index.search(ASKED, NAMES, k=300), exact) >= 0.95
    # the same where a filter leaves so many that the graph is searched
    monkeypatch.setattr("o1_index.index.SCANNED", 10)
    monkeypatch.setattr("o1_index.engine.SCANNED", 10)
    index.set_parameters("efSearch=4")
    rows = np.arange(0, 3000, 3)
    assert not faiss_engine.selecting(index.engine, np.isin(np.arange(3000), rows)).whole
    some = [names[row] for row in rows]
    exact = exact_search((some, UNEQUAL[rows]), (NAMES, ASKED), k=100)
    hits = index.search(ASKED, NAMES, k=100, only=set(some))
    unreachable = {names[row] for row in index.unreachable}
    expected = [{*best} & unreachable for best in exact.arrays()[0].tolist()]
    assert sum(map(len, expected)) > 100
    for found, best in zip(hits.arrays()[0].tolist(), expected, strict=True):
        assert len({*found}) == 100
        assert best <= {*found} <= {*some}


def test_an_outlier_is_found():
    random = np.random.default_rng(0)
    vectors = (0.3 * random.normal(size=(8326, 32)) + 3) * np.exp(0.7 * random.normal(size=(8326, 1)))
    names = [f"d{row}" for row in range(8326)]
    index = build(vectors, names, factory="HNSW32,Flat")
    exact = exact_search((names, vectors), (NAMES, ASKED), k=10)
    assert recall(index.search(ASKED, NAMES, k=10), exact) == 1
    assert index.search(ASKED, NAMES, k=1).arrays()[0].tolist() == exact.arrays()[0][:, :1].tolist()


def test_vectors_of_one_length_need_no_further_dimension():
    unit = UNEQUAL / np.linalg.norm(UNEQUAL, axis=1, keepdims=True)
    assert build(unit, IDS[:3000], factory="HNSW16,Flat").settings.radius == 0
    assert graph().settings.radius == pytest.approx(np.linalg.norm(UNEQUAL, axis=1).max())
    assert graph(metric="cosine").settings.radius == graph(metric="l2").settings.radius == 0


@pytest.mark.parametrize("recent", [4096, 0])
def test_such_a_graph_is_changed_and_fetched_from_like_any_other(recent, monkeypatch):
    monkeypatch.setattr("o1_index.index.RECENT", recent)
    index = graph()
    index.add(3 * UNEQUAL[:5], [f"long{row}" for row in range(5)])  # beyond the radius, some of them
    index.remove(IDS[:100])
    index.update(UNEQUAL[100:101] * 0.5, IDS[100:101])
    left = np.concatenate([UNEQUAL[101:], 3 * UNEQUAL[:5], UNEQUAL[100:101] * 0.5])
    names = [*IDS[101:3000], *(f"long{row}" for row in range(5)), IDS[100]]
    exact = exact_search((names, left), (NAMES, ASKED), k=10)
    for _ in range(2):
        hits = index.search(ASKED, NAMES, k=10)
        assert recall(hits, exact) >= 0.98
        assert np.allclose(index.fetch(["d200", "long1", "d100"]).vectors, left[[99, -5, -1]], rtol=1e-5)
        above = float(np.sort(exact.scores.ravel())[:2].mean())  # not a score, which rounding could move
        ranged = index.range_search(ASKED, NAMES, above=above)
        assert len(ranged) == int((above < ASKED @ left.T).sum())
        index.compact()


# --- filters and removals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "factory", ["HNSW16,Flat", "IVF64,Flat", "IVF64,SQ8", "HNSW16,SQ8", "PCA12,IVF32,Flat"]
)
@pytest.mark.parametrize("count", [3, 20, 200, 2500])
def test_a_filter_finds_what_the_factory_would_find_without_the_others(factory, count):
    index = build(VECTORS, IDS, factory=factory, k=10)
    rows = np.sort(RANDOM.choice(4000, count, replace=False))
    names = [IDS[row] for row in rows]
    kept = VECTORS[rows] if "PCA" in factory else index.fetch(names).vectors
    exact = exact_search((names, kept), (NAMES, QUERIES), k=10)
    index.remove([name for name in IDS if name not in set(names)][:500])
    hits = index.search(QUERIES, NAMES, k=10, only=set(names))
    assert len(hits) == len(exact)
    assert set(hits.arrays()[0].ravel().tolist()) <= {*names, None}
    if "PCA" not in factory:
        assert recall(hits, exact) >= (1 if "Flat" in factory and count <= 200 else 0.9)


def test_a_graph_whose_documents_are_replaced_again_and_again_finds_as_many(monkeypatch):
    monkeypatch.setattr("o1_index.index.RECENT", 100)
    index = build(VECTORS, IDS, factory="HNSW16,Flat", k=10)
    vectors = VECTORS.copy()
    exact = exact_search((IDS, VECTORS), (NAMES, QUERIES), k=10)
    first = recall(index.search(QUERIES, NAMES, k=10), exact)
    for start in range(0, 4000, 400):
        vectors[start : start + 400] = clustered(400)
        index.upsert(vectors[start : start + 400], IDS[start : start + 400])
    exact = exact_search((IDS, vectors), (NAMES, QUERIES), k=10)
    for _ in range(2):
        assert recall(index.search(QUERIES, NAMES, k=10), exact) >= first - 0.03
        index.compact()
    assert index.info()["removed_rows"] == 0


def test_a_graph_that_takes_all_documents_at_once_is_built_again_where_they_change(monkeypatch):
    monkeypatch.setattr(sys.modules["o1_index.build"], "_BATCH_ROWS", 100)
    monkeypatch.setattr("o1_index.index.RECENT", 10)
    index = build(VECTORS[:500], IDS[:500], factory="NSG8,Flat", metric="l2")
    index.add(VECTORS[500:520], IDS[500:520])
    index.remove(IDS[:20])
    exact = exact_search((IDS[20:520], VECTORS[20:520]), (NAMES, QUERIES), k=10, metric="l2")
    assert recall(index.search(QUERIES, NAMES, k=10), exact) >= 0.95
    some = exact_search((IDS[20:60], VECTORS[20:60]), (NAMES, QUERIES), k=10, metric="l2")
    assert recall(index.search(QUERIES, NAMES, k=10, only=set(IDS[:60])), some) == 1
    above = float(np.sort(exact.scores.ravel())[:2].mean())
    assert len(index.range_search(QUERIES, NAMES, above=above)) == int(
        (
            exact_search((IDS[20:520], VECTORS[20:520]), (NAMES, QUERIES), k=500, metric="l2").scores > above
        ).sum()
    )


# --- ranges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16,Flat", "L2norm,Flat"])
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_a_range_holds_all_documents_with_every_factory_of_whole_vectors(factory, metric):
    index = build(VECTORS, IDS, factory=factory, metric=metric)
    documents = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True) if "L2norm" in factory else VECTORS
    queries = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True) if "L2norm" in factory else QUERIES
    every = exact_search((IDS, documents), (NAMES, queries), k=4000, metric=metric)
    for share in (0.0, 0.01, 0.5):
        above = float(np.quantile(every.scores, 1 - share)) if share else -1e9
        hits = index.range_search(QUERIES, NAMES, above=above)
        assert abs(len(hits) - int((every.scores > above).sum())) <= 2  # one that is on the edge, to rounding


@pytest.mark.parametrize("factory", ["IVF16,RaBitQfs", "IVF16,PQ8x4fs", "IVF16,RaBitQ", "RaBitQ"])
def test_factories_whose_ranges_faiss_gets_wrong_are_refused(factory):
    index = build(VECTORS, IDS, factory=factory)
    with pytest.raises(InputError, match=r"range search with factory .*; search for the k best"):
        index.range_search(QUERIES, NAMES, above=0)
