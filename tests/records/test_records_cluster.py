"""What a worker of a cluster notes, and what it says when it cannot work; Ray itself is in `nox -s ray`."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import InputError, MissingExtraError
from o1_records.kit.cluster import (
    ATTEMPTS,
    Cluster,
    Notes,
    _digest,
    _lay_out,
    _Worker,
    leftovers,
    read_notes,
    run_on,
)


def upper(workers):
    return lambda block, notes: block.upper()


def row_of(folder, content=b"open a zip file"):
    (block,) = _lay_out([content], folder)
    return block._asdict()


def test_a_worker_leaves_a_result_that_is_whole(tmp_path):
    row = row_of(tmp_path)
    assert _Worker(upper, 1, tmp_path, ".")(row) == {"number": 0, "error": "", "kind": "", "done": True}
    assert (tmp_path / row["digest"] / "done").read_bytes() == b"OPEN A ZIP FILE"


def test_what_a_worker_finished_before_it_died_is_not_done_again(tmp_path):
    row = row_of(tmp_path)
    _Worker(upper, 1, tmp_path, ".")(row)
    assert _Worker(None, 1, tmp_path, ".")(row)["done"]


def test_the_next_attempt_at_a_block_reads_what_the_earlier_ones_noted(tmp_path):
    for attempt in (1, 2, 3):
        with Notes(tmp_path / "block") as notes:
            assert notes.attempt == attempt
            assert notes.kept == [b"answer"] * (attempt - 1)
            notes.keep(b"answer")
    assert list(leftovers(tmp_path)) == [(tmp_path / "block", [b"answer"] * 3)]


@given(st.lists(st.binary(max_size=8).map(lambda line: line.replace(b"\n", b"")), max_size=5), st.data())
def test_a_note_that_was_cut_off_is_none(lines, data):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name:
        written = b"".join(line + b"\n" for line in lines)
        cut = data.draw(st.integers(0, len(written)))
        (Path(name) / "a.notes").write_bytes(written[:cut])
        assert read_notes(Path(name)) == lines[: written[:cut].count(b"\n")]


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path):
    row = row_of(tmp_path / "here")
    there = _Worker(upper, 1, tmp_path / "there", ".")(row)
    assert "every machine must see the output's folder at the same path" in there["error"]
    (tmp_path / "here" / "blocks").write_bytes(b"of another job")
    assert "or something else" in _Worker(upper, 1, tmp_path / "here", ".")(row)["error"]


def test_an_error_of_the_stage_is_told_with_its_kind(tmp_path):
    def broken(workers):
        raise MissingExtraError("o1-model", "vllm", "vLLM")

    told = _Worker(broken, 1, tmp_path, ".")(row_of(tmp_path))
    assert told["error"].endswith("pip install 'o1-model[vllm]'")
    assert (told["kind"], told["done"]) == ("MissingExtraError", False)


def test_a_block_over_which_workers_die_again_and_again_is_named(tmp_path):
    row = row_of(tmp_path)
    for _ in range(ATTEMPTS):
        Notes(tmp_path / row["digest"]).__exit__()
    assert "open a zip file" in _Worker(upper, 1, tmp_path, ".")(row)["error"]


def test_what_is_done_already_needs_no_cluster(tmp_path):
    worker = _Worker(upper, 1, tmp_path, ".")
    blocks = [b"open", b"close"]
    for block in _lay_out(blocks, tmp_path):
        worker(block._asdict())
    assert [*run_on(Cluster(), upper, blocks, tmp_path)] == [(0, b"OPEN"), (1, b"CLOSE")]
    assert not tmp_path.exists()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'o1-vote\[ray\]'"):
        next(run_on(Cluster(package="o1-vote"), upper, [b"open"], tmp_path / "job"))


def test_a_worker_needs_something_to_run_on():
    with pytest.raises(InputError, match="workers must be 1 or more, got 0"):
        Cluster(workers=0)
    with pytest.raises(InputError, match="a worker needs cpus or gpus"):
        Cluster(cpus=0)


def test_blocks_are_told_apart_by_their_content():
    assert _digest(b"a") != _digest(b"b")
