"""Fusing rankings: laws, a hand-made example, the weight that judgements choose, the command."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_index import build, open_index
from o1_index.fusion import (
    FUSIONS,
    METHODS,
    as_run,
    calibrated_score,
    fuse_runs,
    fused_hits,
    hybrid,
    lowest_scores,
    tune_weight,
)
from o1_records import Document, Hit, InputError, Qrel, Query, Source, Thought, rank, write_jsonl
from o1_records.kit.fusion import SCALES
from o1_records.trec import read_run, write_qrels, write_run
from o1_records.vectors import VectorWriter

SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-5, 5, width=32), min_size=1)
RUNS = st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), SCORES, min_size=1)
FUSES = [*(METHODS[name] for name in SCALES), partial(calibrated_score, floors=(-9.0, -9.0))]


def order(run):
    return [(hit.query_id, hit.doc_id) for hit in fused_hits(run, k=99)]


def test_reciprocal_rank_is_its_formula():
    fused = METHODS["rrf"]([{"q": {"a": 9.0, "b": 8.0}}, {"q": {"b": 0.2, "c": 0.1}}], [1.0, 0.5])
    assert fused == {"q": pytest.approx({"a": 1 / 61, "b": 1 / 62 + 0.5 / 61, "c": 0.5 / 62})}


def test_calibrated_scores_go_from_the_floor_to_the_best_of_each_query_and_run():
    runs = [{"q": {"a": 30.0, "b": 10.0}}, {"q": {"b": 2.0, "c": 1.0}}]
    assert METHODS["minmax"](runs, [0.5, 0.5]) == {"q": pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})}
    fused = calibrated_score(runs, [0.5, 0.5], floors=[-10.0, 0.0])
    assert fused == {"q": pytest.approx({"a": 0.5, "b": 0.75, "c": 0.25})}
    assert calibrated_score([{"q": {"a": 7.0}}], [1.0], floors=[7.0]) == {"q": {"a": 1.0}}
    assert calibrated_score(runs, [0.5, 0.5], floors=[{"q": -10.0}, 0.0]) == fused


@pytest.mark.parametrize("fuse", FUSES)
@given(run=RUNS)
def test_a_run_fused_with_itself_or_with_weight_one_keeps_its_order(fuse, run):
    rounded = {q: {d: round(s, 2) for d, s in scores.items()} for q, scores in run.items()}
    distinct = {
        q: dict(zip(s, np.argsort(np.argsort(list(s.values()))) + 1.0, strict=True))
        for q, s in rounded.items()
    }
    assert order(fuse([distinct, distinct], [0.3, 0.7])) == order(distinct)
    assert order(fuse([distinct, {}], [1.0, 0.0])) == order(distinct)


@pytest.mark.parametrize("fuse", FUSES)
@given(first=RUNS, second=RUNS)
def test_the_order_of_the_runs_does_not_matter_and_every_document_stays(fuse, first, second):
    one, other = fuse([first, second], [0.25, 0.75]), fuse([second, first], [0.75, 0.25])
    assert one == {query_id: pytest.approx(scores) for query_id, scores in other.items()}
    found = {(q, d) for run in (first, second) for q, scores in run.items() for d in scores}
    assert {(q, d) for q, scores in one.items() for d in scores} == found


def test_the_rank_of_a_hit_counts_not_its_place_in_the_list():
    hits = [Hit(query_id="q", doc_id=d, score=s, rank=1) for d, s in (("a", 1.0), ("b", 3.0))]
    assert order(as_run(hits)) == [("q", "b"), ("q", "a")]


@pytest.mark.extra
@pytest.mark.parametrize("fuse", FUSES)
def test_the_better_run_gets_the_weight(fuse):
    qrels = [Qrel(query_id=f"q{n}", doc_id="good", relevance=1) for n in range(4)]
    right = {f"q{n}": {"good": 3.0, "bad": 2.0, "worse": 1.0} for n in range(4)}
    wrong = {f"q{n}": {"good": 1.0, "bad": 2.0, "worse": 3.0} for n in range(4)}
    weight, tried = tune_weight(right, wrong, qrels, fuse)
    assert weight >= 0.5
    assert tried[weight] == 1.0
    assert tried[0.0] == pytest.approx(0.5)
    assert tune_weight(wrong, right, qrels, fuse)[0] <= 0.5
    with pytest.raises(InputError, match="none of the queries is judged"):
        tune_weight(right, wrong, [Qrel(query_id="other", doc_id="good", relevance=1)], fuse)


@pytest.mark.extra
@pytest.mark.parametrize("fuse", FUSES)
def test_at_weight_one_and_zero_only_one_ranking_is_judged(fuse):
    first, second = {"q": {"a": 3.0, "b": 1.0}}, {"q": {"y": 9.0, "z": 7.0}}
    for doc_id, dense, lexical in (("z", 0.0, 0.631), ("b", 0.631, 0.0)):
        _, tried = tune_weight(first, second, [Qrel(query_id="q", doc_id=doc_id, relevance=1)], fuse)
        assert (tried[1.0], tried[0.0]) == pytest.approx((dense, lexical), abs=1e-3)


@pytest.mark.parametrize("method", SCALES)
def test_a_run_of_weight_zero_adds_no_documents(method):
    first, second = {"q": {"a": 3.0, "b": 1.0}}, {"q": {"z": 7.0}, "p": {"z": 7.0}}
    runs = [as_hits(first), as_hits(second)]
    alone = list(fuse_runs(runs[:1], method=method))
    assert list(fuse_runs(runs, method=method, weights=[1.0, 0.0])) == alone
    with pytest.raises(InputError, match="all weights are 0; at least one run must count"):
        list(fuse_runs(runs, method=method, weights=[0.0, 0.0]))


@pytest.mark.extra
def test_the_command_fuses_vectors_with_bm25_over_query_and_thought(tmp_path):
    texts = {"a": "cats purr softly", "b": "dogs bark", "c": "engines purr loudly", "d": "tea cools"}
    write_jsonl(tmp_path / "corpus.jsonl", [Document(doc_id=d, text=t) for d, t in texts.items()])
    write_jsonl(tmp_path / "queries.jsonl", [Query(query_id="q", text="dogs")])
    source = Source(model="m")
    thought = Thought(query_id="q", thought_id="q#0", text="engines loudly", source=source)
    write_jsonl(tmp_path / "thoughts.jsonl", [thought])
    write_qrels(tmp_path / "qrels.txt", [Qrel(query_id="q", doc_id="c", relevance=1)])
    build(np.eye(4), list("abcd")).save(tmp_path / "index")
    writer = VectorWriter(tmp_path / "vectors")
    writer.write(["q"], np.array([[0.9, 0.1, 0.2, 0.3]], dtype=np.float32))
    writer.close()

    def run(*words, code=0):
        options = [
            "--index",
            "index",
            "--vectors",
            "vectors",
            "--corpus",
            "corpus.jsonl",
            "--queries",
            "queries.jsonl",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "o1_index", "hybrid", *options, "--out", "run.txt", *words],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return [hit.doc_id for hit in read_run(tmp_path / "run.txt")], done.stderr

    assert run("--weight", "1")[0] == ["a", "d", "c", "b"]
    assert run("--weight", "0")[0][0] == "b"
    thoughts = ["--thoughts", "thoughts.jsonl"]
    assert run("--weight", "0", *thoughts, "--lexical", "thought")[0][0] == "c"
    assert set(run("--weight", "0", *thoughts)[0][:2]) == {"b", "c"}
    found, said = run(*thoughts, "--lexical", "thought", "--qrels", "qrels.txt", "--fusion", "scores")
    assert found[0] == "c"
    assert "BM25 1.0000" in said
    index = open_index(tmp_path / "index")
    index.remove(["b"])
    index.save(tmp_path / "index")
    assert "b" not in run("--weight", "0")[0]
    write_jsonl(tmp_path / "queries.jsonl", [Query(query_id="other", text="dogs")])
    assert "queries: no text for 1 queries that have vectors, such as ['q']" in run(code=4)[1]
    write_jsonl(
        tmp_path / "queries.jsonl", [Query(query_id="q", text="dogs"), Query(query_id="p", text="cats")]
    )
    run()
    assert {hit.query_id for hit in read_run(tmp_path / "run.txt")} == {"q"}
    write_jsonl(tmp_path / "corpus.jsonl", [Document(doc_id=d, text=t) for d, t in texts.items() if d != "c"])
    assert "corpus: no text for 1 documents of the index, such as ['c']" in run(code=4)[1]


@pytest.fixture
def parts(tmp_path):
    """An index, query vectors, and the texts of both."""
    vectors = VectorWriter(tmp_path / "vectors")
    vectors.write(["q"], np.array([[0.9, 0.1]], dtype=np.float32))
    documents = [Document(doc_id="a", text="cats purr"), Document(doc_id="b", text="dogs bark")]
    return build(np.eye(2), ["a", "b"]), vectors.close(), [Query(query_id="q", text="dogs")], documents


@pytest.mark.extra
def test_python_searches_and_fuses_without_the_command(parts):
    for fusion in FUSIONS:
        found = hybrid(*parts, k=2, weight=0.0, fusion=fusion)
        assert order(found.run) == [("q", "b")]  # BM25 finds no other
        assert order(hybrid(*parts, k=1, weight=1.0, fusion=fusion).run) == [("q", "a")]
    assert (found.weight, found.tried) == (0.0, {})
    qrels = [Qrel(query_id="q", doc_id="a", relevance=1)]
    tuned = hybrid(*parts, k=2, qrels=qrels)
    assert order(tuned.run)[0] == ("q", "a")
    assert tuned.tried[tuned.weight] == 1.0
    assert order(hybrid(*parts, k=2, excluded={"q": {"b"}}).run) == [("q", "a")]


@pytest.mark.extra
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_calibrated_scores_hold_for_vectors_of_any_length(tmp_path, metric):
    random = np.random.default_rng(0)
    words = ["cats", "dogs", "purr", "bark", "tea", "cools"]
    names = [f"d{n}" for n in range(30)]
    documents = [Document(doc_id=name, text=" ".join(random.choice(words, 3))) for name in names]
    queries = [Query(query_id=f"q{n}", text=str(word)) for n, word in enumerate(words)]
    vectors, asked = random.normal(size=(30, 4)), random.normal(size=(6, 4))
    found = {}
    for length in (0.01, 1.0, 20.0):
        writer = VectorWriter(tmp_path / f"vectors{length}")
        writer.write([query.query_id for query in queries], (length * asked).astype(np.float32))
        source = writer.close()
        index = build((length * vectors).astype(np.float32), names, metric=metric)
        lowest = lowest_scores(index, source)
        for hit in index.search(source.load(), source.ids(), k=30):
            assert hit.score >= lowest[hit.query_id] * (1 + 1e-6)
        found[length] = hybrid(index, source, queries, documents, k=30, fusion="scores").run
    for run in found.values():
        for query_id, scores in run.items():
            assert scores == pytest.approx(found[1.0][query_id], abs=1e-4)
            assert 0 <= min(scores.values()) <= max(scores.values()) <= 1


@pytest.mark.extra
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 1.2}, r"weight must be between 0 and 1, got 1\.2"),
        ({"weight": 0.5, "qrels": []}, "weight has no effect where qrels choose it"),
        ({"lexical": "thought"}, "lexical 'thought' needs thoughts"),
        (
            {"thoughts": [Thought(query_id="q", thought_id="q#0", text="x", source=Source(model="m"))]}
            | {"lexical": "query"},
            "thoughts have no effect with lexical 'query'; leave them out, or choose 'thought' or 'both'",
        ),
        ({"fusion": "best"}, "unknown fusion 'best'; choose one of rrf, minmax, z, sum, scores"),
        ({"qrels": []}, "none of the queries is judged"),
        (
            {"thoughts": [Thought(query_id="p", thought_id="p#0", text="x", source=Source(model="m"))]},
            "thoughts: none is about a query that has vectors",
        ),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(parts, options, message):
    with pytest.raises(InputError, match=message):
        hybrid(*parts, **options)


def test_judgements_of_a_folder_are_named_by_their_split(tmp_path):
    (tmp_path / "beir").mkdir()
    words = [
        "hybrid",
        "--index",
        "i",
        "--vectors",
        "v",
        "--corpus",
        "c",
        "--queries",
        "q",
        "--out",
        "run.txt",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "o1_index", *words, "--qrels", "beir"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 4
    assert "--qrels beir is a folder; name its judgements with --split" in done.stderr


# --- any runs -----------------------------------------------------------------------------------------


def as_hits(run):
    return [hit for query_id, scores in run.items() for hit in rank(query_id, scores)]


def test_runs_of_shards_make_the_run_of_the_whole_collection():
    vectors = np.random.default_rng(0).integers(-3, 4, size=(60, 4)) + 0.5
    names = [f"d{row}" for row in range(60)]
    whole = build(vectors, names).search(vectors[:5], list("pqrst"), k=8)
    parts = [build(vectors[n::3], names[n::3]).search(vectors[:5], list("pqrst"), k=8) for n in range(3)]
    assert list(fuse_runs(parts, method="shards", k=8)) == list(whole)
    with pytest.raises(InputError, match=r"query 'p': document 'd.*' is in two runs"):
        list(fuse_runs([parts[0], parts[0]], method="shards"))
    with pytest.raises(InputError, match="weights have no effect on runs of shards"):
        list(fuse_runs(parts, method="shards", weights=[1, 2, 1]))


def test_weights_are_those_of_the_published_recipes():
    first, second = {"q": {"a": 9.0, "b": 5.0, "c": 1.0}}, {"q": {"c": 0.2, "b": 0.1, "d": 0.0}}
    fused = list(fuse_runs([as_hits(first), as_hits(second)], method="minmax", weights=[0.75, 0.25]))
    assert [(hit.doc_id, hit.score) for hit in fused] == [
        ("a", 0.75), ("b", 0.75 * 0.5 + 0.25 * 0.5), ("c", 0.25), ("d", 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "unknown fusion 'best'; choose one of rrf, minmax, z, sum, shards"),
        ({"weights": [1.0]}, "1 weights for 2 runs; give one for each"),
    ],
)
def test_a_fusion_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        list(fuse_runs([[], []], **options))


@pytest.mark.parametrize("method", METHODS)
def test_the_command_fuses_the_runs_that_python_fuses(method, tmp_path):
    runs = [{"q": {"a": 3.0, "b": 1.0}, "p": {"x": 1.0}}, {"q": {"c": 2.0, "d": 1.5}}]
    # one of TREC's form, one of BEIR's
    write_run(tmp_path / "0.txt", as_hits(runs[0]))
    (tmp_path / "1.json").write_text(json.dumps(runs[1]))
    words = ["fuse", "--runs", "0.txt", "1.json", "--out", "fused.txt", "--fusion", method, "--k", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "o1_index", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "fused.txt: 4 hits\n")
    expected = list(fuse_runs([as_hits(run) for run in runs], method=method, k=3))
    assert list(read_run(tmp_path / "fused.txt")) == expected
