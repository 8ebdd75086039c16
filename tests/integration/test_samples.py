"""The maximum over samples: what o1-model encodes apart, o1-index fuses by owner."""

import numpy as np
import pytest

from helpers.tiny import save_model, word_tokenizer
from o1_index import build
from o1_index.fusion import search_max
from o1_model import Embedder, Thinking
from o1_records import Query

WORDS = [f"w{n}" for n in range(30)]


@pytest.fixture
def embedder(tmp_path):
    save_model(tmp_path, tokenizer=word_tokenizer(WORDS), num_hidden_layers=1, initializer_range=0.3)
    return Embedder.from_backbone(tmp_path, thought_length=8)


def test_each_query_is_ranked_by_the_best_score_of_any_of_its_thoughts(embedder):
    documents = embedder.encode_document([f"w{n} w{n + 1}" for n in range(20)])
    queries = [Query(query_id=f"q{n}", text=f"w{3 * n}") for n in range(5)]
    thinking = Thinking(samples=3, max_tokens=4, temperature=2.0)
    vectors, owners = embedder.encode_query_samples(queries, think=thinking, with_query=True)
    found = search_max(build(documents, [f"d{n}" for n in range(20)]), vectors, owners, k=5)
    best = (vectors @ documents.T).reshape(5, 4, 20).max(axis=1)
    for query, hits in enumerate(found.rows):
        np.testing.assert_allclose(best[query][hits], np.sort(best[query])[::-1][:5], atol=1e-5)
