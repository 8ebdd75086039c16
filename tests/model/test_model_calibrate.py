"""Calibration: the weight of thoughts that gain, 0 where nothing gains, figures held out, controls beside."""

import numpy as np
import pytest

from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.ndcg import first_rows, ideal, ndcg, ndcg_rows
from o1_model.retriever.calibrate import calibrate
from o1_model.retriever.calibration import load_calibration
from o1_model.retriever.embedders import open_embedder
from o1_model.retriever.judged import open_judged
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.retriever.scores import open_corpus
from o1_model.retriever.thinkers import GivenThoughts
from o1_records import Document, DocumentThought, InputError, Qrel, Query, Source, Thought, rank, write_jsonl
from o1_records.beir import write_beir
from o1_records.kit.job import ChangedJobError
from o1_records.mixture import Mixture

TEXT = "open zip file read write list sort keys close text bytes in of the how do i a"
WORDS = TEXT.split(" ")
N = 40


def words_of(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def thought(query_id, text):
    source = Source(model="somebody", completion_tokens=len(text.split()))
    return Thought(query_id=query_id, thought_id=f"{query_id}#0", text=text, source=source)


def comment(doc_id, text):
    return DocumentThought(
        doc_id=doc_id, thought_id=f"{doc_id}#0", text=text, source=Source(model="somebody")
    )


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Queries that say nothing about their document."""
    folder = tmp_path_factory.mktemp("calibrate") / "toy"
    documents = [Document(doc_id=f"d{n:02}", text=words_of(n, 8)) for n in range(N)]
    queries = [Query(query_id=f"q{n:02}", text=words_of(1000 + n, 3)) for n in range(N)]
    qrels = [Qrel(query_id=f"q{n:02}", doc_id=f"d{n:02}", relevance=1) for n in range(N)]
    write_beir(folder, documents=documents, queries=queries, qrels={"dev": qrels})
    return folder


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


def oracle():
    """The text of the right document, or most of it."""
    return [thought(f"q{n:02}", " ".join(words_of(n, 8).split()[:6])) for n in range(N)]


@pytest.mark.parametrize(
    "search",
    ["dense", pytest.param("bm25", marks=pytest.mark.extra), pytest.param("hybrid", marks=pytest.mark.extra)],
)
def test_thoughts_that_know_the_answer_get_a_weight(collection, checkpoint, search):
    model = None if search == "bm25" else checkpoint
    device = None if search == "bm25" else "cpu"
    found = calibrate(model, GivenThoughts(oracle()), collection, search=search, device=device)
    assert found.mixture.weight > 0
    assert found.gains["queries"].low > 0.1
    assert set(found.controls) == {"empty", "other", "filler", "copy"}
    assert all(gain.mean < found.gains["queries"].mean for gain in found.controls.values())
    assert (found.queries, found.documents, found.split) == (N, N, "dev")
    assert found.by_weight["0.0"] == 0
    assert found.tokens == 6


@pytest.mark.parametrize("search", ["dense", pytest.param("bm25", marks=pytest.mark.extra)])
def test_thoughts_about_something_else_get_none_and_the_reason(collection, checkpoint, search):
    strangers = [thought(f"q{n:02}", words_of(5000 + n, 6)) for n in range(N)]
    model = None if search == "bm25" else checkpoint
    found = calibrate(model, GivenThoughts(strangers), collection, search=search)
    assert found.mixture.weight == 0
    assert "not surely above 0" in found.why or "no weight is better than 0" in found.why


@pytest.mark.extra
def test_thoughts_of_documents_are_weighed_by_themselves_and_together(collection, checkpoint):
    about = [comment(f"d{n:02}", words_of(1000 + n, 3)) for n in range(N)]  # the query, word by word
    strangers = GivenThoughts([thought(f"q{n:02}", words_of(5000 + n, 6)) for n in range(N)])
    for search, model in (("bm25", None), ("dense", checkpoint)):
        found = calibrate(model, strangers, collection, search=search, document_thoughts=about)
        assert set(found.gains) == {"queries", "documents", "both"}
        assert found.gains["documents"].low > 0.1
        assert (found.document_weight > 0, found.mixture.weight) == (True, 0)
        assert found.controls["other document"].mean < found.gains["documents"].mean
    with pytest.raises(InputError, match="none of the 1 thoughts is about a document"):
        calibrate(
            None,
            GivenThoughts(oracle()),
            collection,
            search="bm25",
            document_thoughts=[comment("x", "something")],
        )


@pytest.mark.extra
def test_queries_think_beside_documents_where_that_gains_more(collection):
    known = [comment(f"d{n:02}", words_of(1000 + n, 3)) for n in range(N)]  # the query, word by word
    half = GivenThoughts(oracle()[N // 2 :])
    found = calibrate(None, half, collection, search="bm25", document_thoughts=known[: N // 2])
    assert min(found.document_weight, found.mixture.weight) > 0
    assert found.gains["both"].mean > max(found.gains[kind].mean for kind in ("queries", "documents"))


@pytest.mark.extra
def test_thoughts_of_documents_that_say_nothing_change_no_document(collection, checkpoint):
    noise = [comment(f"d{n:02}", words_of(9000 + n, 4)) for n in range(N)]
    for search, model in (("bm25", None), ("dense", checkpoint)):
        found = calibrate(model, GivenThoughts(oracle()), collection, search=search, document_thoughts=noise)
        assert found.document_weight == 0
        assert "documents: held out" in found.why
        assert found.mixture.weight > 0


@pytest.mark.extra
def test_scores_are_made_in_blocks_that_fit_into_memory(collection, monkeypatch):
    import o1_model.retriever.calibrate as module

    whole = calibrate(None, GivenThoughts(oracle()), collection, search="bm25")
    sizes = []
    mixed = module.mixed
    monkeypatch.setattr("o1_model.retriever.judged.BLOCK", 3 * N)
    monkeypatch.setattr(module, "mixed", lambda *args: sizes.append(args[0].shape) or mixed(*args))
    blocks = calibrate(None, GivenThoughts(oracle()), collection, search="bm25")
    assert max(rows for rows, _ in sizes) == 3
    assert (blocks.gains, blocks.controls) == (whole.gains, whole.controls)


def test_folds_are_equally_large_and_equal_texts_share_one():
    import o1_model.retriever.calibrate as module

    queries = [Query(query_id=f"q{n}", text=f"text {n // 2}") for n in range(24)]
    folds = module._Table([], np.zeros((0, 24)), queries).folds
    assert sorted(np.bincount(folds, minlength=5).tolist()) == [4, 4, 4, 6, 6]
    assert all(folds[n] == folds[n + 1] for n in range(0, 24, 2))


@pytest.mark.extra
def test_given_thoughts_cost_what_they_cost_and_blank_samples_count(collection):
    long = [
        Thought(
            query_id=each.query_id,
            thought_id=f"{each.query_id}#1",  # sample 0 came out blank
            text=each.text,
            source=Source(model="somebody", completion_tokens=128),
        )
        for each in oracle()
    ]
    found = calibrate(None, GivenThoughts(long), collection, search="bm25", samples=2)
    assert (found.thinking.samples, found.tokens) == (2, 128)
    with pytest.raises(InputError, match="leave out max_tokens"):
        calibrate(None, GivenThoughts(long), collection, search="bm25", max_tokens=5)


def test_the_weighed_scores_are_those_of_the_retriever(collection, checkpoint):
    found = calibrate(checkpoint, GivenThoughts(oracle()), collection, device="cpu")
    retriever = ThinkingRetriever(checkpoint, GivenThoughts(oracle()), calibration=found, device="cpu")
    assert retriever.mixture == found.mixture
    model = Embedder.from_pretrained(checkpoint, device="cpu")
    model.mixture = Mixture(weight=0.9, reading="joint")  # as it was trained: a calibration knows better
    assert ThinkingRetriever(model, GivenThoughts(oracle()), calibration=found).mixture == found.mixture
    judged = open_judged(collection, "dev")
    vectors = retriever.encode_query(judged.queries)
    documents = retriever.encode_document(judged.documents)
    ids = [document.doc_id for document in judged.documents]
    values = []
    for query, vector in zip(judged.queries, vectors, strict=True):
        scores = dict(zip(ids, (documents @ vector).tolist(), strict=True))
        hits = [hit.doc_id for hit in rank(query.query_id, scores, 10)]
        values.append(ndcg(hits, {f"d{query.query_id[1:]}": 1}))
    gained = np.mean(values) - found.base
    assert gained == pytest.approx(found.by_weight[str(found.mixture.weight)], abs=1e-3)


@pytest.fixture
def arguana(tmp_path):
    """Each query is a document too, of the same id; the first is judged relevant to itself."""
    folder = tmp_path / "arguana"
    queries = [Query(query_id=f"q{n:02}", text=words_of(1000 + n, 3)) for n in range(N)]
    documents = [Document(doc_id=query.query_id, text=query.text) for query in queries]
    documents += [Document(doc_id=f"d{n:02}", text=words_of(n, 8)) for n in range(N)]
    qrels = [Qrel(query_id=f"q{n:02}", doc_id=f"d{n:02}", relevance=1) for n in range(N)]
    qrels[0] = Qrel(query_id="q00", doc_id="q00", relevance=1)
    write_beir(folder, documents=documents, queries=queries, qrels={"dev": qrels})
    return folder


@pytest.mark.parametrize(
    "search",
    ["dense", pytest.param("bm25", marks=pytest.mark.extra), pytest.param("hybrid", marks=pytest.mark.extra)],
)
def test_a_query_that_is_a_document_does_not_find_itself_unless_it_is_judged(
    arguana, checkpoint, search, caplog
):
    judged = open_judged(arguana, "dev")
    assert "39 queries are documents too, by their ids, and do not find them" in caplog.text
    retriever = None if search == "bm25" else ThinkingRetriever(checkpoint, device="cpu")
    corpus = open_corpus(search, retriever, judged.documents, None, split_identifiers=False)
    scores = corpus.of_queries(judged.queries, 0)
    values, kept = [], []
    for query, own in zip(judged.queries, scores, strict=True):
        by_id = {document.doc_id: score for document, score in zip(judged.documents, own, strict=True)}
        wanted = {"q00" if query.query_id == "q00" else f"d{query.query_id[1:]}": 1}
        every = [hit.doc_id for hit in rank(query.query_id, by_id, 10)]
        kept.append(ndcg(every, wanted))
        if query.query_id != "q00":
            assert query.query_id in every
            del by_id[query.query_id]
        values.append(ndcg([hit.doc_id for hit in rank(query.query_id, by_id, 10)], wanted))
    places = range(len(judged.queries))
    np.testing.assert_allclose(judged.ndcg(scores, places), values, atol=1e-12)
    assert np.mean(values) > np.mean(kept)
    model = None if search == "bm25" else checkpoint
    thoughts = [thought(query.query_id, words_of(n, 4)) for n, query in enumerate(judged.queries)]
    found = calibrate(model, GivenThoughts(thoughts), judged, search=search, weights=[1.0])
    assert found.base == pytest.approx(np.mean(values))  # a weight of 1 leaves nothing of the query's scores
    assert np.isfinite(found.by_weight["1.0"])


def test_fast_figures_are_those_of_the_slow_reference():
    random = np.random.default_rng(0)
    scores = random.integers(0, 12, (50, 40)).astype(np.float32)  # many ties
    ids = [f"d{column:02}" for column in range(39, -1, -1)]  # larger ids first, as in `open_judged`
    relevant = [
        {int(column): int(random.integers(1, 4)) for column in random.choice(40, 1 + row % 15, replace=False)}
        for row in range(50)
    ]
    slow, first = [], []
    for own, gains in zip(scores, relevant, strict=True):
        hits = [hit.doc_id for hit in rank("q", dict(zip(ids, own.tolist(), strict=True)), 10)]
        first.append([ids.index(doc_id) for doc_id in hits])
        slow.append(ndcg(hits, {"absent": 2, **{ids[column]: gain for column, gain in gains.items()}}))
    best = [ideal([2, *gains.values()]) for gains in relevant]
    np.testing.assert_allclose(ndcg_rows(scores, relevant, best), slow, atol=1e-12)
    assert first_rows(scores) == first
    assert first_rows(np.array([[1.0, -np.inf, 2.0]])) == [[2, 0]]


@pytest.mark.extra
def test_queries_without_a_thought_are_counted(collection, caplog):
    calibrate(None, GivenThoughts(oracle()[:30]), collection, search="bm25")
    assert "10 of 40 queries have no thought" in caplog.text


def test_a_budget_gives_a_gate_only_if_it_is_better_than_chance(collection, checkpoint):
    found = calibrate(checkpoint, GivenThoughts(oracle()), collection, budget=0.5, device="cpu")
    share = next(each for each in found.shares if each.share == 0.5)
    assert (found.gate is not None) == (share.gate > share.random)
    assert ("no gate is better than chance" in found.why) == (found.gate is None)
    for search, model, budget in (("bm25", None, 0.5), ("dense", checkpoint, 0)):
        with pytest.raises(InputError, match="a budget is for dense search, above 0 and below 1"):
            calibrate(model, GivenThoughts(oracle()), collection, search=search, budget=budget)
    assert {each.share for each in found.shares} == {0.1, 0.3, 0.5, 0.7}


@pytest.mark.extra
def test_thoughts_survive_in_the_job_and_other_weights_do_not_think_again(collection, tmp_path):
    class Counting(GivenThoughts):
        asked = 0

        def think(self, queries, thinking):
            self.asked += len(queries)
            return super().think(queries, thinking)

    thinker, out = Counting(oracle()), tmp_path / "found.json"
    first = calibrate(None, thinker, collection, search="bm25", out=out)
    timed = thinker.asked - N  # what the clock was read for
    assert load_calibration(out) == first
    again = calibrate(None, thinker, collection, search="bm25", weights=[0.5], out=out)
    assert thinker.asked == N + 2 * timed
    assert set(again.by_weight) == {"0.0", "0.5"}
    with pytest.raises(ChangedJobError, match="search"):
        calibrate(None, thinker, collection, search="bm25", split_identifiers=True, out=out)
    other = GivenThoughts(oracle()[:-1])
    with pytest.raises(ChangedJobError, match="thinkers"):
        calibrate(None, other, collection, search="bm25", out=out)
    calibrate(None, other, collection, search="bm25", out=out, new_job=True)
    assert load_calibration(tmp_path / "found.json.old1") == again


def test_a_calibration_of_another_embedder_or_thinker_is_refused(
    collection, checkpoint, plain_models, tmp_path
):
    out = tmp_path / "found.json"
    calibrate(checkpoint, GivenThoughts(oracle()), collection, out=out, device="cpu")
    with pytest.raises(InputError, match="of the thinker given thoughts"):
        ThinkingRetriever(checkpoint, GivenThoughts(oracle()[1:]), calibration=out, device="cpu")
    Embedder.from_backbone(plain_models["bert"], query_length=12, thought_length=12).save_pretrained(
        tmp_path / "bert"
    )
    with pytest.raises(InputError, match="of the embedder tiny"):
        ThinkingRetriever(tmp_path / "bert", GivenThoughts(oracle()), calibration=out, device="cpu")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="is this a file of `o1-model calibrate`"):
        load_calibration(tmp_path / "bad.json")


def test_the_command_prints_gains_controls_and_costs(collection, checkpoint, tmp_path, capsys):
    write_jsonl(tmp_path / "thoughts.jsonl", oracle())
    out = checkpoint / "o1_calibration.json"
    digest = open_embedder(checkpoint, device="cpu").fingerprint["digest"]
    command = ["calibrate", "--model", str(checkpoint), "--thinker", str(tmp_path / "thoughts.jsonl")]
    command += ["--collection", str(collection), "--device", "cpu", "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for part in ("thoughts in queries", "control: empty", "control: other", "at random", "tokens and"):
        assert part in shown
    assert open_embedder(checkpoint, device="cpu").fingerprint["digest"] == digest
    out.unlink()


def test_a_model_that_moves_to_another_server_is_the_same(checkpoint):
    from o1_model.retriever.identity import digest_of

    fingerprint = {"endpoint": "http://a/v1", "model": "m"}
    assert digest_of(fingerprint) == digest_of({**fingerprint, "endpoint": "http://b/v1"})
    assert digest_of(fingerprint) != digest_of({**fingerprint, "model": "n"})


@pytest.mark.extra
def test_what_does_not_go_together_is_refused(collection, checkpoint, capsys, tmp_path):
    with pytest.raises(InputError, match=r"a weight must be between 0 and 1, got 1\.5"):
        calibrate(None, GivenThoughts(oracle()), collection, search="bm25", weights=[0.5, 1.5])
    with pytest.raises(InputError, match="thoughts about 3 of 40 queries, but at least 10"):
        calibrate(None, GivenThoughts(oracle()[:3]), collection, search="bm25")
    hybrid = calibrate(checkpoint, GivenThoughts(oracle()), collection, search="hybrid", device="cpu")
    with pytest.raises(InputError, match="the calibration is for hybrid search"):
        ThinkingRetriever(checkpoint, GivenThoughts(oracle()), calibration=hybrid, device="cpu")
    with pytest.raises(InputError, match="bm25 has none"):
        calibrate(checkpoint, GivenThoughts(oracle()), collection, search="bm25")
    with pytest.raises(InputError, match="split_identifiers is for BM25"):
        calibrate(checkpoint, GivenThoughts(oracle()), collection, split_identifiers=True)
    with pytest.raises(InputError, match="leave out styles"):
        calibrate(None, GivenThoughts(oracle()), collection, search="bm25", styles=["snippet"])
    write_jsonl(tmp_path / "thoughts.jsonl", oracle())
    command = ["calibrate", "--thinker", str(tmp_path / "thoughts.jsonl"), "--collection", str(collection)]
    assert main([*command, "--out", str(tmp_path / "out.json")]) == 4
    assert "--search dense needs an embedder" in capsys.readouterr().err
