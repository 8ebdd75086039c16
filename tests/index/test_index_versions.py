"""Changing a saved index: new versions beside the old ones, one pointer, nobody's work lost."""

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_index import build, exact_search, open_index
from o1_index.store.versions import open_version, prune
from o1_records import InputError

VECTORS = np.random.default_rng(1).normal(size=(80, 8)).astype(np.float32)
IDS = [f"d{i:02d}" for i in range(80)]
NAMES = [f"q{i}" for i in range(5)]


@pytest.fixture
def saved(tmp_path):
    build(VECTORS[:40], IDS[:40]).save(tmp_path / "index")
    return tmp_path / "index"


def plain(hits):
    return [(hit.query_id, hit.doc_id, hit.rank, round(hit.score, 4)) for hit in hits]


def found(index, k=7, **options):
    return plain(index.search(VECTORS[:5] + 0.1, NAMES, k=k, **options))


def expected(rows, k=7):
    documents = ([IDS[row] for row in rows], VECTORS[rows])
    return plain(exact_search(documents, (NAMES, VECTORS[:5] + 0.1), k=k))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "upsert"]), st.integers(0, 19)), max_size=25))
def test_any_series_of_changes_equals_an_index_of_what_is_left(steps):
    # a vector of its own for each step: the oracle adds up equal ones in another order
    vectors = np.random.default_rng(2).normal(size=(25, 20, 8)).astype(np.float32)
    index, held = build(VECTORS[:1], ["base"]), {"base": VECTORS[0]}
    for number, (what, row) in enumerate(steps):
        name, vector = IDS[row], vectors[number, row]
        if what == "upsert" or (what == "add" and name not in held):
            getattr(index, what)(vector[None], [name])
            held[name] = vector
        elif what == "remove" and name in held:
            index.remove([name])
            del held[name]
    assert len(index) == len(held)
    oracle = exact_search(
        (list(held), np.array(list(held.values()) or np.zeros((0, 8)))), (NAMES, VECTORS[:5]), k=9
    )
    hits = index.search(VECTORS[:5], NAMES, k=9)
    assert [(h.query_id, h.doc_id, h.rank) for h in hits] == [(h.query_id, h.doc_id, h.rank) for h in oracle]


# the last four cannot leave rows out themselves
FACTORIES = ["Flat", "SQ8", "IVF2,Flat", "HNSW16", "PCA6,Flat", "IVF2,PQ4x4,RFlat"]
FACTORIES += ["PQ4x4", "PQ4x4fs", "RQ2x4", "IVF2,RQ2x4"]


@pytest.mark.parametrize("factory", FACTORIES)
def test_removed_and_filtered_documents_never_come_back(factory):
    index = build(VECTORS, IDS, factory=factory)
    if "IVF" in factory:
        index.set_parameters("nprobe=2")
    index.remove(IDS[:30])
    only = set(IDS[20:60])
    hits = found(index, k=50, only=only)
    assert {doc_id for _, doc_id, _, _ in hits} <= set(IDS[30:60])
    assert len(hits) > 5 * (20 if "HNSW" in factory else 29)
    assert found(index, only={"nobody"}) == []


def test_a_filtered_flat_search_is_exact(saved):
    assert found(open_index(saved), only=set(IDS[10:25]) | {"stranger"}) == expected(range(10, 25))


def test_range_search_gives_all_documents_above_a_score_in_the_total_order(saved):
    index = open_index(saved)
    index.remove(IDS[:3])
    hits = plain(index.range_search(VECTORS[:5] + 0.1, NAMES, above=1.5))
    assert hits == [hit for hit in expected(range(3, 40), k=37) if hit[3] > 1.5]
    assert len(hits) > 5
    with pytest.raises(InputError, match="range search with factory"):
        build(VECTORS, IDS, factory="PQ4x4fs").range_search(VECTORS[:1], ["q"], above=0)


def test_changes_are_a_new_version_and_readers_keep_theirs(saved):
    reader, mapped = open_index(saved), open_index(saved, mmap=True)
    writer = open_index(saved)
    writer.add(VECTORS[40:], IDS[40:])
    writer.remove(IDS[:10])
    writer.save(saved)
    assert open_version(saved).number == 2
    assert found(open_index(saved)) == found(writer) == expected(range(10, 80))
    assert found(reader) == found(mapped) == expected(range(40))
    writer.update(VECTORS[:2], IDS[40:42])
    writer.save(saved)
    assert prune(saved, keep=1) == ["v000002"]  # the engine of the third is that of the first
    assert found(mapped) == expected(range(40))
    assert len(open_index(saved)) == 70
    writer.compact()
    writer.save(saved)
    assert prune(saved, keep=1) == ["v000001", "v000003"]
    assert found(mapped) == expected(range(40))
    assert found(open_index(saved)) == found(writer)


def test_of_two_writers_the_second_is_refused_and_nothing_is_lost(saved):
    first, second = open_index(saved), open_index(saved)
    first.add(VECTORS[40:41], IDS[40:41])
    second.add(VECTORS[41:42], IDS[41:42])
    first.save(saved)
    with pytest.raises(InputError, match="is at v000002 now, this index was opened at v000001"):
        second.save(saved)
    assert len(open_index(saved)) == 41
    assert "d40" in open_index(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.add(VECTORS[:2], ["new", "d05"]), r"1 ids are in the index already: \['d05'\]"),
        (lambda index: index.add(VECTORS[:2], ["new", "new"]), "duplicate id"),
        (lambda index: index.add(VECTORS[:1, :5], ["new"]), "5 dimensions, the index has 8"),
        (lambda index: index.upsert(VECTORS[:2] * [[1], [np.nan]], ["d05", "new"]), "not finite"),
        (lambda index: index.upsert(VECTORS[:2], ["d05", "d05"]), "duplicate id"),
        (lambda index: index.update(VECTORS[:2], ["d05", "new"]), r"1 ids are not in the index: \['new'\]"),
        (lambda index: index.remove(["d01", "nobody"]), r"1 ids are not in the index: \['nobody'\]"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(saved, change, message):
    index = open_index(saved)
    with pytest.raises(InputError, match=message):
        change(index)
    assert found(index) == expected(range(40))
    assert len(index) == 40


def test_a_mapped_index_takes_a_few_documents_beside_its_engine_and_no_more(saved, monkeypatch):
    monkeypatch.setattr("o1_index.index.RECENT_MAPPED", 40)
    index = open_index(saved, mmap=True)
    index.upsert(VECTORS[30:60], IDS[30:60])
    index.remove(IDS[:5])
    assert found(index) == expected(range(5, 60))
    index.save(saved)
    assert found(open_index(saved)) == found(open_index(saved, mmap=True)) == expected(range(5, 60))
    for change in (index.compact, lambda: index.add(VECTORS[60:], IDS[60:])):
        with pytest.raises(InputError, match="mapped from disk; open it without mmap"):
            change()


WRITER = """
import sys
import numpy as np
from o1_index import open_index
index = open_index(sys.argv[1])
print("ready", flush=True)
while True:
    number = len(index)
    index.add(np.full((1, 8), number, dtype=np.float32), [f"n{number}"])
    index.save(sys.argv[1])
"""


def test_a_writer_killed_at_any_time_leaves_a_whole_version(saved):
    """F1: kill -9 while versions are published; every time the index opens and answers."""
    sizes = []
    for attempt in range(50):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(saved)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.02 + 0.007 * attempt)
        writer.kill()
        writer.communicate()
        index = open_index(saved)
        assert set(index.documents) == {*IDS[:40], *(f"n{n}" for n in range(40, len(index)))}
        assert len(found(index, k=3)) == 15
        sizes.append(len(index))
        if attempt >= 9 and sizes[-1] > 40:  # a busy machine may take longer to publish the first one
            break
    assert sizes == sorted(sizes)
    assert sizes[-1] > 40
