"""mteb itself measures an Embedder, and finds what a plain computation finds."""

import numpy as np
import pytest

from o1_model import Embedder, Thinking
from o1_model.mteb import MtebEncoder

ir_measures = pytest.importorskip("ir_measures")
pytestmark = pytest.mark.extra

DOCUMENTS = ["open a zip file", "sort the keys of a list", "write bytes", "close the text", "read in a file"]
QUERIES = ["how do i open zip", "sort a list", "how do i write bytes in a file"]


@pytest.fixture(scope="module")
def task():
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class SmallTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="SmallTask",
            description="Three questions about files.",
            reference="https://example.org",
            dataset={"path": "none", "revision": "none"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=("2026-01-01", "2026-01-01"),
            domains=[],
            task_subtypes=[],
            license="apache-2.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, num_proc=None, **kwargs):
            split = RetrievalSplitData(
                queries=Dataset.from_list([{"id": f"q{n}", "text": t} for n, t in enumerate(QUERIES)]),
                corpus=Dataset.from_list(
                    [{"id": f"d{n}", "title": "", "text": t} for n, t in enumerate(DOCUMENTS)]
                ),
                relevant_docs={f"q{n}": {f"d{n}": 1} for n in range(3)},
                top_ranked=None,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return SmallTask()


def ndcg(queries, documents):
    scores = queries @ documents.T
    run = {f"q{q}": {f"d{d}": float(value) for d, value in enumerate(row)} for q, row in enumerate(scores)}
    qrels = {f"q{n}": {f"d{n}": 1} for n in range(3)}
    return ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]


@pytest.mark.parametrize("think", [None, Thinking(samples=2, max_tokens=5, temperature=1.0)])
def test_mteb_scores_an_embedder_with_and_without_thinking(plain_models, task, think):
    import mteb

    embedder = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
    model = MtebEncoder(embedder, think=think)
    result = mteb.evaluate(model, task, cache=None, encode_kwargs={"batch_size": 2}, show_progress_bar=False)
    got = result.task_results[0].get_score()
    from o1_records import Query

    queries = [Query(query_id=str(n), text=text) for n, text in enumerate(QUERIES)]
    expected = ndcg(embedder.encode_query(queries, think=think), embedder.encode_document(DOCUMENTS))
    assert got == pytest.approx(expected, abs=1e-5)
    assert result.model_name == f"o1-model/{embedder.name}"


def test_similarities_are_those_of_unit_vectors(plain_models):
    embedder = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
    model = MtebEncoder(embedder)
    a, b = embedder.encode_query(QUERIES), embedder.encode_document(DOCUMENTS)
    np.testing.assert_allclose(model.similarity(a, b).numpy(), a @ b.T, atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(a, a).numpy(), np.ones(3), atol=1e-6)
