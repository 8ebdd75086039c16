"""What the field exchanges: every format reads back what it wrote, and refuses with file and line."""

import base64
import gzip
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_records import (
    Document,
    Example,
    InputError,
    Qrel,
    Query,
    Source,
    Thought,
    flagembedding,
    read_jsonl,
    tevatron,
    triplets,
    write_jsonl,
)
from o1_records.__main__ import main
from o1_records.flagembedding import Extra
from o1_records.keys import KeySet, content_doc_id
from o1_records.lines import Refused

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ID = TEXT.filter(len)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.lists(TEXT, max_size=3)


@st.composite
def flag_rows(draw):
    row = {"query": draw(TEXT), "pos": draw(TEXTS), "neg": draw(TEXTS)}
    optional = {
        "prompt": TEXT,
        "type": st.sampled_from(["normal", "symmetric_sts"]),
        "thought": TEXT,
        "all_thought": TEXTS,
        "reasoning_query": TEXT,
        "train_group_size": st.integers(-1, 9),
        "batch_size": st.integers(1, 9),
        "anything else": st.none() | TEXT | st.lists(FLOAT),
    }
    for name in draw(st.sets(st.sampled_from(sorted(optional)))):
        row[name] = draw(optional[name])
    if draw(st.booleans()):
        row["pos_scores"] = [draw(FLOAT) for _ in row["pos"]]
        row["neg_scores"] = [draw(FLOAT) for _ in row["neg"]]
    return row


def put(path, rows):
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@settings(deadline=None, max_examples=40)
@given(st.lists(flag_rows(), max_size=4))
def test_flagembedding_rows_come_back_with_all_their_fields(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("flag")
    put(folder / "in.jsonl", rows)
    ours, back = folder / "ours.jsonl", folder / "back.jsonl"
    assert main(["convert", "--from", "flagembedding", str(folder / "in.jsonl"), str(ours)]) == 0
    assert main(["convert", "--to", "flagembedding", str(ours), str(back)]) == 0
    assert rows_of(back) == rows
    ids = [example.query.query_id for example in read_jsonl(ours, Example)]
    assert len(set(ids)) == len(rows)


@st.composite
def examples(draw, titles=TEXT):
    query = Query(query_id=draw(ID), text=draw(TEXT), instruction=draw(TEXT))
    documents = st.lists(st.builds(Document, doc_id=ID, text=TEXT, title=titles), max_size=3).map(tuple)
    positives, negatives = draw(documents), draw(documents)
    scores = tuple(draw(FLOAT) for _ in (*positives, *negatives)) if draw(st.booleans()) else ()
    thought = Thought(
        query_id=query.query_id, thought_id=draw(ID), text="t" + draw(TEXT), source=Source(model="unknown")
    )
    return Example(
        query=query,
        positives=positives,
        negatives=negatives,
        thought=draw(st.sampled_from([None, thought])),
        teacher_scores=scores,
        reasoning_query=draw(TEXT),
        dataset=draw(TEXT),
        group_size=draw(st.none() | st.integers(1, 100)),
    )


UNIQUE = {"max_size": 4, "unique_by": lambda example: example.query.query_id}


@settings(deadline=None, max_examples=40)
@given(st.lists(examples(titles=st.just("")), **UNIQUE))
def test_examples_without_titles_come_back_from_flagembedding(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("flag") / "flag.jsonl"
    assert flagembedding.write(path, written) == len(written)
    assert list(flagembedding.read(path)) == written


@settings(deadline=None, max_examples=40)
@given(st.lists(examples(), **UNIQUE))
def test_examples_come_back_from_tevatron(tmp_path_factory, written):
    plain = [
        Example(
            query=Query(query_id=example.query.query_id, text=example.query.text),
            positives=example.positives,
            negatives=example.negatives,
        )
        for example in written
    ]
    path = tmp_path_factory.mktemp("tevatron") / "t.jsonl"
    tevatron.write(path, plain)
    assert list(tevatron.read(path)) == plain


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(TEXT, TEXT, TEXTS), max_size=4))
def test_triplets_come_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("triplets")
    put(
        folder / "in.jsonl",
        [{"anchor": anchor, "positive": positive, **_negatives(texts)} for anchor, positive, texts in rows],
    )
    read = list(triplets.read(folder / "in.jsonl"))
    assert [len(example.negatives) for example in read] == [len(texts) for _, _, texts in rows]
    triplets.write(folder / "out.jsonl", read)
    assert rows_of(folder / "out.jsonl") == rows_of(folder / "in.jsonl")


def _negatives(texts):
    return {"negative": texts[0]} if len(texts) == 1 else {f"negative_{n}": t for n, t in enumerate(texts, 1)}


@pytest.mark.extra
@settings(deadline=None, max_examples=40)
@given(st.lists(examples(), **UNIQUE))
def test_examples_come_back_from_parquet(tmp_path_factory, written):
    from o1_records import parquet

    path = tmp_path_factory.mktemp("parquet") / "examples.parquet"
    assert parquet.write(path, written, Example) == len(written)
    assert list(parquet.read(path, Example)) == written


@pytest.mark.extra
def test_a_bad_parquet_row_and_a_damaged_file_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "q.parquet"
    rows = [{"query_id": "a", "text": "x"}, {"query_id": None, "text": "x"}, {"query_id": "a", "text": "y"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    quarantine = tmp_path / "bad.jsonl"
    command = ["validate", str(path), "--type", "query", "--quarantine", str(quarantine)]
    assert main(command) == 3
    assert [refused.line for refused in read_jsonl(quarantine, Refused)] == [2, 3]
    path.write_bytes(path.read_bytes()[:-10])
    assert main(command) == 4


@pytest.mark.parametrize("suffix", [".gz", pytest.param(".zst", marks=pytest.mark.extra)])
def test_compressed_files_read_back_and_cuts_are_noticed(tmp_path, suffix):
    path = tmp_path / f"q.jsonl{suffix}"
    queries = [Query(query_id=f"q{n}", text=f"text {n * n}") for n in range(500)]
    write_jsonl(path, queries)
    whole = path.read_bytes()
    assert list(read_jsonl(path, Query)) == queries
    write_jsonl(path, queries)
    assert path.read_bytes() == whole
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        if length:
            with pytest.raises(InputError, match="cut or damaged"):
                list(read_jsonl(path, Query))


def test_two_gzip_files_one_after_the_other_are_one(tmp_path):
    path = tmp_path / "q.jsonl.gz"
    lines = [b'{"query_id":"a","text":""}\n', b'{"query_id":"b","text":""}\n']
    path.write_bytes(b"".join(gzip.compress(line) for line in lines))
    assert [query.query_id for query in read_jsonl(path, Query)] == ["a", "b"]


def test_refused_lines_are_kept_with_their_reasons_and_the_rest_is_read(tmp_path, capsys):
    path, out = tmp_path / "q.jsonl", tmp_path / "good.jsonl"
    lines = [
        b'{"query_id":"a","text":"x"}',
        b'{"query_id":7,"text":"x"}',
        b'{"query_id":"a","text":"again"}',
        b"\xff\xfe",
        b'{"query_id":"b\0"}',
        b'{"query_id":"c","text":"x"}',
    ]
    path.write_bytes(b"\n".join(lines))
    quarantine = tmp_path / "bad.jsonl"
    command = ["convert", str(path), str(out), "--type", "query"]
    assert main(command) == 4
    assert not out.exists()
    assert main([*command, "--quarantine", str(quarantine)]) == 3
    assert "4 lines refused" in capsys.readouterr().err
    assert [query.query_id for query in read_jsonl(out, Query)] == ["a", "c"]
    kept = list(read_jsonl(quarantine, Refused))
    assert [refused.line for refused in kept] == [2, 3, 4, 5]
    assert [refused.text.encode() or refused.raw for refused in kept] == lines[1:5]
    for refused, complaint in zip(
        kept, ("Expected `str`", "repeated key", "invalid", "NUL byte"), strict=True
    ):
        assert complaint in refused.reason and f"{path}:{refused.line}: " in refused.reason
    assert json.loads(quarantine.read_text().splitlines()[2])["raw"] == base64.b64encode(b"\xff\xfe").decode()


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("flagembedding", {"query": "x", "pos": "not a list"}, "Expected `array`"),
        ("flagembedding", {"query": "x", "pos": ["a"], "pos_id": []}, "pos_id has 0 ids for 1"),
        ("tevatron", {"query_id": 1, "query": "x", "positive_passages": []}, "Expected `str`"),
        ("triplets", {"anchor": "x", "negative": "y"}, "expected anchor, positive"),
        ("triplets", {"anchor": "x", "positive": "y", "label": "z"}, "expected anchor, positive"),
    ],
)
def test_a_bad_row_of_a_foreign_format_names_file_and_line(tmp_path, capsys, name, line, complaint):
    path = put(tmp_path / "in.jsonl", [line])
    assert main(["validate", "--format", name, str(path)]) == 4
    told = capsys.readouterr().err
    assert f"{path}:1: " in told and complaint in told


def test_equal_passages_have_one_name_in_every_file(tmp_path):
    rows = [{"query": "a", "pos": ["same"], "neg": []}, {"query": "b", "pos": [], "neg": ["same"]}]
    first, second = flagembedding.read(put(tmp_path / "f.jsonl", rows))
    assert first.positives[0].doc_id == second.negatives[0].doc_id == content_doc_id("same")


def test_every_format_without_an_extra_converts_from_the_command(tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", [Query(query_id="q", text="x")])
    qrels = [Qrel(query_id="q", doc_id="d", relevance=1)]
    write_jsonl(tmp_path / "r.jsonl", qrels)
    for name, source in (("beir-queries", "q.jsonl"), ("trec-qrels", "r.jsonl"), ("beir-qrels", "r.jsonl")):
        there, back = str(tmp_path / name), tmp_path / f"{name}.jsonl"
        assert main(["convert", "--to", name, str(tmp_path / source), there]) == 0
        assert main(["convert", "--from", name, there, str(back)]) == 0
        assert back.read_bytes() == (tmp_path / source).read_bytes()
    assert main(["head", "-n", "1", "--type", "query", str(tmp_path / "q.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out) == {"query_id": "q", "text": "x", "instruction": ""}
    assert main(["convert", "--from", "trec-run", "--to", "beir-qrels", "a", "b"]) == 4
    assert "hold different records: Hit and Qrel" in capsys.readouterr().err
    assert main(["head", str(tmp_path / "q.jsonl")]) == 4
    assert "add --type" in capsys.readouterr().err


def test_an_output_over_an_input_is_refused(tmp_path, capsys):
    path = tmp_path / "q.jsonl"
    write_jsonl(path, [Query(query_id="q", text="x")])
    before = path.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(path)
    assert main(["convert", "--type", "query", str(path), str(tmp_path / "link.jsonl")]) == 4
    assert main(["validate", "--type", "query", str(path), "--quarantine", str(path)]) == 4
    assert capsys.readouterr().err.count("would overwrite the input of") == 2
    assert path.read_bytes() == before


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(TEXT, TEXT | st.none()), max_size=300))
def test_a_key_set_answers_as_a_set(keys):
    ours, plain = KeySet(), set()
    for key in keys:
        assert ours.add(key) == (key not in plain)
        plain.add(key)
        assert len(ours) == len(plain)


def test_a_key_set_stays_small():
    keys = KeySet()
    assert all(keys.add((f"q{n}", "d")) for n in range(20_000))
    assert not any(keys.add((f"q{n}", "d")) for n in range(20_000))
    held = sum(bucket.__sizeof__() for bucket in keys._buckets)
    assert held < 30 * 20_000


def test_the_sidecar_is_keyed_by_the_query(tmp_path):
    rows = [{"query": f"q{n}", "pos": [], "neg": [], "type": f"t{n}"} for n in range(3)]
    put(tmp_path / "in.jsonl", rows)
    ours = tmp_path / "ours.jsonl"
    assert main(["convert", "--from", "flagembedding", str(tmp_path / "in.jsonl"), str(ours)]) == 0
    sidecar = tmp_path / "ours.jsonl.extra.jsonl"
    assert [extra.fields for extra in read_jsonl(sidecar, Extra)] == [{"type": f"t{n}"} for n in range(3)]
    write_jsonl(ours, reversed(list(read_jsonl(ours, Example))))
    assert main(["convert", "--to", "flagembedding", str(ours), str(tmp_path / "back.jsonl")]) == 0
    assert rows_of(tmp_path / "back.jsonl") == rows[::-1]
