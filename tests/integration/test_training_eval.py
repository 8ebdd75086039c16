"""nDCG@10 of the in-training evaluation is trec_eval's, as o1-bench has it through ir-measures."""

import random

import ir_measures
import pytest

from o1_bench import score
from o1_model.ndcg import ndcg
from o1_records import rank

pytestmark = pytest.mark.extra


@pytest.mark.parametrize("seed", range(20))
def test_ndcg_equals_ir_measures_and_o1_bench(seed):
    draw = random.Random(seed)
    documents = [f"d{n}" for n in range(40)]
    qrels, run = {}, {}
    for number in range(25):
        # graded, with unjudged documents, ties, and queries without a relevant document
        judged = draw.sample(documents, draw.randint(1, 15))
        qrels[f"q{number}"] = {doc: draw.choice([0, 0, 1, 2, 3]) for doc in judged}
        found = draw.sample(documents, draw.randint(1, 40))
        run[f"q{number}"] = {doc: draw.choice([0.1, 0.2, 0.3, draw.random()]) for doc in found}
    ours = {query: ndcg([hit.doc_id for hit in rank(query, run[query], 10)], qrels[query]) for query in qrels}
    theirs = {m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)}
    bench = {m.query_id: m.value for m in score(qrels, run, measures=[ir_measures.nDCG @ 10])}
    for query, value in ours.items():
        assert value == pytest.approx(theirs[query], abs=1e-9), query
        assert value == pytest.approx(bench[query], abs=1e-9), query
    assert sum(ours.values()) / len(ours) == pytest.approx(bench[None], abs=1e-9)
