"""Collections, scores and results as BEIR's, mteb's, FlagEmbedding's and ranx's own code has them."""

import json
import logging
import random

import mteb
import numpy as np
import pytest
import pytrec_eval
import ranx
from beir.datasets.data_loader import GenericDataLoader
from beir.retrieval.evaluation import EvaluateRetrieval
from FlagEmbedding.abc.evaluation.utils import evaluate_metrics, evaluate_mrr, evaluate_recall_cap
from FlagEmbedding.evaluation.bright.data_loader import BrightShortEvalDataLoader
from FlagEmbedding.evaluation.bright.searcher import BrightEvalDenseRetriever
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores
from mteb.results import TaskResult

from o1_bench import Collection, evaluate, save_result
from o1_bench.datasets.beir import PUBLIC, load_beir
from o1_bench.datasets.bright import load_bright
from o1_bench.datasets.r2med import TASKS as R2MED
from o1_bench.protocol import PROTOCOLS
from o1_bench.results.exchange import export, read_any_run
from o1_bench.results.mteb import TASKS, read_mteb
from o1_bench.results.result import System
from o1_bench.running.retrieve import ExactSearch
from o1_bench.score import by_query, means, score, to_dict
from o1_records import Document, Qrel, Query, rank

pytestmark = pytest.mark.peers

CUTOFFS = (1, 5, 10, 25, 50, 100)
NAMES = {"NDCG": "nDCG", "MAP": "AP", "Recall": "R", "P": "P"}


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.WARNING)


def random_pair(seed, *, ties=False):
    """Judgements and a run that has hits for every query; a query's own id may be among them."""
    rng = random.Random(seed)
    ids = [f"d{n}" for n in range(120)] + [f"q{n}" for n in range(12)]
    qrels, run = {}, {}
    for number in range(12):
        judged = rng.sample(ids, rng.randint(1, 40))
        qrels[f"q{number}"] = {d: rng.choice([0, 1, 1, 2]) for d in judged} | {f"d{number}": 1}
        found = rng.sample(ids, rng.randint(5, 110))
        scores = [float(rng.randrange(8)) if ties else float(n) for n in range(len(found))]
        rng.shuffle(scores)
        run[f"q{number}"] = dict(zip(found, scores, strict=True)) | {f"q{number}": 1000.0}
    return qrels, run


# --- scores -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_beirs_evaluator_gives_the_same_with_its_protocol(seed, ties):
    qrels, run = random_pair(seed, ties=ties)
    own = {query_id: {query_id} for query_id in qrels}
    names = [f"{name}@{k}" for name in NAMES.values() for k in CUTOFFS]
    ours = means(score(qrels, run, measures=names, excluded=own))
    theirs = {}
    for part in EvaluateRetrieval.evaluate(qrels, {q: dict(s) for q, s in run.items()}, list(CUTOFFS)):
        theirs |= part
    assert len(theirs) == len(names)
    for name, value in theirs.items():
        what, _, k = name.partition("@")
        assert ours[f"{NAMES[what]}@{k}"] == pytest.approx(value, abs=6e-6), name


def test_beir_leaves_queries_without_hits_out_of_its_means_and_we_count_them_as_0():
    qrels, run = {"a": {"d": 1}, "b": {"d": 1}}, {"a": {"d": 1.0}}
    ndcg, *_ = EvaluateRetrieval.evaluate(qrels, run, [10])
    assert ndcg["NDCG@10"] == 1.0
    assert means(score(qrels, run))["nDCG@10"] == 0.5


@pytest.mark.parametrize("seed", range(10))
def test_capped_recall_and_reciprocal_ranks_are_beirs_and_flagembeddings(seed):
    qrels, run = random_pair(seed)  # they break ties by the order of the dictionary
    names = [f"{name}@{k}" for name in ("R_cap", "RR") for k in CUTOFFS]
    ours = means(score(qrels, run, measures=names))
    copies = [{q: dict(s) for q, s in run.items()} for _ in range(2)]
    beir = {
        **EvaluateRetrieval.evaluate_custom(qrels, copies[0], list(CUTOFFS), metric="mrr"),
        **EvaluateRetrieval.evaluate_custom(qrels, copies[1], list(CUTOFFS), metric="recall_cap"),
    }
    flag = {
        **evaluate_mrr(qrels, run, list(CUTOFFS)),
        **evaluate_recall_cap(qrels, run, list(CUTOFFS)),
    }
    for k in CUTOFFS:
        for theirs in (beir, flag):
            assert ours[f"R_cap@{k}"] == pytest.approx(theirs[f"R_cap@{k}"], abs=6e-6)
            assert ours[f"RR@{k}"] == pytest.approx(theirs[f"MRR@{k}"], abs=6e-6)


@pytest.mark.parametrize("seed", range(10))
def test_mtebs_and_ranxs_scores_are_the_same(seed):
    qrels, run = random_pair(seed)
    ours = means(score(qrels, run, measures=["nDCG@10", "AP@100", "R@100", "P@5", "RR@10", "Success@5"]))
    theirs = calculate_retrieval_scores(run, qrels, list(CUTOFFS))
    assert ours["nDCG@10"] == pytest.approx(theirs.ndcg["NDCG@10"], abs=6e-6)
    assert ours["AP@100"] == pytest.approx(theirs.map["MAP@100"], abs=6e-6)
    assert ours["R@100"] == pytest.approx(theirs.recall["Recall@100"], abs=6e-6)
    assert ours["P@5"] == pytest.approx(theirs.precision["P@5"], abs=6e-6)
    assert ours["RR@10"] == pytest.approx(theirs.mrr["MRR@10"], abs=6e-6)
    found = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), ["ndcg@10", "recall@100", "mrr@10"])
    assert ours["nDCG@10"] == pytest.approx(found["ndcg@10"], abs=1e-9)
    assert ours["R@100"] == pytest.approx(found["recall@100"], abs=1e-9)
    assert ours["RR@10"] == pytest.approx(found["mrr@10"], abs=1e-9)


# --- loaders ------------------------------------------------------------------------------------------


def test_beirs_loader_reads_the_same_folder_alike(tmp_path):
    texts = {"d1": ("Tea", "green leaves"), "d2": ("", "boiling water"), "q1": ("", "is tea good?")}
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": t, "text": x}) + "\n" for i, (t, x) in texts.items())
    )
    (tmp_path / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": q, "text": f"ask {q}"}) + "\n" for q in ("q1", "q2", "unjudged"))
    )
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\tq1\t0\nq2\td2\t1\n"
    )
    corpus, queries, qrels = GenericDataLoader(str(tmp_path)).load(split="test")
    ours = load_beir(tmp_path)
    assert {d.doc_id: {"title": d.title, "text": d.text} for d in ours.documents} == corpus
    assert {query.query_id: query.text for query in ours.queries} == queries
    assert to_dict(ours.qrels) == qrels


class Embedder:
    """Unit vectors by text, as FlagEmbedding's evaluation asks for them."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode_corpus(self, texts, **_):
        return np.stack([self.vectors[text] for text in texts])

    encode_queries = encode_corpus


@pytest.mark.parametrize("seed", range(5))
def test_flagembeddings_bright_script_and_ours_agree_on_hits_and_scores(tmp_path, seed):
    """Its loader reads, its retriever searches and leaves out, its metrics score; ours do the same."""
    rng = np.random.default_rng(seed)
    folder = tmp_path / "biology"
    folder.mkdir(parents=True)
    doc_ids = [f"page/{n}.txt" for n in range(40)]
    query_ids = [str(n) for n in range(8)]
    with open(folder / "corpus.jsonl", "w") as file:
        file.writelines(json.dumps({"id": d, "text": f"text of {d}"}) + "\n" for d in doc_ids)
    with open(folder / "examples_queries.jsonl", "w") as file:
        rows = [{"id": f"examples-{q}", "text": f"query {q}"} for q in query_ids]
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with open(folder / "examples_qrels.jsonl", "w") as file:
        for query_id in query_ids:
            chosen = [str(d) for d in rng.permutation(doc_ids)[:7]]
            for place, doc_id in enumerate(chosen):
                row = {"qid": f"examples-{query_id}", "docid": doc_id, "relevance": int(place < 3)}
                file.write(json.dumps(row) + "\n")
    texts = [f"text of {d}" for d in doc_ids] + [f"query {q}" for q in query_ids]
    matrix = rng.normal(size=(len(texts), 16)).astype(np.float32)
    vectors = dict(zip(texts, matrix / np.linalg.norm(matrix, axis=1, keepdims=True), strict=True))

    loader = BrightShortEvalDataLoader("bright_short", dataset_dir=str(tmp_path))
    corpus = loader.load_corpus("biology")
    queries = loader.load_queries("biology", split="examples")
    qrels = {q: dict(judged) for q, judged in loader.load_qrels("biology", split="examples").items()}
    searcher = BrightEvalDenseRetriever(Embedder(vectors), search_top_k=40)
    theirs = searcher(corpus=dict(corpus), queries=dict(queries), retriever_qrels=qrels)
    ndcg, _, recall, _ = evaluate_metrics(qrels, theirs, [10, 25])

    collection = load_bright(tmp_path, "biology")
    documents = list(collection.documents)
    search = ExactSearch(
        np.stack([vectors[document.text] for document in documents]), [d.doc_id for d in documents]
    )

    def retrieve(queries, k):
        asked = np.stack([vectors[query.text] for query in queries])
        return search(asked, [query.query_id for query in queries], k=k)

    result = evaluate(collection, retrieve, folder=tmp_path / "r", k=40, measures=["nDCG@10", "R@25"])
    run = to_dict(read_any_run(tmp_path / "r" / "run.trec"))
    for query_id, scores in theirs.items():
        ours = run[query_id.removeprefix("examples-")]
        assert {d: pytest.approx(s, abs=1e-5) for d, s in scores.items()} == ours
    assert result.metrics["nDCG@10"] == pytest.approx(ndcg["NDCG@10"], abs=6e-6)
    assert result.metrics["R@25"] == pytest.approx(recall["Recall@25"], abs=6e-6)


# --- results ------------------------------------------------------------------------------------------


def kept(folder, name):
    qrels, run = random_pair(3)
    judged = [Qrel(query_id=q, doc_id=d, relevance=r) for q, of in qrels.items() for d, r in of.items()]
    ids = {d for of in (*qrels.values(), *run.values()) for d in of}
    collection = Collection(
        name=name, documents=[Document(doc_id=d, text=d) for d in sorted(ids)],
        queries=[Query(query_id=q, text=q) for q in qrels], qrels=judged,
        protocol=PROTOCOLS["beir" if name.startswith("beir/") else "bright"],
    )  # fmt: skip
    hits = [hit for query_id, scores in run.items() for hit in rank(query_id, scores)]
    # as `evaluate` leaves them: without what never counts
    hits = [hit for hit in hits if hit.doc_id not in collection.excluded.get(hit.query_id, ())]
    return save_result(folder, System(name="mine"), collection=collection, hits=hits), qrels, to_dict(hits)


def test_mteb_reads_the_results_that_we_write_and_we_read_those_that_it_writes(tmp_path):
    result, _, _ = kept(tmp_path / "r", "beir/scifact/test")
    (path,) = export([tmp_path / "r"], tmp_path / "out", "mteb")
    theirs = TaskResult.from_disk(path)
    assert theirs.task_name == "SciFact"
    assert theirs.get_score() == pytest.approx(result.metrics["nDCG@10"], abs=1e-6)
    again = tmp_path / "theirs" / "me__mine" / "rev" / "SciFact.json"
    again.parent.mkdir(parents=True)
    theirs.to_disk(again)
    figures = {each.measure: each for each in read_mteb([tmp_path / "theirs"])}
    assert figures["nDCG@10"].value == pytest.approx(result.metrics["nDCG@10"], abs=1e-6)
    assert figures["nDCG@10"].system == "me/mine"


def test_brights_results_are_what_its_code_computes(tmp_path):
    """Its `calculate_retrieval_metrics` is trec_eval's through pytrec_eval, rounded to five places."""
    _, qrels, run = kept(tmp_path / "r", "bright/pony")
    paths = {path.name: path for path in export([tmp_path / "r"], tmp_path / "out", "bright")}
    assert json.loads(paths["score.json"].read_text()) == run
    found = json.loads(paths["results.json"].read_text())
    cuts = ",".join(map(str, CUTOFFS))
    asked = {f"ndcg_cut.{cuts}", f"map_cut.{cuts}", f"recall.{cuts}", f"P.{cuts}", "recip_rank"}
    scores = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run).values()
    theirs = {"NDCG": "ndcg_cut", "MAP": "map_cut", "Recall": "recall", "P": "P"}
    for name, measure in theirs.items():
        for k in CUTOFFS:
            expected = round(sum(each[f"{measure}_{k}"] for each in scores) / len(scores), 5)
            assert found[f"{name}@{k}"] == pytest.approx(expected, abs=1e-5)
    assert found["MRR"] == pytest.approx(sum(each["recip_rank"] for each in scores) / len(scores), abs=1e-5)


def test_the_tasks_that_we_name_are_mtebs_with_its_splits_main_scores_and_revisions():
    revisions = {f"beir/{name}": revision for name, (_, revision) in PUBLIC.items()}
    revisions |= {f"r2med/{name}": revision for name, (_, revision) in R2MED.items()}
    compared = 0
    for collection, task in TASKS.items():
        theirs = mteb.get_task(task.name).metadata
        assert task.split in theirs.eval_splits, task
        assert theirs.main_score == task.main, task
        pinned = revisions.get(collection.removesuffix("/test").removesuffix("/dev"))
        if pinned is not None:
            compared += 1
            assert theirs.dataset["revision"] == pinned, task
    assert compared == len(PUBLIC) + len(R2MED)


@pytest.mark.parametrize("seed", range(3))
def test_every_query_alone_is_pytrec_evals(seed):
    qrels, run = random_pair(seed, ties=True)
    ours = by_query(score(qrels, run, measures=["nDCG@10", "AP"]))
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map"}).evaluate(run)
    for query_id, values in theirs.items():
        assert ours["nDCG@10"][query_id] == pytest.approx(values["ndcg_cut_10"], abs=1e-12)
        assert ours["AP"][query_id] == pytest.approx(values["map"], abs=1e-12)
