"""A build that is published: continued where it was interrupted, refused or moved aside where it differs."""

import logging
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from o1_index import build, build_from, open_index
from o1_index.store.checkpoint import BuildState, Checkpoints
from o1_records import InputError
from o1_records.kit.job import ChangedJobError
from o1_records.vectors import VectorSet, VectorWriter

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(600, 8)).astype(np.float32)
IDS, NAMES = [f"d{i}" for i in range(600)], [f"q{i}" for i in range(7)]


def written(folder, ids=IDS, vectors=VECTORS):
    writer = VectorWriter(folder)
    for start in range(0, len(ids), 100):
        writer.write(ids[start : start + 100], vectors[start : start + 100])
    writer.close()
    return VectorSet(folder)


@pytest.fixture
def vectors(tmp_path):
    return written(tmp_path / "vectors")


@pytest.fixture
def eager(monkeypatch):
    """A checkpoint after every shard."""
    monkeypatch.setitem(Checkpoints.__init__.__kwdefaults__, "least", 0.0)
    monkeypatch.setitem(Checkpoints.__init__.__kwdefaults__, "share", 1e9)


class Interrupted(VectorSet):
    """Interrupted at the fourth shard, when the factory has been trained."""

    passes = 0

    def shards(self, start=0):
        for number, shard in enumerate(super().shards(start), start):
            if self.passes == 0 and number == 3:
                raise KeyboardInterrupt
            yield shard
        self.passes -= 1


def interrupted(tmp_path, factory="Flat", **options):
    """Leave a build of three shards behind."""
    vectors = Interrupted(tmp_path / "vectors")
    vectors.passes = 0 if factory == "Flat" else 1
    with pytest.raises(KeyboardInterrupt):
        build_from(vectors, factory=factory, out=tmp_path / "index", **options)
    state = tmp_path / "index.partial" / "checkpoint" / "state.json"
    return msgspec.json.decode(state.read_bytes(), type=BuildState)


def hits(index):
    return list(index.search(VECTORS[:7] + 0.1, NAMES, k=9))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def command(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "o1_index", "build", "--vectors", "vectors", "--out", "index", *words],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("factory", ["Flat", "IVF8,PQ4x4"])
def test_an_interrupted_build_continues_from_its_checkpoint(vectors, tmp_path, eager, factory):
    whole = build_from(vectors, factory=factory)
    state = interrupted(tmp_path, factory)
    assert state.shards == 3
    index = build_from(vectors, factory=factory, out=tmp_path / "index")
    assert hits(index) == hits(open_index(tmp_path / "index")) == hits(whole)
    assert names(tmp_path) == ["index", "vectors"]
    assert names(tmp_path / "index") == ["current.json", "v000001"]


def test_shards_that_an_interrupted_build_took_in_are_not_read_again(vectors, tmp_path, eager):
    expected = hits(build_from(vectors))
    assert interrupted(tmp_path).shards == 3
    for number in range(3):
        (tmp_path / "vectors" / f"shard-0000{number}.safetensors").unlink()
    assert hits(build_from(vectors, out=tmp_path / "index")) == expected


def test_what_is_built_already_is_opened_and_not_built_again(vectors, tmp_path, caplog):
    built = build_from(vectors, out=tmp_path / "index")
    with caplog.at_level(logging.INFO, "o1_index"):
        again = build_from(vectors, out=tmp_path / "index")
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 'index'}: up to date"]
    assert hits(again) == hits(built)
    assert again.opened.mapped
    built.remove(["d5"])
    built.save(tmp_path / "index")
    assert len(open_index(tmp_path / "index")) == 599


def test_other_settings_are_refused_with_every_difference_and_the_work_stays(vectors, tmp_path, eager):
    state = interrupted(tmp_path)
    other = written(tmp_path / "other", IDS[:300], VECTORS[:300])
    for folder, out in ((other, "index"), (vectors, "index")):
        with pytest.raises(ChangedJobError) as refused:
            build_from(folder, factory="HNSW8", metric="cosine", out=tmp_path / out)
        said = str(refused.value)
        assert said.startswith(f"{tmp_path / 'index.partial'}: the earlier work was made with ")
        assert ("vectors" in said.partition("made with")[2]) == (folder is other)
        for name in (
            "factory 'Flat'",
            "factory 'HNSW8'",
            "metric 'inner_product'",
            "metric 'cosine'",
            "--new-job",
        ):
            assert name in said
    assert interrupted(tmp_path) == state
    build_from(vectors, out=tmp_path / "index")
    with pytest.raises(
        ChangedJobError, match=r"index: the earlier work was made with vectors .*metric 'cosine'"
    ):
        build_from(other, metric="cosine", out=tmp_path / "index")
    assert len(open_index(tmp_path / "index")) == 600


def test_a_new_job_moves_an_interrupted_build_and_an_index_aside(vectors, tmp_path, eager):
    interrupted(tmp_path)
    build_from(vectors, factory="HNSW8", out=tmp_path / "index", new_job=True)
    assert names(tmp_path) == ["index", "index.partial.old1", "vectors"]
    assert names(tmp_path / "index.partial.old1") == ["checkpoint"]
    assert build_from(vectors, factory="HNSW8", out=tmp_path / "index", new_job=True).opened.mapped
    build_from(vectors, factory="SQ8", out=tmp_path / "index", new_job=True)
    assert names(tmp_path) == ["index", "index.old1", "index.partial.old1", "vectors"]
    assert open_index(tmp_path / "index.old1").settings.factory == "HNSW8"
    # what was moved aside can be finished
    (tmp_path / "index.partial.old1").rename(tmp_path / "first.partial")
    assert hits(build_from(vectors, out=tmp_path / "first")) == hits(build_from(vectors))


def test_parameters_are_refused_only_where_they_are_asked_for(vectors, tmp_path):
    build_from(vectors, factory="IVF4,Flat", parameters="nprobe=2", out=tmp_path / "index")
    assert build_from(vectors, factory="IVF4,Flat", out=tmp_path / "index").settings.parameters == "nprobe=2"
    with pytest.raises(ChangedJobError, match="parameters 'nprobe=2', this run has parameters 'nprobe=3'"):
        build_from(vectors, factory="IVF4,Flat", parameters="nprobe=3", out=tmp_path / "index")


def test_parameters_that_the_factory_lacks_are_refused_before_the_work(vectors, tmp_path):
    vectors._read_vectors = None  # nothing is read
    with pytest.raises(InputError, match="parameters 'nprobe=2': FAISS refuses"):
        build_from(vectors, parameters="nprobe=2", out=tmp_path / "index")
    assert names(tmp_path) == ["vectors"]


@pytest.mark.parametrize("damage", ["engine", "state"])
def test_a_damaged_checkpoint_is_told_and_the_build_starts_again(vectors, tmp_path, eager, damage):
    interrupted(tmp_path)
    folder = tmp_path / "index.partial" / "checkpoint"
    path = next(folder.glob("engine-*.faiss")) if damage == "engine" else folder / "state.json"
    path.write_bytes(path.read_bytes()[:-1])
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the checkpoint is damaged, so the build starts again" in done.stderr
    assert hits(open_index(tmp_path / "index")) == hits(build_from(vectors))


def test_a_folder_that_is_no_index_is_refused_or_moved_aside_whole(vectors, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("mine")
    done = command(tmp_path)
    assert done.returncode == 4
    assert "index: exists, and no index can be opened there" in done.stderr
    done = command(tmp_path, "--new-job")
    assert done.returncode == 0, done.stderr
    assert "index: moved aside, to index.old1" in done.stderr
    assert (tmp_path / "index.old1" / "thesis.txt").read_text() == "mine"
    assert names(tmp_path / "index.old1") == ["thesis.txt"]
    assert len(open_index(tmp_path / "index")) == 600


def test_another_index_is_not_published_over_an_interrupted_build(vectors, tmp_path, eager):
    state = interrupted(tmp_path)
    with pytest.raises(InputError, match=r"index\.partial: holds the checkpoint of an interrupted build"):
        build(VECTORS, IDS).save(tmp_path / "index")
    assert interrupted(tmp_path) == state


def test_options_without_effect_are_refused(vectors, tmp_path):
    for options, message in [
        ({"memory": 2**30}, "memory is for the factory 'auto', not for 'Flat'"),
        ({"recall": 0.9}, "recall has no effect where the factory Flat is exact"),
        ({"k": 5}, "k has no effect where the factory Flat is exact"),
        ({"queries": vectors}, "queries has no effect where the factory Flat is exact"),
        (
            {"recall": 0.9, "factory": "IVF4,Flat", "parameters": "nprobe=2"},
            "recall has no effect where parameters 'nprobe=2' are given",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            build_from(vectors, **options)
    with pytest.raises(InputError, match="give `out`"):
        build_from(vectors, new_job=True)
    assert command(tmp_path, "--recall", "0.9").returncode == 4


def test_an_index_that_was_measured_for_another_k_or_recall_is_refused(vectors, tmp_path):
    out = {"out": tmp_path / "index", "factory": "IVF4,Flat"}
    build_from(vectors, **out, k=20, recall=0.9)
    for same in ({}, {"k": 20}, {"recall": 0.9}):
        assert build_from(vectors, **out, **same).settings.measured.k == 20
    for other, message in [
        ({"k": 30}, "with k '20', this run has k '30'"),
        ({"recall": 0.8}, "with recall '0.9', this run has recall '0.8'"),
        ({"parameters": "nprobe=3"}, "this run has parameters 'nprobe=3'"),
    ]:
        with pytest.raises(ChangedJobError, match=message):
            build_from(vectors, **out, **other)
    assert build_from(vectors, **out, k=30, new_job=True).settings.measured.k == 30
