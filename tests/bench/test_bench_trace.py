"""What a trace keeps of a mixture is enough to tell the first documents again, exactly, for every weight."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_bench import Collection, Options, run
from o1_bench.results.result import RUN, load_result
from o1_bench.results.trace import DEPTH, STEPS, TRACE, Trace, TracedQuery, load_trace, save_trace, traces
from o1_bench.running import trace as tracing
from o1_bench.running.mixture import MixedLexical, MixedVectors
from o1_bench.running.pipeline import Pipeline
from o1_bench.running.retrieve import ExactSearch, bm25
from o1_bench.running.trace import trace
from o1_records import Document, InputError, Qrel, Query, Source, Thought, write_jsonl
from o1_records.mixture import READINGS, Mixture

WORDS = ("open", "close", "zip", "archive", "socket", "parse", "date", "copy", "folder", "sort", "list")
COUNT = 40


def collection(seed=0, count=COUNT, excluded=True):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 6))) for _ in range(count)]
    queries = [Query(query_id=f"q{n}", text=" ".join(draw.choices(WORDS, k=2))) for n in range(6)]
    return Collection(
        name="words/test",
        documents=[Document(doc_id=f"d{n}", text=text) for n, text in enumerate(texts)],
        queries=queries,
        qrels=[Qrel(query_id=q.query_id, doc_id=f"d{n}", relevance=1) for n, q in enumerate(queries)],
        excluded={"q1": frozenset({"d7", "d8"})} if excluded else {},
    )


def thoughts_of(asked, seed=0):
    """Two thoughts of each query but the last, which has none; the first one is empty."""
    draw = random.Random(seed)
    ids = [query.query_id for query in asked.queries[:-1]]
    texts = {query_id: [" ".join(draw.choices(WORDS, k=3)) for _ in range(2)] for query_id in ids}
    texts[ids[0]] = ["", texts[ids[0]][1]]
    return texts


class Counter:
    """Counts words, with a little of each word in every text."""

    def _vectors(self, texts):
        rows = [[0.01 * n + text.split().count(word) for n, word in enumerate(WORDS)] for text in texts]
        return np.array(rows, dtype=np.float32)

    def documents(self, documents):
        return self._vectors([document.text for document in documents])

    def queries(self, queries, thoughts=None):
        own = thoughts or [()] * len(queries)
        return self._vectors([" ".join([q.text, *each]) for q, each in zip(queries, own, strict=True)])


def first_of(retrieve, asked):
    """The first documents of each query in a run, with their scores."""
    found = {query.query_id: [] for query in asked.queries}
    excluded = asked.excluded
    for hit in retrieve(asked.queries, COUNT):
        if hit.doc_id not in excluded.get(hit.query_id, ()):
            found[hit.query_id].append((hit.doc_id, hit.score))
    return {query_id: hits[:DEPTH] for query_id, hits in found.items()}


@pytest.mark.parametrize("query_weights", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_bm25_ranks_as_its_trace_says_at_every_weight_with_every_tie(seed, query_weights):
    asked = collection(seed)
    texts, search = thoughts_of(asked, seed), bm25(asked, query_weights=query_weights)
    told = trace(asked, MixedLexical(search, texts, 0.3), run="x", texts=texts)
    assert told.weights == tuple(sorted({*STEPS, 0.3}))
    for weight in told.weights[1:]:
        ran = first_of(MixedLexical(search, texts, weight), asked)
        for query in told.queries:
            assert query.first(weight) == [doc_id for doc_id, _ in ran[query.query_id]]
            scores = dict(zip(query.doc_ids, query.scores([weight])[0].tolist(), strict=True))
            assert [scores[doc_id] for doc_id, _ in ran[query.query_id]] == [
                s for _, s in ran[query.query_id]
            ]
    plain = first_of(search, asked)
    assert {query.query_id: query.first(0.0) for query in told.queries} == {
        query_id: [doc_id for doc_id, _ in hits] for query_id, hits in plain.items()
    }


@pytest.mark.parametrize("reading", READINGS)
def test_vectors_rank_as_their_trace_says_at_every_weight(reading):
    asked, model = collection(), Counter()
    texts = thoughts_of(asked)
    search = ExactSearch(
        model.documents(asked.documents), [d.doc_id for d in asked.documents], excluded=asked.excluded
    )

    def pipeline(weight):
        embed = MixedVectors(model, Mixture(weight=weight, reading=reading))
        return Pipeline(embed=embed, search=search, thoughts=texts)

    told = trace(asked, pipeline(0.3), run="x", texts=texts)
    assert told.of == "vectors"
    assert "no shares of tokens" in told.why
    for weight in told.weights:
        ran = first_of(pipeline(weight), asked)
        for query in told.queries:
            scores = dict(zip(query.doc_ids, query.scores([weight])[0].tolist(), strict=True))
            first = ran[query.query_id]
            assert [scores[doc_id] for doc_id, _ in first] == pytest.approx([s for _, s in first], abs=2e-6)
            # the same documents; those that tie to 2e-6 may stand in another order
            assert sorted(scores[d] for d in query.first(weight)) == pytest.approx(
                sorted(s for _, s in first), abs=2e-6
            )


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=40)
def test_looking_at_the_best_of_both_ends_first_loses_nothing(seed, alike):
    rng = np.random.default_rng(seed)
    own, other = rng.normal(size=(2, 400)).astype(np.float32)
    mean = (alike * own + (1 - alike) * other).astype(np.float32)
    kept = tracing._Kept(collection(count=400), [f"d{n}" for n in range(400)], STEPS)
    before = tracing._POOL
    tracing._POOL = 15
    try:
        pool = kept._pool(own, mean, np.arange(400))
    finally:
        tracing._POOL = before
    for weight in STEPS:
        scores = (1 - weight) * own + weight * mean
        assert set(np.argsort(-scores)[:DEPTH]) <= set(pool.tolist())


def sums(query):
    """What the shares of each document add up to, and its score, for the query and each thought."""
    for reading, scores in enumerate([query.own, *query.theirs]):
        for place, shares in enumerate(query.shares[reading] if query.shares else ()):
            if shares:
                zero = query.zero[reading] if query.zero else 0.0
                yield zero + sum(s for _, s in shares) + query.rest[reading][place], scores[place]


@pytest.mark.parametrize("query_weights", [False, True])
def test_the_shares_of_the_terms_add_up_to_the_score(query_weights):
    asked = collection()
    texts = thoughts_of(asked)
    told = trace(
        asked, MixedLexical(bm25(asked, query_weights=query_weights), texts, 0.3), run="x", texts=texts
    )
    pairs = [pair for query in told.queries for pair in sums(query)]
    assert len(pairs) > 50
    assert [total for total, _ in pairs] == pytest.approx([score for _, score in pairs], abs=1e-3)


@pytest.mark.extra
@pytest.mark.parametrize("reading", READINGS)
def test_the_shares_of_the_tokens_add_up_to_the_score_where_the_vector_is_their_mean(tmp_path, reading):
    pytest.importorskip("sentence_transformers")
    from helpers.tiny import save_sentence_model

    asked = collection()
    thoughts = [
        Thought(query_id=q, thought_id=str(n), text=text, source=Source(model="llm", completion_tokens=n + 3))
        for q, texts in thoughts_of(asked).items()
        for n, text in enumerate(texts)
        if text
    ]
    write_jsonl(tmp_path / "thoughts.jsonl", thoughts)
    for pooling, exact in (("mean", True), ("cls", False)):
        model = save_sentence_model(tmp_path / pooling, WORDS, pooling=pooling)
        options = Options(reading=reading, mix=(0.3,), query_prompt="open list ")
        out = tmp_path / f"out-{pooling}"
        run(str(model), out, collection=asked, thoughts=tmp_path / "thoughts.jsonl", options=options)
        folder = out / "words-test" / "tiny-encoder-0.3-thought"
        told = load_trace(folder, load_result(folder).files[RUN])
        pairs = [pair for query in told.queries for pair in sums(query)]
        assert bool(pairs) is exact
        assert [total for total, _ in pairs] == pytest.approx([score for _, score in pairs], abs=2e-3)
        assert ("the mean of their states" in told.why) is exact
        assert told.queries[1].thoughts[0].tokens == 3
        if exact:  # the prompt is read too
            assert {"open", "list"} <= set(told.queries[1].pieces[0])


def test_what_is_missing_is_told_again_without_running_again(tmp_path):
    asked = collection()
    texts = [
        Thought(query_id=q, thought_id=str(n), text=text or "zip", source=Source(model="llm"))
        for q, own in thoughts_of(asked).items()
        for n, text in enumerate(own)
    ]
    write_jsonl(tmp_path / "t.jsonl", texts)

    def again():
        run("bm25", tmp_path / "out", collection=asked, thoughts=tmp_path / "t.jsonl", controls=True)

    again()
    paths = sorted((tmp_path / "out").glob(f"*/*/{TRACE}"))
    assert [path.parent.name for path in paths] == [
        *(f"bm25-0.2-{kind}-thought" for kind in ("copy", "empty", "filler", "shuffled")),
        "bm25-0.2-thought",
    ]
    before = {path: path.read_bytes() for path in paths}
    results = {path: (path.parent / "result.json").stat().st_mtime_ns for path in paths}
    for path in paths:
        path.unlink()
    again()
    assert {path: path.read_bytes() for path in paths} == before
    assert {path: (path.parent / "result.json").stat().st_mtime_ns for path in paths} == results


def test_a_trace_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    save_trace(tmp_path, Trace(run="a", of="vectors", weight=0.2, reading="document"))
    assert traces(tmp_path, "a")
    assert not traces(tmp_path, "b")
    with pytest.raises(InputError, match="explains another run than the one beside it"):
        load_trace(tmp_path, "b")
    (tmp_path / TRACE).write_text('{"run": "a"')
    with pytest.raises(InputError, match="not a whole trace"):
        load_trace(tmp_path, "a")
    assert load_trace(tmp_path / "none", "a") is None


def test_long_documents_are_cut_and_it_is_said():
    asked = Collection(
        name="long/test",
        documents=[Document(doc_id="d0", text="zip " * 400), Document(doc_id="d1", text="open")],
        queries=[Query(query_id="q0", text="zip")],
        qrels=[Qrel(query_id="q0", doc_id="d0", relevance=1)],
    )
    told = trace(asked, MixedLexical(bm25(asked), {"q0": ["open"]}, 0.5), run="x", texts={"q0": ["open"]})
    assert len(told.documents["d0"]) == 1000
    assert told.cut == {"d0": 600}


def test_thoughts_opposite_to_their_query_leave_the_query_alone():
    query = TracedQuery(
        query_id="q", text="", doc_ids=("b", "a"), own=(0.1, 0.9), theirs=((-0.1, -0.9),), inner=(1, -1, 1)
    )
    assert query.scores([0.5])[0].tolist() == pytest.approx([0.1, 0.9])
    assert query.first(0.5) == ["a", "b"]
