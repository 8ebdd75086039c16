"""Ids in arrays: they find the same rows as a dict would, and take a few bytes each."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_index import documents
from o1_index.documents import Documents, Ids, Texts, hashes
from o1_records import InputError

NAMES = st.text(min_size=1, max_size=5).filter(lambda name: name.isprintable())


def texts(names):
    return Texts.of([name.encode() for name in names])


@given(st.lists(NAMES, unique=True), st.lists(NAMES), st.integers(1, 20))
def test_ids_are_found_as_in_a_dict(names, asked, block):
    before, documents._HASHED = documents._HASHED, block  # hashed in blocks of so many bytes
    try:
        rows = {name: row for row, name in enumerate(names)}
        found = Ids(texts(names)).find(texts(names + asked))
    finally:
        documents._HASHED = before
    assert found.tolist() == [rows.get(name, -1) for name in names + asked]


@given(st.lists(NAMES, max_size=8), st.integers(0, 2**64 - 1), st.integers(1, 20))
def test_a_hash_depends_on_its_text_alone(names, seed, block):
    before, documents._HASHED = documents._HASHED, block
    try:
        together = hashes(texts(names)).tolist()
    finally:
        documents._HASHED = before
    assert together == [hashes(texts([name]))[0] for name in names]


def test_ids_of_equal_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(
        documents, "hashes", lambda each: np.array([len(text) for text in each], dtype=np.uint64)
    )
    held = Documents.of([["a", "b", "ccc", "d"]])
    assert held.rows(["d", "a", "x", "ccc", "b"]).tolist() == [3, 0, -1, 2, 1]
    assert held.without(["a"]).rows(["a", "b"]).tolist() == [-1, 1]
    with pytest.raises(InputError, match=r"duplicate id 'b' \(rows 1 and 3\)"):
        Documents.of([["a", "b"], ["c", "b"]])


STEP = st.tuples(st.sampled_from(["add", "remove", "fold", "compact"]), st.sets(st.sampled_from("abcdefgh")))


@given(st.lists(STEP, max_size=10))
def test_any_series_of_changes_keeps_ids_rows_and_payloads_together(steps):
    held, mine = Documents.of([[]]), {}
    for step, (what, names) in enumerate(steps):
        if what == "add":
            new = sorted(names - mine.keys())
            held = held.extended(new, [{"step": step, "name": name} for name in new])
            mine |= dict.fromkeys(new, step)
        elif what == "remove":
            gone = names & mine.keys()
            held = held.without(gone)
            mine = {name: when for name, when in mine.items() if name not in gone}
        else:
            held = held.folded() if what == "fold" else held.compacted()
        assert held.count == len(mine)
        assert list(held) == list(mine)
        rows = held.rows(list("abcdefgh"))
        assert [name for name, row in zip("abcdefgh", rows, strict=True) if row >= 0] == sorted(mine)
        assert held.texts(rows[rows >= 0]).tolist() == sorted(mine)
        for row in rows[rows >= 0].tolist():
            name = held.texts(np.array([row]))[0]
            assert held.payload(row) == {"step": mine[name], "name": name}


def test_ten_letters_take_26_bytes_of_memory():
    tracemalloc.start()
    held = Documents.of(
        [f"d{row:09}" for row in range(start, start + 1000)] for start in range(0, 50_000, 1000)
    )
    taken = tracemalloc.get_traced_memory()[0] / len(held)
    tracemalloc.stop()
    assert taken < 27  # the letters, where they end, a hash and its row
