"""vLLM writes the thoughts, this package reads them out (nox -s vllm): the same as thinking here.

Temperature 0 is deterministic in both, so that the token ids can be compared.
"""

from __future__ import annotations

import numpy as np
import pytest

from helpers.tiny import save_model, word_tokenizer
from o1_records import Query

pytestmark = pytest.mark.vllm

QUERIES = [Query(query_id=f"q{n}", text=" ".join(f"w{n + k}" for k in range(n % 5))) for n in range(8)]


@pytest.fixture
def embedder(tmp_path, monkeypatch):
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    from o1_model import Embedder

    save_model(
        tmp_path / "plain", tokenizer=word_tokenizer([f"w{n}" for n in range(40)]), hidden_size=64,
        intermediate_size=128, max_position_embeddings=256, initializer_range=0.3,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    made = Embedder.from_backbone(tmp_path / "plain", query_length=16, thought_length=12)
    made.save_pretrained(tmp_path / "model")
    return Embedder.from_pretrained(tmp_path / "model", device="cpu")


def test_thoughts_of_vllm_are_those_of_this_package(embedder, tmp_path):
    from o1_model import Thinking
    from o1_model.thinking.engines import VLLM

    greedy = Thinking(samples=1, max_tokens=12, temperature=0.0)
    v_q, here = embedder.decode(QUERIES, greedy)
    embedder.decoder.engine = VLLM(
        tmp_path / "model", dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=16
    )
    again_q, there = embedder.decode(QUERIES, greedy)
    assert [[t.token_ids for t in row] for row in there] == [[t.token_ids for t in row] for row in here]
    np.testing.assert_allclose(again_q, v_q, atol=1e-5)
    for row, others in zip(here, there, strict=True):
        np.testing.assert_allclose(row[0].vector, others[0].vector, atol=1e-4)

    hot = Thinking(samples=3, max_tokens=12, temperature=2.0, top_p=1.0)
    together = embedder.decode(QUERIES, hot)[1]
    banned = {*embedder.layout.control_ids, *embedder.tokenizer.all_special_ids}
    chosen = {token for row in together for trace in row for token in trace.token_ids}
    assert chosen.isdisjoint(banned) and len(chosen) > 20
    assert all(1 <= len(trace.token_ids) <= 12 for row in together for trace in row)
    alone = embedder.decode(QUERIES[3:4], hot)[1][0]
    assert [t.token_ids for t in alone] == [t.token_ids for t in together[3]]


def test_an_instruct_model_thinks_in_vllm_as_it_does_here(tmp_path, monkeypatch):
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    from o1_model import Thinking
    from o1_model.retriever.instruct import Instruct, VLLMInstruct
    from o1_records.styles import Style

    tokenizer = word_tokenizer([f"w{n}" for n in range(40)])
    tokenizer.chat_template = "{% for message in messages %}w1 {{ message.content }} w2{% endfor %}"
    save_model(
        tmp_path / "chat", tokenizer=tokenizer, hidden_size=64, intermediate_size=128,
        max_position_embeddings=256, initializer_range=0.3, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    style = Style(instruction="w3 {text}", max_tokens=12, avoid=("w7", "w11"))
    here = Instruct(tmp_path / "chat", style, device="cpu")
    there = VLLMInstruct(
        tmp_path / "chat", style, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=16
    )
    assert there.usual == here.usual
    ours, theirs = (thinker.think(QUERIES, thinker.usual) for thinker in (here, there))
    assert [[t.token_ids for t in own] for own in theirs] == [[t.token_ids for t in own] for own in ours]
    assert [[t.text for t in own] for own in theirs] == [[t.text for t in own] for own in ours]
    hot = Thinking(samples=3, max_tokens=12, temperature=2.0, top_p=1.0)
    banned = set(here._banned)
    sampled = there.think(QUERIES, hot)
    assert all(banned.isdisjoint(t.token_ids) for own in sampled for t in own)
    assert [t.token_ids for t in there.think(QUERIES[3:4], hot)[0]] == [t.token_ids for t in sampled[3]]
