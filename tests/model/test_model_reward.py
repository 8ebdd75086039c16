"""What a thought is worth: the mixture's gain over the query alone, against controls."""

from dataclasses import replace

import numpy as np
import pytest

from o1_model import Embedder
from o1_model.ndcg import ndcg
from o1_model.retriever.judged import Judged
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.retriever.reward import Reward, elect
from o1_records import Document, InputError, Query, Source, Thought, rank
from o1_records.mixture import Mixture

WORDS = ["open", "zip", "file", "read", "write", "list", "sort", "keys", "close", "text", "bytes", "in"]
N = 12


def words_of(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


@pytest.fixture(scope="module")
def judged():
    documents = [Document(doc_id=f"d{n:02}", text=words_of(n, 8)) for n in range(N)][::-1]
    queries = [Query(query_id=f"q{n:02}", text=words_of(100 + n, 3)) for n in range(N)]
    return Judged("toy", "train", queries, documents, [{N - 1 - n: 1} for n in range(N)], [1.0] * N)


@pytest.fixture(scope="module")
def retriever(plain_models):
    embedder = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
    return ThinkingRetriever(embedder, mixture=Mixture(weight=0.5))


def thought(query_id, sample, text):
    return Thought(query_id=query_id, thought_id=f"{query_id}#{sample}", text=text, source=Source(model="m"))


@pytest.mark.parametrize("measure", ["margin", "nDCG@10"])
def test_a_reward_is_the_gain_of_the_mixture(judged, retriever, measure):
    reward = Reward(retriever, judged, measure=measure, temperature=0.1)
    texts = [words_of(n, 8) for n in range(N)]
    own = reward([query.query_id for query in judged.queries], texts)
    documents = retriever.encode_document(judged.documents)
    ids = [document.doc_id for document in judged.documents]

    def value(vector, n):
        scores = dict(zip(ids, (documents @ vector).tolist(), strict=True))
        if measure == "nDCG@10":
            return ndcg([hit.doc_id for hit in rank("q", scores, 10)], {f"d{n:02}": 1})
        right = scores.pop(f"d{n:02}")
        return right - 0.1 * np.log(sum(np.exp(score / 0.1) for score in scores.values()))

    for n, query in enumerate(judged.queries):
        plain = retriever.embedder.queries([query])[0]
        mixed = retriever.encode_query(query, thoughts=[texts[n]])
        assert own[n] == pytest.approx(value(mixed, n) - value(plain, n), abs=1e-4)
    assert own.mean() > 0


@pytest.mark.parametrize("measure", ["margin", "nDCG@10"])
def test_the_document_that_is_the_query_itself_is_not_there(judged, retriever, measure):
    itself = [Document(doc_id=query.query_id, text=query.text) for query in judged.queries]
    wider = replace(
        judged, documents=[*judged.documents, *itself], itself={place: N + place for place in range(N)}
    )
    names, texts = [query.query_id for query in judged.queries], [words_of(n, 8) for n in range(N)]
    with_itself = [Document(doc_id=f"x{n}", text=own.text) for n, own in enumerate(itself)]
    for n in range(N):  # one by one, so that the others' documents stay
        others = [each for place, each in enumerate(with_itself) if place != n]
        alone = replace(judged, documents=[*judged.documents, *others])
        expected = Reward(retriever, alone, measure=measure)(names[n : n + 1], texts[n : n + 1])
        found = Reward(retriever, wider, measure=measure)(names[n : n + 1], texts[n : n + 1])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_blank_thought_is_worth_nothing_and_a_stranger_is_refused(judged, retriever):
    reward = Reward(retriever, judged)
    assert reward(["q00", "q01"], ["", "  "]).tolist() == [0, 0]
    with pytest.raises(InputError, match="query 'q99' is not among the judged"):
        reward(["q99"], ["open"])
    with pytest.raises(InputError, match="measure must be one of margin, nDCG@10"):
        Reward(retriever, judged, measure="recall")
    with pytest.raises(InputError, match="temperature must be above 0"):
        Reward(retriever, judged, temperature=0)


def test_the_best_thought_is_elected_only_if_it_beats_the_controls(judged, retriever):
    reward = Reward(retriever, judged)
    good = {
        query.query_id: [
            thought(query.query_id, 0, words_of(500 + n, 8)),
            thought(query.query_id, 1, words_of(n, 8)),  # the document itself
        ]
        for n, query in enumerate(judged.queries)
    }
    found = elect(reward, judged, good)
    assert found.queries == N
    assert len(found.elected) + sum(found.lost_to.values()) == N
    chosen = {each.query_id: each for each in found.elected}
    assert len(chosen) >= N - 2
    right = sum(each.text == words_of(int(query_id[1:]), 8) for query_id, each in chosen.items())
    assert right >= len(chosen) - 1
    for each in found.elected:
        values = reward([each.query_id] * 2, [each.text, each.worse])
        assert each.reward == pytest.approx(values[0])
        assert each.gap == pytest.approx(values[0] - values[1])
    copies = {query.query_id: [thought(query.query_id, 0, query.text)] for query in judged.queries}
    assert elect(reward, judged, copies).elected == []  # a copy never beats itself
