"""What the field exchanges: every format reads back what it wrote, and refuses with file and line."""

import base64
import gzip
import json
import warnings
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from o1_records import (
    Ballot,
    Document,
    Example,
    Hit,
    InputError,
    InputWarning,
    Qrel,
    Query,
    Source,
    Thought,
    beir,
    flagembedding,
    read_jsonl,
    tevatron,
    trec,
    triplets,
    write_jsonl,
)
from o1_records.__main__ import main
from o1_records.formats import FORMATS
from o1_records.keys import KeySet, content_doc_id, documents_of, same_query
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


@settings(max_examples=40)
@given(st.lists(flag_rows(), max_size=4))
def test_flagembedding_rows_come_back_with_all_their_fields(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("flag")
    put(folder / "in.jsonl", rows)
    ours, back = folder / "ours.jsonl", folder / "back.jsonl"
    assert main(["convert", "--from", "flagembedding", str(folder / "in.jsonl"), str(ours)]) == 0
    assert main(["convert", "--to", "flagembedding", str(ours), str(back)]) == 0
    came_back = rows_of(back)
    assert [filled(row) for row in came_back] == [filled(row) for row in rows]
    assert len({frozenset(row) for row in came_back}) <= 1, "the columns of all rows are the same"
    ids = [example.query.query_id for example in read_jsonl(ours, Example)]
    assert len(set(ids)) == len(rows)


def filled(row):
    """A row without what stands where only other rows have something."""
    return {name: value for name, value in row.items() if value not in ("", None)}


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
        batch_size=draw(st.none() | st.integers(1, 100)),
    )


UNIQUE = {"max_size": 4, "unique_by": lambda example: example.query.query_id}


@settings(max_examples=40)
@given(st.lists(examples(titles=st.just("")), **UNIQUE))
def test_examples_without_titles_come_back_from_flagembedding(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("flag") / "flag.jsonl"
    assert flagembedding.write(path, written) == len(written)
    assert list(flagembedding.read(path)) == written


@settings(max_examples=40)
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


@settings(max_examples=40)
@given(st.lists(examples(), **UNIQUE), st.integers(0, 3), st.booleans())
def test_triplets_come_back(tmp_path_factory, written, width, scored):
    path = tmp_path_factory.mktemp("triplets") / "t.jsonl"
    plain = []
    for number, example in enumerate(written):
        positives = [f"p{number} {place} {d.text}" for place, d in enumerate(example.positives)]
        negatives = [f"n{number} {place} {d.text}" for place, d in enumerate(example.negatives)]
        own = len(positives) + len(negatives)
        scores = tuple(float(place) for place in range(own)) if scored else ()
        query = Query(query_id="", text=f"{number} {example.query.text}")
        plain.append(
            Example(
                query=query, positives=documents_of(positives), negatives=documents_of(negatives),
                teacher_scores=scores,
            )
        )  # fmt: skip
    whole = [each for each in plain if each.positives and len(each.negatives) >= width]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert triplets.write(path, plain, negatives=width) == len(whole)
    cut = sum(max(0, len(each.negatives) - width) for each in plain)
    assert bool(told) == (len(whole) < len(plain) or cut > 0)
    assert len({frozenset(row) for row in rows_of(path)}) <= 1
    back = list(triplets.read(path))
    assert [each.query.text for each in back] == [each.query.text for each in whole]
    assert [each.positives for each in back] == [each.positives for each in whole]
    assert [each.negatives for each in back] == [each.negatives[:width] for each in whole]
    for one, other in zip(back, whole, strict=True):
        assert one.teacher_scores == other.teacher_scores[: len(other.positives) + width]


@settings(max_examples=40)
@given(st.lists(st.tuples(TEXTS.filter(len), TEXTS), max_size=4))
def test_labelled_pairs_come_back(tmp_path_factory, groups):
    path = tmp_path_factory.mktemp("pairs") / "p.jsonl"
    written = [
        Example(
            query=Query(query_id="", text=f"query {number}"),
            positives=documents_of(list(dict.fromkeys(f"p{text}" for text in positives))),
            negatives=documents_of(list(dict.fromkeys(f"n{text}" for text in negatives))),
        )
        for number, (positives, negatives) in enumerate(groups)
    ]
    assert triplets.write_pairs(path, written) == len(written)
    back = list(triplets.read_pairs(path))
    assert [(each.query.text, each.positives, each.negatives) for each in back] == [
        (each.query.text, each.positives, each.negatives) for each in written
    ]
    assert {row["label"] for row in rows_of(path)} <= {0, 1}


LONG = "x" * 2000


def late(count):
    """Examples of which only the last two have negatives, scores, and a group size: after some MB."""
    for n in range(count):
        rich = n >= count - 2
        yield Example(
            query=Query(query_id=f"q{n}", text=f"{n} {LONG}"),
            positives=documents_of([f"p{n}"]),
            negatives=documents_of([f"n{n}"] if rich else []),
            teacher_scores=(1.0, 0.5) if n == count - 1 else (),
            group_size=2 if n == count - 1 else None,
        )


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_the_first_row_with_something_in_a_column_goes_to_the_front(tmp_path, suffix):
    """Readers take the types of columns from the first rows."""
    path = tmp_path / f"rows.{suffix}"
    assert flagembedding.write(path, late(1000)) == 1000
    text = gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["query"].split()[0] for row in rows] == ["998", "999", *map(str, range(998))]
    assert rows[0]["neg"] == ["n998"]
    assert (rows[1]["neg_scores"], rows[1]["train_group_size"]) == ([0.5], 2)
    assert len({tuple(row) for row in rows}) == 1
    back = {example.query.text: example for example in flagembedding.read(path)}
    for example in late(1000):
        own = back[example.query.text]
        assert own.negatives == example.negatives
        assert (own.teacher_scores, own.group_size) == (example.teacher_scores, example.group_size)


def test_rows_keep_their_order_where_the_first_have_something_in_every_column(tmp_path):
    examples = list(late(600))
    tevatron.write(tmp_path / "t.jsonl", [structs.replace(examples[-1], teacher_scores=()), *examples[:-1]])
    rows = rows_of(tmp_path / "t.jsonl")
    assert [row["query_id"] for row in rows] == ["q599", *(f"q{n}" for n in range(599))]


def test_scores_that_not_all_triplets_have_are_left_out_and_told(tmp_path):
    examples = [
        Example(
            query=Query(query_id=name, text=name), positives=documents_of([f"p{name}"]),
            negatives=documents_of([f"n{name}"]), teacher_scores=scores,
        )
        for name, scores in (("a", ()), ("b", (1.0, 0.0)), ("c", (2.0, 1.0)))
    ]  # fmt: skip
    with pytest.warns(InputWarning, match="left out the scores of 2 examples, for 1 have none"):
        assert triplets.write(tmp_path / "t.jsonl", examples) == 3
    assert {tuple(row) for row in rows_of(tmp_path / "t.jsonl")} == {("anchor", "positive", "negative")}
    assert [example.teacher_scores for example in triplets.read(tmp_path / "t.jsonl")] == [(), (), ()]


ANCHORED = [
    {"anchor": "rotate a key", "positive": "console", "negative": "picture"},
    {"anchor": "Rotate a  key", "positive": "command", "negative": "console"},
    {"anchor": "restore a project", "positive": "thirty days", "negative": "x"},
    {"anchor": "rotate a key", "positive": "administrator", "negative": "x"},
]


def test_rows_of_one_anchor_are_one_example_and_share_their_positives(tmp_path):
    with pytest.warns(InputWarning, match="the positive of one row is a negative of another"):
        first, second, third = triplets.read(put(tmp_path / "t.jsonl", ANCHORED))
    assert [document.text for document in first.positives] == ["console", "command"]
    assert [document.text for document in first.negatives] == ["picture"]
    assert second.query.text == "restore a project"
    assert same_query(third.query) == same_query(first.query)
    assert third.query.query_id == f"{first.query.query_id}#2"


def test_ragged_triplets_are_refused_with_the_remedy(tmp_path, capsys):
    documents = documents_of(["a", "b", "c"])
    ragged = [
        Example(
            query=Query(query_id=f"q{n}", text=f"q{n}"), positives=documents[:1], negatives=documents[1:n]
        )
        for n in (2, 3)
    ]
    write_jsonl(tmp_path / "e.jsonl", ragged)
    command = ["convert", "--type", "example", "--to", "triplets", str(tmp_path / "e.jsonl")]
    assert main([*command, str(tmp_path / "t.jsonl")]) == 4
    assert "examples have 1 negatives and 2" in capsys.readouterr().err
    assert not (tmp_path / "t.jsonl").exists()
    assert main([*command, str(tmp_path / "t.jsonl"), "--negatives", "2"]) == 0
    told = capsys.readouterr().err
    assert "left out 1 examples with fewer than 2 negatives" in told and "1 example records" in told
    assert main([*command, str(tmp_path / "t.jsonl"), "--negatives", "1"]) == 0
    assert "and 1 negatives beyond the first 1" in capsys.readouterr().err
    assert [set(row) for row in rows_of(tmp_path / "t.jsonl")] == [{"anchor", "positive", "negative"}] * 2


@pytest.mark.parametrize("name", ["t.jsonl", pytest.param("t.parquet", marks=pytest.mark.extra)])
def test_foreign_names_of_columns_are_read(tmp_path, capsys, name):
    rows = [{"question": "q", "answer": "a"}, {"question": "q2", "answer": "b"}]
    path = tmp_path / name
    if name.endswith("parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        put(path, rows)
    out = tmp_path / "e.jsonl"
    assert main(["convert", "--from", "triplets", str(path), str(out)]) == 0
    told = capsys.readouterr().err
    assert "note: " in told and "'question' is read as the anchor" in told
    assert [e.positives[0].text for e in read_jsonl(out, Example)] == ["a", "b"]
    turned = "anchor=answer,positive=question"
    assert main(["convert", "--from", "triplets", str(path), str(out), "--columns", turned]) == 0
    assert "note: " not in capsys.readouterr().err
    assert [e.query.text for e in read_jsonl(out, Example)] == ["a", "b"]
    assert main(["convert", "--from", "tevatron", str(path), str(out), "--columns", turned]) == 4
    assert "--columns has no effect where the input is tevatron" in capsys.readouterr().err


def test_columns_that_could_be_either_are_named_with_the_option_that_helps(tmp_path):
    path = put(tmp_path / "t.jsonl", [{"sentence1": "a", "sentence2": "b"}])
    with pytest.raises(
        InputError, match=r"t.jsonl:1: no column is plainly the anchor .* --columns anchor=NAME"
    ):
        list(triplets.read(path))
    put(path, [{"query": "a", "answer": "b", "passage": "c"}])
    with pytest.warns(InputWarning), pytest.raises(InputError, match="no column is plainly the positive"):
        list(triplets.read(path))


def test_a_label_that_is_a_grade_is_refused(tmp_path):
    path = put(tmp_path / "p.jsonl", [{"anchor": "a", "document": "b", "label": 0.7}])
    with pytest.raises(InputError, match=r"label 0\.7 is neither 0 nor 1"):
        list(triplets.read_pairs(path))


def test_rows_of_reasonembed_keep_every_field(tmp_path):
    row = {
        "prompt": "Given a post, retrieve passages that help to answer it.", "query": "why is the sky blue",
        "reasoning_query": "The question is about scattering.", "pos": ["a", "b"], "neg": ["c"],
        "train_group_size": 16, "batch_size": 8,
    }  # fmt: skip
    read = [example] = list(flagembedding.read(put(tmp_path / "in.jsonl", [row])))
    assert example.query.instruction == row["prompt"]
    assert example.reasoning_query == row["reasoning_query"]
    assert (example.group_size, example.batch_size) == (16, 8)
    flagembedding.write(tmp_path / "out.jsonl", read)
    assert rows_of(tmp_path / "out.jsonl") == [row]
    assert (
        main(["convert", "--from", "flagembedding", str(tmp_path / "in.jsonl"), str(tmp_path / "e.jsonl")])
        == 0
    )
    assert not (tmp_path / "e.jsonl.extra.jsonl").exists()


@pytest.mark.extra
@settings(max_examples=40)
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
        ("tevatron", {"query_id": 1.5, "query": "x", "positive_passages": []}, "Expected `int | str`"),
        ("tevatron", {"query_id": "", "query": "x", "positive_passages": []}, "duplicate or empty"),
        ("triplets", {"anchor": "x", "negative": "y"}, "no column is plainly the positive"),
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


@settings(max_examples=40)
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
    assert list(flagembedding.read_extras(sidecar).values()) == [{"type": f"t{n}"} for n in range(3)]
    write_jsonl(tmp_path / "turned.jsonl", reversed(list(read_jsonl(ours, Example))))
    command = [
        "convert",
        "--to",
        "flagembedding",
        str(tmp_path / "turned.jsonl"),
        str(tmp_path / "back.jsonl"),
    ]
    assert main([*command, "--extra", str(sidecar)]) == 0
    assert rows_of(tmp_path / "back.jsonl") == rows[::-1]


def test_a_sidecar_belongs_to_the_file_it_was_written_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(Path("old.jsonl"), [{"query": "old", "pos": ["p"], "neg": [], "query_id": "q1", "type": "old-type"}])
    passages = [{"docid": "a", "text": "A"}]
    put(Path("new.jsonl"), [{"query_id": "q1", "query": "new", "positive_passages": passages}])
    old = ["convert", "--from", "flagembedding", "old.jsonl", "ours.jsonl"]
    back = ["convert", "--type", "example", "--to", "flagembedding", "ours.jsonl", "back.jsonl"]
    assert main(old) == 0
    assert main(["convert", "--from", "tevatron", "new.jsonl", "ours.jsonl"]) == 0
    assert "ours.jsonl.extra.jsonl: removed, for it belonged to the file that" in capsys.readouterr().err
    assert main(back) == 0
    assert "type" not in rows_of(Path("back.jsonl"))[0]
    assert main(old) == 0
    write_jsonl("ours.jsonl", tevatron.read("new.jsonl"))
    assert main(back) == 4
    assert "was written for another ours.jsonl than ours.jsonl is now; remove it" in capsys.readouterr().err
    assert main([*back, "--extra", "ours.jsonl.extra.jsonl"]) == 0
    assert rows_of(Path("back.jsonl"))[0]["type"] == "old-type"


def test_extra_fields_of_nobody_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(Path("in.jsonl"), [{"query": f"q{n}", "pos": [], "neg": [], "type": "t"} for n in range(3)])
    assert main(["convert", "--from", "flagembedding", "in.jsonl", "ours.jsonl"]) == 0
    write_jsonl("part.jsonl", list(read_jsonl("ours.jsonl", Example))[:1])
    command = ["convert", "--to", "flagembedding", "part.jsonl", "back.jsonl"]
    assert main([*command, "--extra", "ours.jsonl.extra.jsonl"]) == 0
    assert "2 of its 3 queries are not in the input" in capsys.readouterr().err


def test_what_a_format_has_no_place_for_is_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    thought = Thought(query_id="q", thought_id="t", text="x", source=Source(model="m"))
    documents = documents_of(["a", "b"])
    example = Example(
        query=Query(query_id="q", text="q"), positives=documents[:1], negatives=documents[1:],
        thought=thought, teacher_scores=(1.0, 0.0), dataset="set", group_size=4, batch_size=2,
    )  # fmt: skip
    write_jsonl("e.jsonl", [example])
    for target, lost in (
        ("tevatron", "thought (1), teacher_scores (1), dataset (1), group_size (1), batch_size (1)"),
        ("triplets", "thought (1), dataset (1), group_size (1), batch_size (1)"),
        ("flagembedding", "the source of a thought (1)"),
    ):
        assert main(["convert", "--to", target, "e.jsonl", target]) == 0
        assert f"has no place for it: {lost}\n" in capsys.readouterr().err
    put(Path("corpus.jsonl"), [{"_id": 7, "text": "x", "title": None, "metadata": {"url": "u"}}])
    assert main(["convert", "--from", "beir-corpus", "corpus.jsonl", "d.jsonl"]) == 0
    told = capsys.readouterr().err
    assert "fields that records have no place for are left out: metadata (1)" in told
    assert "ids that are numbers, such as 7, are read as text" in told
    assert list(read_jsonl("d.jsonl", Document)) == [Document(doc_id="7", text="x")]


@pytest.mark.parametrize("suffix", [".gz", pytest.param(".zst", marks=pytest.mark.extra)])
@pytest.mark.parametrize("target", [name for name in FORMATS if name not in ("jsonl", "parquet", "lance")])
def test_every_format_is_compressed_where_its_name_says_so(tmp_path, suffix, target):
    kind = FORMATS[target].holds
    query, document = Query(query_id="q", text="q"), Document(doc_id="d", text="d")
    records = {
        Query: [query], Document: [document], Qrel: [Qrel(query_id="q", doc_id="d", relevance=1)],
        Hit: [Hit(query_id="q", doc_id="d", score=1.0, rank=1)],
        Example: [Example(query=query, positives=(document,))],
    }[kind]  # fmt: skip
    write_jsonl(tmp_path / "in.jsonl", records)
    out, back = tmp_path / f"out{suffix}", tmp_path / "back.jsonl"
    kinds = ["--type", kind.__name__.lower()]
    assert main(["convert", *kinds, "--to", target, str(tmp_path / "in.jsonl"), str(out)]) == 0
    magic = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}[suffix]
    assert out.read_bytes().startswith(magic)
    assert main(["convert", "--from", target, str(out), str(back)]) == 0
    assert len(list(read_jsonl(back, kind))) == 1


BALLOTS = [
    Ballot(query_id="q", thought_id=own, retriever="r", score=score) for own, score in [("a", 2), (None, 1)]
]


@pytest.mark.extra
@settings(max_examples=40)
@given(st.lists(examples(), **UNIQUE) | st.just(BALLOTS) | st.just(BALLOTS[1:]))
def test_records_are_written_as_parquet_where_the_name_says_so(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("parquet") / "records.parquet"
    assert write_jsonl(path, iter(written)) == len(written)
    assert path.read_bytes().startswith(b"PAR1")
    assert list(read_jsonl(path, type(written[0]) if written else Example)) == written
    assert [each.name for each in path.parent.iterdir()] == ["records.parquet"]


@pytest.mark.extra
def test_what_jsonl_refuses_is_refused_as_parquet_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"q.parquet: record 2: repeated key .*'q'.*; nothing was written"):
        write_jsonl(tmp_path / "q.parquet", [Query(query_id="q", text="x"), Query(query_id="q", text="y")])
    assert not list(tmp_path.iterdir())


@pytest.mark.extra
def test_parquet_is_not_compressed_once_more(tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", [Query(query_id="q", text="x")])
    for words in (["--to", "parquet"], []):
        command = [
            "convert",
            "--type",
            "query",
            *words,
            str(tmp_path / "q.jsonl"),
            str(tmp_path / "q.parquet.gz"),
        ]
        assert main(command) == 4
        assert "Parquet compresses its own columns; name it q.parquet" in capsys.readouterr().err


@pytest.mark.extra
@pytest.mark.parametrize("target", ["flagembedding", "tevatron", "triplets", "pairs"])
def test_foreign_formats_come_back_from_parquet(tmp_path, target):
    documents = documents_of(["a", "b", "c"])
    thought = Thought(query_id="q0", thought_id="t", text="x", source=Source(model="unknown"))
    written = [
        Example(query=Query(query_id="q0", text="first"), positives=documents[:1], negatives=documents[1:]),
        Example(query=Query(query_id="q1", text="other"), positives=documents[1:2], negatives=documents[::2]),
    ]
    if target == "flagembedding":
        written[0] = structs.replace(written[0], thought=thought)
    write_jsonl(tmp_path / "in.jsonl", written)
    out, back = str(tmp_path / "out.parquet"), tmp_path / "back.jsonl"
    assert main(["convert", "--type", "example", "--to", target, str(tmp_path / "in.jsonl"), out]) == 0
    assert main(["convert", "--from", target, out, str(back), "--type", "example"]) == 0
    came_back = list(read_jsonl(back, Example))
    assert [(e.query.text, e.positives, e.negatives) for e in came_back] == [
        (e.query.text, e.positives, e.negatives) for e in written
    ]
    if target == "flagembedding":
        assert came_back == written


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("query-id\tcorpus-id\tscore\nq\td\t1\n", None),
        ("q\td\t1\n", None),
        ("q\td\t1.0\n", "score is written as '1.0' and read as 1"),
        ("q\t0\td\t1\n", "four columns are read as TREC's"),
        ("qid\tpid\trelevance\nq\td\t1\n", "is read as a header"),
        ("qid\t0\tpid\trel\nq\t0\td\t1\n", "is read as a header"),
    ],
)
def test_judgements_that_can_mean_one_thing_only_are_read(tmp_path, text, told):
    path = tmp_path / "test.tsv"
    path.write_text(text)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        assert list(beir.read_qrels_file(path)) == [Qrel(query_id="q", doc_id="d", relevance=1)]
    assert bool(given) == bool(told)
    assert told is None or any(told in str(each.message) for each in given)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q\td\t0.5\n", "score '0.5' is not a whole number"),
        ("q\td\tnan\n", "score 'nan' is not a whole number"),
        ("q\td\tinf\n", "score 'inf' is not a whole number"),
        ("q d 1\n", r"expected 3 columns between tabs .* name the file \.qrels or \.txt"),
    ],
)
def test_judgements_that_could_mean_anything_are_refused_with_a_remedy(tmp_path, text, complaint):
    path = tmp_path / "test.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        list(beir.read_qrels_file(path))


def test_records_that_are_read_as_trecs_are_refused_with_a_remedy(tmp_path):
    path = tmp_path / "qrels"
    path.write_text('{"query_id":"q","doc_id":"d","relevance":1}\n')
    with pytest.raises(InputError, match=r"expected 4 columns .*; it looks like JSON, of which o1-records"):
        list(trec.read_qrels(path))


def test_a_run_that_counts_ranks_from_0_is_read_from_1(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("q Q0 d 0 2.0 x\nq Q0 e 1 1.0 x\np Q0 d 0 1.0 x\n")
    with pytest.warns(InputWarning, match="ranks count from 0"):
        assert [hit.rank for hit in trec.read_run(path)] == [1, 2, 1]
    path.write_text("q Q0 d 1 2.0 x\nq Q0 e 0 1.0 x\n")
    with pytest.raises(InputError, match=r"run\.trec:2: rank 0, where the run began with ranks from 1"):
        list(trec.read_run(path))


def test_ids_that_are_numbers_are_told_once(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"_id": {n}, "text": "x"}}\n' for n in range(50)))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        assert [document.doc_id for document in beir.read_corpus_file(path)] == [str(n) for n in range(50)]
    assert [str(each.message) for each in given] == [
        f"{path}: ids that are numbers, such as 0, are read as text"
    ]


def test_a_beir_folder_may_be_compressed(tmp_path):
    documents, queries = [Document(doc_id="d", text="x")], [Query(query_id="q", text="y")]
    beir.write_beir(tmp_path, documents=documents, queries=queries, qrels={"test": []})
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        path = tmp_path / name
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert (list(beir.read_corpus(tmp_path)), list(beir.read_queries(tmp_path))) == (documents, queries)
    assert list(beir.read_qrels(tmp_path)) == []
