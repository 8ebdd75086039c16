"""Choosing a factory by size and parameters by measurement."""

import os
import subprocess
import sys
from xml.etree import ElementTree

import faiss
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_index import build, build_from, exact_search, open_index
from o1_index import engine as faiss_engine
from o1_index.auto import approximate, available_memory, choose
from o1_index.engine import parameter_values
from o1_index.store.versions import open_version
from o1_index.tuning import Trial, Tuning, choose_trial, exact_hits, found_shares, tune
from o1_index.vectors import METRICS
from o1_records import InputError
from o1_records.vectors import VectorSet, VectorWriter

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(600, 8)).astype(np.float32)
QUERIES = RANDOM.normal(size=(30, 8)).astype(np.float32)
IDS, NAMES = [f"d{i}" for i in range(600)], [f"q{i}" for i in range(30)]
GIB = 2**30


@pytest.fixture
def folder(tmp_path):
    for name, ids, vectors in (("documents", IDS, VECTORS), ("queries", NAMES, QUERIES)):
        writer = VectorWriter(tmp_path / name)
        for start in range(0, len(ids), 100):
            writer.write(ids[start : start + 100], vectors[start : start + 100])
        writer.close()
    return tmp_path


@pytest.mark.parametrize(
    ("rows", "dim", "memory", "recall", "factory"),
    [
        (5_000, 384, GIB, 0.95, "Flat"),
        (500_000, 384, GIB, 1.0, "Flat"),
        (1_000_000, 384, 8 * GIB, 0.95, "HNSW32,Flat"),
        (10_000_000, 1024, 64 * GIB, 0.95, "IVF32768,Flat"),
        (10_000_000, 1024, 16 * GIB, 0.95, "IVF32768,PQ512x4fs,Refine(SQ8)"),
        (10_000_000, 1024, 6 * GIB, 0.95, "IVF32768,RaBitQfs4"),
        (10_000_000, 1024, 3 * GIB, 0.95, "IVF16384,PQ512x4fs"),
        (100_000_000, 1024, 512 * GIB, 0.95, "IVF65536_HNSW32,Flat"),
        (100_000_000, 1024, 64 * GIB, 0.95, "IVF65536_HNSW32,RaBitQfs4"),
        (1_000_000_000, 1024, 512 * GIB, 0.95, "IVF262144_HNSW32,RaBitQfs4"),
        (1_000_000_000, 1024, 300 * GIB, 0.95, "IVF262144_HNSW32,PQ512x4fs"),
        (1_000_000_000, 1024, 200 * GIB, 0.95, "IVF262144_HNSW32,RaBitQfs"),
    ],
)
def test_auto_takes_the_most_exact_factory_that_fits(rows, dim, memory, recall, factory):
    choice = choose(rows, dim, recall=recall, memory=memory)
    assert choice.factory == factory
    assert choice.size <= memory
    assert choice.reason


@given(st.integers(0, 10**9), st.integers(1, 4096), st.integers(2**20, 2**40))
def test_what_auto_chooses_fits_or_it_says_that_nothing_does(rows, dim, memory):
    if rows * dim * 4 <= memory:
        assert choose(rows, dim, memory=memory).size <= memory
    elif rows * (dim // 8 + 16) > memory:
        with pytest.raises(InputError, match="no factory holds"):
            choose(rows, dim, memory=memory)


def test_auto_refuses_the_impossible():
    with pytest.raises(
        InputError, match=r"exact search of 1,000,000 x 1024 needs 3\.8 GiB, there is 1\.0 GiB"
    ):
        choose(1_000_000, 1024, recall=1, memory=GIB)
    with pytest.raises(InputError, match="recall must be above 0 and at most 1, got 0"):
        choose(10, 10, recall=0)


@pytest.mark.parametrize("dim", [33, 64])
def test_the_factories_of_auto_take_as_many_bytes_as_it_says(dim):
    vectors, ids = RANDOM.normal(size=(4000, dim)).astype("f4"), [f"d{row}" for row in range(4000)]
    choices = approximate(4000, dim, room=4 * 39 * 8 * dim)  # as much as trains 8 lists
    assert len(choices) == (4 if dim % 2 else 6)
    for choice in choices:
        parameters = "nprobe=1" if "IVF" in choice.factory else "efSearch=16"
        index = build(vectors, ids, factory=choice.factory, parameters=parameters)
        assert len(faiss.serialize_index(index.engine)) == pytest.approx(choice.size, rel=0.06, abs=20_000)
        assert parameter_values(index.engine).keys() <= {"nprobe", "efSearch", "k_factor_rf"}


def test_every_list_is_trained_with_as_many_vectors_as_faiss_asks_for(monkeypatch, caplog):
    monkeypatch.setattr("o1_index.auto.FLAT_ROWS", 10)
    monkeypatch.setattr("o1_index.auto.GRAPH_ROWS", 10)
    monkeypatch.setattr(sys.modules["o1_index.build"], "TRAINING_ROWS", 100)
    trained = []
    train = faiss_engine.train
    monkeypatch.setattr(faiss_engine, "train", lambda *what: trained.append(len(what[1])) or train(*what))
    vectors = RANDOM.normal(size=(20_000, 4)).astype("f4")
    build(vectors, [f"d{row}" for row in range(20_000)], factory="IVF128,Flat", parameters="nprobe=1")
    assert 128 * 39 * 0.75 <= trained[0] <= 128 * 39
    build(vectors[:600], IDS, factory="IVF64,Flat", parameters="nprobe=1")
    assert trained[1] == 600
    assert "64 lists are trained with 600 vectors, FAISS asks for 2,496" in caplog.text


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1000\n"}, 1000),
        (
            {
                "proc/self/cgroup": "1:cpu:/x\n2:memory:/y\n",
                "sys/fs/cgroup/memory/y/memory.limit_in_bytes": "7",
            },
            7,
        ),
    ],
)
def test_the_memory_of_a_container_counts_not_that_of_the_machine(files, limit, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory(tmp_path) == (machine if limit is None else limit)


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW8,Flat", "IVF8,PQ4x4,RFlat", "PCA6,IVF8,Flat"])
def test_tuning_reaches_the_recall_it_was_asked_for_and_keeps_the_parameters(folder, factory):
    documents = VectorSet(folder / "documents")
    index = build_from(documents, factory=factory)
    exact = exact_hits(documents.shards(), QUERIES, NAMES, k=10, metric="inner_product")
    tuning = tune(index, QUERIES, NAMES, exact, k=10, target=0.5, repeats=1)
    tried = 1
    for values in parameter_values(index.engine).values():
        tried *= len(values)
    assert len(tuning.trials) == tried
    assert index.settings.parameters == tuning.chosen.parameters
    found = index.search(QUERIES, NAMES, k=10)
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(found.arrays()[0], exact.arrays()[0], strict=True)]
    assert np.mean(shares) == pytest.approx(tuning.chosen.recall)
    assert tuning.chosen.recall >= 0.5


@pytest.mark.parametrize("metric", METRICS)
def test_exact_hits_shard_by_shard_are_those_of_the_oracle(folder, metric):
    documents = VectorSet(folder / "documents")
    hits = exact_hits(documents.shards(), QUERIES, NAMES, k=25, metric=metric)
    oracle = exact_search((IDS, VECTORS), (NAMES, QUERIES), k=25, metric=metric)
    assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in oracle]


def test_of_documents_that_tie_at_the_last_place_any_is_as_good(folder):
    vectors = VECTORS.copy()
    vectors[:300] = vectors[0]
    index = build(vectors, IDS, factory="IVF4,Flat", k=20, recall=1)
    assert index.settings.measured.recall == 1
    parts = [(IDS[start : start + 100], vectors[start : start + 100]) for start in range(0, 600, 100)]
    exact = exact_hits(parts, vectors[:1], ["q"], k=20, metric="inner_product")
    index.set_parameters("nprobe=4")
    assert found_shares(index.search(vectors[:1], ["q"], k=20), exact, 20) == [1.0]
    others = index.search(vectors[:1], ["q"], k=20, only=set(IDS[300:]))
    better = int((vectors[300:] @ vectors[0] > vectors[0] @ vectors[0]).sum())
    assert found_shares(others, exact, 20) == [min(better, 20) / 20]


@pytest.mark.parametrize("metric", METRICS)
def test_the_length_of_the_vectors_does_not_change_the_recall_that_is_measured(metric):
    vectors = np.random.default_rng(1).normal(size=(6_000, 32)).astype(np.float32)
    ids = [f"d{row}" for row in range(6_000)]

    def built(scale):
        matrix = vectors * np.float32(scale)
        return build(matrix, ids, factory="IVF64,Flat", metric=metric, k=10, recall=0.6).settings

    whole = built(1)
    assert built(2**-10) == whole  # a power of two changes no digit; another scale may change the clusters
    for scale in (1e-3, 1e3):
        assert built(scale).parameters == whole.parameters
        assert built(scale).measured.recall == pytest.approx(whole.measured.recall, abs=0.01)
    assert 0.8 <= whole.measured.recall < 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_documents_that_tie_but_for_rounding_tie_at_every_scale(metric, scale):
    point, query = (RANDOM.normal(size=(1, 64)).astype(np.float32) for _ in range(2))
    # the same document 40 times, but for the last digit
    noise = RANDOM.uniform(-1e-7, 1e-7, size=(40, 64))
    vectors = (scale * point * (1 + noise)).astype(np.float32)
    ids = [f"d{row}" for row in range(40)]
    for queries in (scale * query, scale * point):
        squares = [float(np.square(queries).sum())] if metric == "l2" else None
        exact = exact_hits([(ids, vectors)], queries, ["q"], k=10, metric=metric)
        others = set(ids) - {hit.doc_id for hit in exact}
        index = build(vectors, ids, metric=metric)
        found = index.search(queries, ["q"], k=10, only=others)
        assert found_shares(found, exact, 10, squares=squares) == [1.0]


def test_one_long_document_does_not_make_the_others_tie():
    lengths = np.array([1e7, *range(20, 0, -1)], dtype=np.float32)[:, None]
    ids = [f"d{row}" for row in range(21)]
    query = np.ones((1, 1), dtype=np.float32)
    exact = exact_hits([(ids, lengths)], query, ["q"], k=10, metric="inner_product")
    found = build(lengths, ids).search(query, ["q"], k=10, only=set(ids[10:]))
    assert found_shares(found, exact, 10) == [0.0]


def test_the_fastest_that_finds_enough_is_chosen_else_the_one_that_finds_most():
    trials = [
        Trial(parameters=name, recall=recall, milliseconds=ms)
        for name, recall, ms in [("a", 0.5, 1), ("b", 0.96, 3), ("c", 0.97, 2), ("d", 0.99, 9)]
    ]
    assert choose_trial(trials, 0.95).parameters == "c"
    assert choose_trial(trials, 0.995).parameters == "d"


def test_an_index_without_parameters_has_nothing_to_tune(folder):
    index = build(VECTORS, IDS)
    with pytest.raises(InputError, match="'Flat' has no search parameters"):
        tune(index, QUERIES, NAMES, index.search(QUERIES, NAMES, k=10))


def command(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "o1_index", *words], cwd=folder, capture_output=True, text=True
    )


def test_the_command_tunes_a_saved_index_and_draws_the_curve(folder):
    build_from(VectorSet(folder / "documents"), factory="IVF16,Flat").save(folder / "index")
    words = ["tune", "--index", "index", "--vectors", "queries", "--recall", "0.9", "--documents"]
    done = command(folder, *words, "documents")
    assert done.returncode == 0, done.stderr
    version = open_version(folder / "index")
    tuning = msgspec.json.decode(version.file("tuning.json").read(), type=Tuning)
    assert open_index(folder / "index").settings.parameters == tuning.chosen.parameters
    assert tuning.chosen.recall >= 0.9
    assert [line.split("\t")[0] for line in done.stdout.splitlines()[1:]] == [
        trial.parameters for trial in tuning.trials
    ]
    picture = ElementTree.fromstring(version.file("tuning.svg").read())
    points = picture.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(points) == len(tuning.trials) == 5
    assert command(folder, *words, "queries").returncode == 4
    assert command(folder, *words, "documents", "--recall", "1.5").returncode == 2
    # tuned parameters are no other index; a changed index is
    rebuild = ["build", "--vectors", "documents", "--out", "index", "--factory", "IVF16,Flat"]
    assert "up to date" in command(folder, *rebuild).stderr
    (folder / "gone.txt").write_text("d1\n")
    assert command(folder, "remove", "--index", "index", "--ids", "gone.txt").returncode == 0
    for again in (rebuild, [*words, "documents"]):
        done = command(folder, *again)
        assert done.returncode == 4
        assert "changed since" in done.stderr


def test_auto_says_what_it_chose_and_why(folder):
    done = command(folder, "build", "--vectors", "documents", "--out", "index", "--factory", "auto")
    assert "auto: Flat: exact: 600 vectors take 0 MiB" in done.stderr
    again = command(folder, "build", "--vectors", "documents", "--out", "index", "--factory", "auto")
    assert "up to date" in again.stderr
    assert build(VECTORS, IDS, factory="auto").settings.factory == "Flat"
