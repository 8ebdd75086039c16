"""JSON lines: what is written reads back, and what cannot be trusted is refused with its place."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import (
    Ballot,
    Document,
    Example,
    Hit,
    InputError,
    Metric,
    Query,
    Source,
    Thought,
    read_jsonl,
    write_jsonl,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ID = TEXT.filter(len)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
SOURCE = st.builds(Source, model=st.just("m"), revision=TEXT, temperature=FLOAT, seed=st.integers(0, 2**62))
THOUGHT_TEXT = TEXT.filter(
    lambda text: any(not c.isspace() and c not in "\x1c\x1d\x1e\x1f\x85" for c in text)
)


@st.composite
def examples(draw):
    query = Query(query_id=draw(ID), text=draw(TEXT), instruction=draw(TEXT))
    documents = draw(st.lists(st.builds(Document, doc_id=ID, text=TEXT, title=TEXT), min_size=1, max_size=3))
    thought = Thought(
        query_id=query.query_id, thought_id=draw(ID), text=draw(THOUGHT_TEXT), source=draw(SOURCE)
    )
    scores = tuple(draw(FLOAT) for _ in documents) if draw(st.booleans()) else ()
    return Example(
        query=query,
        positives=tuple(documents),
        thought=draw(st.sampled_from([None, thought])),
        teacher_scores=scores,
        group_size=draw(st.none() | st.integers(1, 100)),
    )


@given(st.lists(examples(), max_size=4, unique_by=lambda example: example.query.query_id))
def test_what_is_written_reads_back_equal(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("round") / "examples.jsonl"
    assert write_jsonl(path, written) == len(written)
    assert list(read_jsonl(path, Example)) == written


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"query_id": 7, "text": "x"}', r"Expected `str`, got `int` - at `\$.query_id`"),
        ('{"query_id": "", "text": "x"}', r"length >= 1 - at `\$.query_id`"),
        ('{"query_id": "q2"}', "missing required field `text`"),
        ('{"query_id": "q2", "text": "x", "txet": "y"}', "unknown field `txet`"),
        ('{"query_id": "q2", "text": "x", "text": "y"}', "duplicate field 'text'"),
        ('{"query_id": "q1", "text": "again"}', "repeated key"),
        ('{"query_id": "q2", "text": "x"', "truncated"),
        ('{"query_id": "q2", "text": "\\ud800"}', "truncated|surrogate"),
        ("[" * 100_000, "."),
    ],
)
def test_a_bad_line_names_file_and_line(tmp_path, line, complaint):
    path = tmp_path / "queries.jsonl"
    path.write_text('{"query_id": "q1", "text": "fine"}\n' + line + "\n")
    with pytest.raises(InputError, match=complaint) as caught:
        list(read_jsonl(path, Query))
    assert str(caught.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize(
    "content", [b'\xef\xbb\xbf{"query_id": "q", "text": "x"}\n', b'{"query_id": "\xff"}\n']
)
def test_bytes_that_are_not_plain_utf8_are_refused(tmp_path, content):
    path = tmp_path / "queries.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=":1: "):
        list(read_jsonl(path, Query))


def test_an_endless_line_is_refused_without_being_read(tmp_path, monkeypatch):
    monkeypatch.setattr("o1_records.lines.MAX_LINE_BYTES", 1000)
    path = tmp_path / "queries.jsonl"
    path.write_bytes(b'{"query_id": "' + b"x" * 2000)
    with pytest.raises(InputError, match="longer than 1000 bytes"):
        list(read_jsonl(path, Query))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_never_written(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    path.write_text("what was there before")
    with pytest.raises(InputError, match="record 2"):
        write_jsonl(path, [Metric(measure="nDCG@10", value=0.5), Metric(measure="RR@10", value=value)])
    assert path.read_text() == "what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_wrong_type_is_never_written(tmp_path):
    with pytest.raises(InputError, match=r"got `str` - at `\$.rank`"):
        write_jsonl(tmp_path / "hits.jsonl", [Hit(query_id="q", doc_id="d", score=1.0, rank="1")])
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_key_is_never_written(tmp_path):
    ballot = Ballot(query_id="q", thought_id=None, retriever="bm25", score=1.0)
    with pytest.raises(InputError, match="repeated key"):
        write_jsonl(tmp_path / "ballots.jsonl", [ballot, ballot])
    assert list(tmp_path.iterdir()) == []


def test_a_thought_cannot_join_another_query(tmp_path):
    thought = {"query_id": "q2", "thought_id": "t", "text": "x", "source": {"model": "m"}}
    line = {"query": {"query_id": "q1", "text": "x"}, "positives": [], "thought": thought}
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(InputError, match="belongs to query 'q2', not to 'q1'"):
        list(read_jsonl(path, Example))


def test_a_blank_thought_is_refused(tmp_path):
    path = tmp_path / "thoughts.jsonl"
    path.write_text('{"query_id": "q", "thought_id": "t", "text": " \\n", "source": {"model": "m"}}')
    with pytest.raises(InputError, match="text"):
        list(read_jsonl(path, Thought))


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text("old")
    code = (
        "import resource, signal, sys\n"
        "from o1_records import Query, write_jsonl\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "write_jsonl(sys.argv[1], (Query(query_id=str(n), text='x' * 1000) for n in range(100)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["queries.jsonl"]


def test_the_command_validates_and_exits_with_4_on_a_bad_line(tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write_jsonl(good, [Query(query_id="q", text="x")])
    bad.write_text("{}\n")
    command = [sys.executable, "-m", "o1_records", "validate", "--type", "query"]
    done = subprocess.run([*command, str(good)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{good}: 1 query records\n")
    done = subprocess.run([*command, str(bad)], capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: {bad}:1: ")
