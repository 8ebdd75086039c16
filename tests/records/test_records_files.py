"""TREC, BEIR and vector files, and the one total order."""

import gzip
import json
import os
import random
import threading

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import (
    Document,
    Hit,
    InputError,
    InputWarning,
    Qrel,
    Query,
    beir,
    open_documents,
    open_qrels,
    open_queries,
    open_run,
    rank,
    trec,
    write_jsonl,
)
from o1_records.bm25 import BM25
from o1_records.files import PlainErrors, is_file, is_folder
from o1_records.vectors import Encoder, VectorSet, VectorWriter

SCORES = st.dictionaries(
    st.text("ab1", min_size=1, max_size=4), st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30
)


@given(SCORES, st.integers(1, 40))
def test_rank_is_float32_score_then_larger_doc_id(scores, k):
    hits = rank("q", scores, k)
    expected = sorted(((np.float32(score), doc_id) for doc_id, score in scores.items()), reverse=True)[:k]
    assert [(hit.score, hit.doc_id) for hit in hits] == expected
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_scores_that_differ_only_beyond_float32_are_a_tie():
    assert [hit.doc_id for hit in rank("q", {"a": 1.0 + 1e-12, "b": 1.0})] == ["b", "a"]


def test_a_score_that_is_not_finite_is_refused_by_name():
    with pytest.raises(InputError, match="document 'd1'"):
        rank("q", {"d0": 1.0, "d1": float("nan")})


@given(SCORES)
def test_a_run_reads_back_equal(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("run") / "run.trec"
    hits = rank("q", scores)
    trec.write_run(path, hits)
    assert list(trec.read_run(path)) == hits


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("q Q0 d 1 0.5", "expected 6 columns"),
        ("q Q0 d 1 nan t", "score 'nan' is not a finite float"),
        ("q Q0 d one 0.5 t", "rank 'one' is not a finite int"),
        ("q Q0 d0 1 0.5 t", "duplicate document 'd0' for query 'q'"),
    ],
)
def test_a_bad_run_names_file_and_line(tmp_path, row, complaint):
    path = tmp_path / "run.trec"
    path.write_text(f"q Q0 d0 1 0.5 t\n{row}\n")
    with pytest.raises(InputError, match=rf"run.trec:2: .*{complaint}"):
        list(trec.read_run(path))


def test_an_id_with_white_space_cannot_enter_a_trec_file(tmp_path):
    with pytest.raises(InputError, match="'d 1'"):
        trec.write_run(tmp_path / "run", [Hit(query_id="q", doc_id="d 1", score=1.0, rank=1)])
    assert list(tmp_path.iterdir()) == []


def test_a_beir_folder_reads_back_equal_and_opens_by_name(tmp_path):
    documents = [Document(doc_id=f"d{n}", text=f"text {n}", title="t" * n) for n in range(3)]
    queries = [Query(query_id=f"q{n}", text=f"query {n}") for n in range(2)]
    qrels = [Qrel(query_id="q0", doc_id="d1", relevance=2)]
    beir.write_beir(tmp_path, documents=documents, queries=queries, qrels={"test": qrels})
    assert list(open_documents(tmp_path)) == documents
    assert list(open_queries(tmp_path)) == queries
    assert list(open_queries(tmp_path, "test")) == queries[:1]
    assert list(open_qrels(tmp_path)) == qrels
    assert list(open_qrels(tmp_path / "qrels" / "test.tsv")) == qrels
    trec.write_qrels(tmp_path / "qrels.txt", qrels)
    assert list(open_qrels(tmp_path / "qrels.txt")) == qrels
    write_jsonl(tmp_path / "q.jsonl", queries)
    assert list(open_queries(tmp_path / "q.jsonl")) == queries
    # its files by themselves, too
    assert list(open_queries(tmp_path / "queries.jsonl")) == queries
    assert list(open_documents(tmp_path / "corpus.jsonl")) == documents
    (tmp_path / "other.jsonl").write_text('\n{"text": "query 0", "_id": 7}\n')  # blank lines are no rows
    assert list(open_queries(tmp_path / "other.jsonl")) == [Query(query_id="7", text="query 0")]
    (tmp_path / "empty.jsonl").touch()
    assert list(open_queries(tmp_path / "empty.jsonl")) == []


@pytest.fixture
def piped(tmp_path):
    """Returns a pipe without a suffix that holds some bytes once."""
    writers = []

    def pipe(content):
        path = tmp_path / f"pipe{len(writers)}"
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(content,)))
        writers[-1].start()
        return path

    yield pipe
    for writer in writers:
        writer.join(timeout=10)
        assert not writer.is_alive()


ROW = Qrel(query_id="q 0" + "{", doc_id="d1", relevance=2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'\n  {"query_id":"q","doc_id":"d","relevance":1}\n', Qrel(query_id="q", doc_id="d", relevance=1)),
        (b"query-id\tcorpus-id\tscore\nq 0{\td1\t2\n", ROW),
        (b"q 0{\td1\t2\n", ROW),
        (b"q 0 d 1\n", Qrel(query_id="q", doc_id="d", relevance=1)),
        (b"{q\t0\td\t1\n", Qrel(query_id="{q", doc_id="d", relevance=1)),
    ],
)
@pytest.mark.parametrize("pipe", [True, False])
def test_judgements_are_told_by_their_first_line(tmp_path, piped, content, expected, pipe):
    path = piped(content) if pipe else tmp_path / "judgements"
    if not pipe:
        path.write_bytes(content)
    assert list(open_qrels(path)) == [expected]


def test_queries_documents_and_runs_are_told_by_their_first_line(piped):
    assert list(open_queries(piped(b'{"_id":"q","text":"x"}\n'))) == [Query(query_id="q", text="x")]
    assert list(open_queries(piped(b'{"query_id":"q","text":"x"}\n'))) == [Query(query_id="q", text="x")]
    assert list(open_documents(piped(b'{"_id":"d","text":"x"}\n'))) == [Document(doc_id="d", text="x")]
    hit = Hit(query_id="q", doc_id="d", score=0.5, rank=1)
    assert list(open_run(piped(b'{"query_id":"q","doc_id":"d","score":0.5,"rank":1}\n'))) == [hit]
    assert list(open_run(piped(b"q Q0 d 1 0.5 t\n"))) == [hit]


@pytest.mark.parametrize(
    "content",
    [
        {"q": {"d": 0.5, "e": 2.0}},
        {"eval_name": "bright", "search_results": {"q": {"d": 0.5, "e": 2.0}}},
        {"split": "test", "search_results": {"test-q": {"d": 0.5, "e": 2.0}}},
    ],
)
def test_runs_in_json_are_read_best_first(tmp_path, content):
    (tmp_path / "run.json.gz").write_bytes(gzip.compress(json.dumps(content, indent=1).encode()))
    best = [
        Hit(query_id="q", doc_id="e", score=2.0, rank=1),
        Hit(query_id="q", doc_id="d", score=0.5, rank=2),
    ]
    assert list(open_run(tmp_path / "run.json.gz")) == best


def test_hits_as_json_lines_are_not_named_json(tmp_path):
    lines = b'{"query_id":"q","doc_id":"d","score":0.5,"rank":1}\n' * 2
    (tmp_path / "run.json").write_bytes(lines)
    with pytest.raises(InputError, match=r"run\.json: .*JSON lines are named \*\.jsonl"):
        list(open_run(tmp_path / "run.json"))


def test_a_file_named_jsonl_is_no_trec_file(tmp_path):
    (tmp_path / "q.jsonl").write_text("q 0 d 1\n")
    with pytest.raises(InputError, match=r"q\.jsonl:1: JSON is malformed"):
        list(open_qrels(tmp_path / "q.jsonl"))
    with pytest.raises(InputError, match=r"q\.jsonl:1: JSON is malformed"):
        list(open_run(tmp_path / "q.jsonl"))


@pytest.mark.extra
def test_beirs_rows_are_read_from_parquet_too(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"_id": "d", "title": "t", "text": "x"}]), tmp_path / "c.parquet")
    assert list(open_documents(tmp_path / "c.parquet")) == [Document(doc_id="d", text="x", title="t")]


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_documents(tmp_path / "nowhere")


def test_ids_of_a_beir_corpus_may_be_numbers_and_no_other_thing(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": 7, "text": "x", "title": null}\n{"_id": "8", "text": "y"}\n')
    with pytest.warns(InputWarning, match="ids that are numbers, such as 7, are read as text"):
        read = list(beir.read_corpus(tmp_path))
    assert read == [Document(doc_id="7", text="x"), Document(doc_id="8", text="y")]
    path.write_text('{"_id": 7, "text": "x"}\n{"_id": "7", "text": "y"}\n')
    with pytest.warns(InputWarning), pytest.raises(InputError, match=r"corpus\.jsonl:2: duplicate _id '7'"):
        list(beir.read_corpus(tmp_path))
    path.write_text('{"_id": 7.5, "text": "x"}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl:1: Expected `int \| str`, got `float`"):
        list(beir.read_corpus(tmp_path))


ENCODER = Encoder(model="m", digest="0", layout="o1", pooling="mean", max_length=8)


def _unit(rows, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_read_back_shard_by_shard(tmp_path):
    writer = VectorWriter(tmp_path / "v", encoder=ENCODER)
    first, second = _unit(3), _unit(2, seed=1)
    writer.write(["a", "b", "c"], first)
    writer.write(["d", "e"], second, owners=["q", "q"])
    vectors = writer.close()
    assert vectors.ids() == ["a", "b", "c", "d", "e"]
    assert vectors.owners() == ["a", "b", "c", "q", "q"]
    assert np.array_equal(vectors.load(), np.concatenate([first, second]))
    assert [ids for ids, _ in vectors.shards()] == [["a", "b", "c"], ["d", "e"]]
    assert list(vectors.shard_ids()) == [["a", "b", "c"], ["d", "e"]]
    assert vectors.manifest.encoder == ENCODER


def test_shards_that_are_done_are_not_read_again(tmp_path):
    writer = VectorWriter(tmp_path / "v")
    writer.write(["a"], _unit(1))
    writer.write(["b"], _unit(1, seed=1))
    vectors = writer.close()
    (tmp_path / "v" / "shard-00000.safetensors").unlink()
    assert [ids for ids, _ in vectors.shards(1)] == [["b"]]


def test_a_folder_of_vectors_of_a_newer_release_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"version": 99, "tensors": 1}')
    with pytest.raises(
        InputError, match=r"manifest\.json: written by a newer release of o1-records; upgrade"
    ):
        VectorSet(tmp_path)


def test_an_unfinished_folder_is_continued_and_not_published_before(tmp_path):
    VectorWriter(tmp_path / "v", encoder=ENCODER).write(["a"], _unit(1))
    assert not (tmp_path / "v").exists()
    again = VectorWriter(tmp_path / "v", encoder=ENCODER)
    assert again.ids == ["a"]
    again.write(["b"], _unit(1))
    assert again.close().ids() == ["a", "b"]


def test_two_writers_of_one_folder_are_refused_until_the_first_is_left(tmp_path):
    with VectorWriter(tmp_path / "v") as first:
        first.write(["a"], _unit(1))
        with pytest.raises(InputError, match=r"process \d+ on .* is at work there"):
            VectorWriter(tmp_path / "v")
    with VectorWriter(tmp_path / "v") as second:
        assert second.ids == ["a"]
        second.write(["b"], _unit(1, seed=1))
        assert second.close().ids() == ["a", "b"]


def test_another_encoder_cannot_continue_a_folder(tmp_path):
    VectorWriter(tmp_path / "v", encoder=ENCODER).write(["a"], _unit(1))
    other = Encoder(model="other", digest="0", layout="o1", pooling="mean", max_length=8)
    with pytest.raises(InputError, match=r"was made with model 'm', .*this run has model 'other'"):
        VectorWriter(tmp_path / "v", encoder=other)
    VectorWriter(tmp_path / "v", encoder=other, new_job=True).write(["a"], _unit(1))
    assert VectorSet(tmp_path / "v.partial.old1").ids() == ["a"]


def test_another_input_cannot_continue_a_folder(tmp_path):
    VectorWriter(tmp_path / "v", source="corpus 1").write(["a"], _unit(1))
    with pytest.raises(InputError, match="made with input 'corpus 1', this run has input 'corpus 2'"):
        VectorWriter(tmp_path / "v", source="corpus 2")


@pytest.mark.parametrize(
    ("ids", "vectors", "complaint"),
    [
        (["x", "y"], _unit(1), "2 ids for vectors of shape"),
        (["x", "x"], _unit(2), "repeated ids"),
        (["a"], _unit(1), "repeated ids"),
        (["x"], np.ones((1, 5), np.float32), "holds dim 4, float32; these have dim 5"),
        (["x"], np.ones((1, 4), np.float16), "these have dim 4, float16"),
        (["x", "bad"], np.array([[1, 0, 0, 0], [np.nan, 0, 0, 0]], np.float32), "'bad'"),
        (["x", "null"], np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.float32), "'null'"),
    ],
)
def test_vectors_that_cannot_be_trusted_are_refused_by_id(tmp_path, ids, vectors, complaint):
    writer = VectorWriter(tmp_path / "v")
    writer.write(["a"], _unit(1))
    with pytest.raises(InputError, match=complaint):
        writer.write(ids, vectors)
    assert writer.close().ids() == ["a"]


def test_every_flipped_bit_in_a_shard_is_noticed(tmp_path):
    writer = VectorWriter(tmp_path / "v")
    writer.write(["a", "b"], _unit(2))
    folder = writer.close().folder
    generator = random.Random(0)
    for name in ("shard-00000.safetensors", "shard-00000.ids.json", "manifest.json"):
        content = (folder / name).read_bytes()
        for _ in range(50):
            flipped = bytearray(content)
            flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
            (folder / name).write_bytes(flipped)
            with pytest.raises(InputError, match=name):
                _read_all(folder)
        (folder / name).write_bytes(content)
    assert VectorSet(folder).ids() == ["a", "b"]


def _read_all(folder):
    vectors = VectorSet(folder)
    return vectors.ids(), vectors.load()


def test_a_beir_folder_cannot_hold_what_it_cannot_give_back(tmp_path):
    documents = [Document(doc_id="d", text="x")]
    with pytest.raises(InputError, match="duplicate _id 'd'"):
        beir.write_beir(tmp_path, documents=documents * 2, queries=[], qrels={})
    asked = [Query(query_id="q", text="x", instruction="find")]
    with pytest.raises(InputError, match="cannot hold its instruction"):
        beir.write_beir(tmp_path, documents=documents, queries=asked, qrels={})
    judged = [Qrel(query_id="q", doc_id="a\tb", relevance=1)]
    with pytest.raises(InputError, match="tab"):
        beir.write_beir(tmp_path, documents=documents, queries=[], qrels={"test": judged})


def test_bm25_refuses_a_corpus_without_terms_and_an_unknown_language():
    with pytest.raises(InputError, match="none of the 1 documents has a term"):
        BM25([Document(doc_id="d", text="the and")])
    with pytest.raises(InputError, match="no stemmer for 'klingon'"):
        BM25(CORPUS, language="klingon")


CORPUS = [
    Document(doc_id="a", text="the cat sat on the mat"),
    Document(doc_id="b", text="dogs and cats", title="pets"),
    Document(doc_id="c", text="open_zip_file readZipFile"),
]


def _search(index, text, **options):
    return [hit.doc_id for hit in index.search([Query(query_id="q", text=text)], 10, **options)]


def test_bm25_returns_only_documents_that_share_a_term():
    index = BM25(CORPUS)
    assert _search(index, "cat") == ["b", "a"]
    assert _search(index, "zebra") == []
    assert _search(index, "") == []


def test_bm25_splits_identifiers_when_asked():
    assert _search(BM25(CORPUS), "zip") == []
    assert _search(BM25(CORPUS, split_identifiers=True), "zip") == ["c"]


def test_bm25_never_returns_an_excluded_document():
    assert _search(BM25(CORPUS), "cat", excluded={"q": {"b"}}) == ["a"]


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_bm25_search_equals_ranking_all_scores(seed, k):
    generator = random.Random(seed)
    colours = ["red", "green", "blue", "grey", "pink", "black", "white"][: generator.randrange(1, 8)]
    documents = [
        Document(doc_id=f"d{n}", text=" ".join(generator.choices(colours, k=generator.randrange(1, 9))))
        for n in range(generator.randrange(1, 400))
    ]
    index = BM25([*documents, Document(doc_id="d", text="red and green")])
    scores = dict(zip(index.doc_ids, index.scores("red green"), strict=True))
    expected = rank("q", {d: float(s) for d, s in scores.items() if s > 0}, k)
    assert list(index.search([Query(query_id="q", text="red green")], k)) == expected


@pytest.mark.parametrize("at_a_time", [2**22, 100, 1])
def test_bm25_has_the_matrix_of_bm25s(monkeypatch, at_a_time):
    """However many terms are counted together, and with documents that have none."""
    monkeypatch.setattr("o1_records.bm25._AT_A_TIME", at_a_time)
    generator = random.Random(0)
    terms = [[f"w{int(generator.paretovariate(0.5))}" for _ in range(n % 40)] for n in range(120)]
    documents = [Document(doc_id=str(n), text=" ".join(own)) for n, own in enumerate(terms)]
    index = BM25(documents, language="none")._index
    theirs = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend="numpy", csc_backend="numpy")
    vocabulary = {word: number for word, number in index.vocab_dict.items() if word}
    theirs.index(([[vocabulary[term] for term in own] for own in terms], vocabulary), show_progress=False)
    assert index.vocab_dict == theirs.vocab_dict
    for name in ("indptr", "indices"):
        assert np.array_equal(index.scores[name], theirs.scores[name])
        assert index.scores[name].dtype == theirs.scores[name].dtype
    np.testing.assert_allclose(index.scores["data"], theirs.scores["data"], rtol=1e-6)


def test_exception_itself_is_an_error_of_its_place_and_its_subclasses_pass():
    with pytest.raises(InputError, match=r"^here: it failed twice$"), PlainErrors("here"):
        raise Exception("it failed\n  twice")
    for error in (KeyError("x"), InputError("own words"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, PlainErrors("here"):
            raise error
        assert raised.value is error


def test_a_file_can_be_read_again_and_a_lance_folder_is_one(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "folder.lance"):
        (tmp_path / name).mkdir()
    names = ("file", "pipe", "folder", "folder.lance", "none")
    assert [name for name in names if is_file(tmp_path / name)] == ["file", "folder.lance"]
    assert [name for name in names if is_folder(tmp_path / name)] == ["folder"]
