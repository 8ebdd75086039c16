"""Hits, fused runs and FAISS files as FlagEmbedding, sentence-transformers and ranx have them."""

import faiss
import numpy as np
import pytest
import ranx
from FlagEmbedding.abc.evaluation import utils as flag
from sentence_transformers.util import cos_sim, dot_score, semantic_search

from o1_index import build, build_from
from o1_index.build import adopt
from o1_index.fusion import fuse_runs
from o1_index.vectors import open_vectors
from o1_records import rank

pytestmark = pytest.mark.peers

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(900, 24)).astype("f4")
QUERIES = RANDOM.normal(size=(40, 24)).astype("f4")
IDS, NAMES = [f"d{row:03}" for row in range(900)], [f"q{row:02}" for row in range(40)]


@pytest.mark.parametrize(("metric", "score"), [("inner_product", dot_score), ("cosine", cos_sim)])
def test_hits_are_those_of_semantic_search(metric, score):
    theirs = semantic_search(QUERIES, VECTORS, top_k=50, score_function=score)
    ids, scores = build(VECTORS, IDS, metric=metric).search(QUERIES, NAMES, k=50).arrays()
    assert ids.tolist() == [[IDS[hit["corpus_id"]] for hit in hits] for hits in theirs]
    assert np.allclose(scores, [[hit["score"] for hit in hits] for hits in theirs], rtol=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16,Flat"])
def test_an_index_of_flagembedding_answers_here_as_there(factory, tmp_path):
    theirs = flag.index(factory, VECTORS, device="cpu")
    scores, rows = flag.search(theirs, k=20, query_embeddings=QUERIES)
    faiss.write_index(theirs, str(tmp_path / "theirs.faiss"))
    hits = adopt(tmp_path / "theirs.faiss", IDS).search(QUERIES, NAMES, k=20)
    if factory != "HNSW16,Flat":  # there FAISS stops at 16 candidates, here at as many as are asked for
        assert np.allclose(hits.scores, scores, rtol=1e-5)
        assert hits.arrays()[0].tolist() == [[IDS[row] for row in each] for each in rows.tolist()]
    else:
        assert (hits.scores.sum(axis=1) >= scores.sum(axis=1) - 1e-3).all()


def test_vectors_that_flagembedding_saves_are_indexed(tmp_path):
    np.save(tmp_path / "doc.npy", VECTORS)
    scores, rows = flag.search(
        flag.index(load_path=tmp_path / "doc.npy", device="cpu"), k=9, query_embeddings=QUERIES
    )
    hits = build_from(open_vectors(tmp_path / "doc.npy")).search(QUERIES, NAMES, k=9)
    assert hits.arrays()[0].tolist() == [[str(row) for row in each] for each in rows.tolist()]
    assert np.allclose(hits.scores, scores, rtol=1e-5)


def run(seed):
    random = np.random.default_rng(seed)
    return {
        name: {
            doc: float(score)
            for doc, score in zip(
                random.choice(IDS, 30, replace=False).tolist(), random.random(30), strict=True
            )
        }
        for name in NAMES
    }


@pytest.mark.parametrize(
    ("method", "weights", "theirs"),
    [
        ("rrf", None, {"norm": None, "method": "rrf", "params": {"k": 60}}),
        ("minmax", [0.75, 0.25], {"norm": "min-max", "method": "wsum", "params": {"weights": (0.75, 0.25)}}),
        ("sum", None, {"norm": None, "method": "sum"}),
    ],
)
def test_runs_are_fused_as_ranx_fuses_them(method, weights, theirs):
    runs = [run(1), run(2)]
    expected = ranx.fuse(runs=[ranx.Run(each) for each in runs], **theirs).to_dict()
    hits = [[hit for name, scores in each.items() for hit in rank(name, scores)] for each in runs]
    fused = {}
    for hit in fuse_runs(hits, method=method, weights=weights, k=100):
        fused.setdefault(hit.query_id, {})[hit.doc_id] = hit.score
    assert fused == {name: pytest.approx(scores, abs=1e-6) for name, scores in expected.items()}
