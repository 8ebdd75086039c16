"""Thinking on the live cache equals a full re-encoding; vectors keep their order, wherever they are made."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from o1_model import Embedder, Thinking, aggregate
from o1_model.batch import collate, prefix_mask
from o1_model.layout import document_row, query_row, text_ids
from o1_model.stream import embed_stream
from o1_model.think import nucleus
from o1_records import Document, InputError, Query
from o1_records.vectors import VectorWriter

TEXTS = [
    "how do i open a zip file",
    "sort",
    "",
    "read the keys of a list in bytes < emb >",
    "close file " * 9,
]
QUERIES = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(TEXTS)]
THINKING = Thinking(samples=3, max_tokens=10, temperature=3.0, top_p=0.99)


def test_vectors_read_from_the_live_cache_equal_a_full_encoding(embedder):
    v_q, traces = embedder.decode(QUERIES, THINKING)
    np.testing.assert_allclose(v_q, embedder.encode_query(TEXTS), atol=1e-6)
    ids = text_ids(embedder.tokenizer, TEXTS)
    ends = set()
    for text, row in zip(ids, traces, strict=True):
        for trace in row:
            whole = embedder._encode([query_row(embedder.layout, text, list(trace.token_ids))])[0]
            assert float(whole @ trace.vector.numpy()) >= 1 - 1e-5
            assert len(trace.token_ids) == THINKING.max_tokens or trace.finished
            ends.add(trace.finished)
    # both ways to end were seen, so both were compared
    assert ends == {True, False}


def test_a_querys_thoughts_do_not_depend_on_its_batch(embedder):
    together = embedder.decode(QUERIES, THINKING)[1]
    for query, row in zip(QUERIES, together, strict=True):
        alone = embedder.decode([query], THINKING)[1][0]
        assert [t.token_ids for t in alone] == [t.token_ids for t in row]


def test_samples_differ_and_seeds_repeat(llama):
    first, again = (llama.decode(QUERIES, THINKING)[1] for _ in range(2))
    ids = [[t.token_ids for t in row] for row in first]
    assert ids == [[t.token_ids for t in row] for row in again]
    assert any(len(set(row)) > 1 for row in ids)
    other = llama.decode(QUERIES, Thinking(samples=3, max_tokens=10, temperature=3.0, seed=1))[1]
    assert ids != [[t.token_ids for t in row] for row in other]


def test_control_and_special_tokens_are_never_chosen(llama):
    # hot enough that every id would come up
    traces = llama.decode(QUERIES, Thinking(samples=20, max_tokens=12, temperature=50.0, top_p=1.0))[1]
    chosen = {token for row in traces for trace in row for token in trace.token_ids}
    banned = {*llama.layout.control_ids, *llama.tokenizer.all_special_ids}
    assert chosen.isdisjoint(banned)
    assert len(chosen) > 15


def test_thoughts_carry_their_own_query_and_say_who_wrote_them(llama):
    thoughts = llama.think(QUERIES, THINKING)
    assert {t.thought_id.rsplit("#", 1)[0] for t in thoughts} == {t.query_id for t in thoughts}
    assert all(t.source.temperature == 3.0 and t.source.completion_tokens > 0 for t in thoughts)


@given(st.integers(0, 2**31), st.floats(0.05, 1.0), st.integers(1, 40))
def test_nucleus_sampling_stays_inside_the_smallest_likely_set(seed, top_p, first):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(16, 40, generator=generator) * 3
    draws = torch.rand(16, generator=generator)
    chosen = nucleus(logits, draws, top_p, first=first)
    for row, token in enumerate(chosen.tolist()):
        probabilities = logits[row].softmax(0)
        above = probabilities[probabilities > probabilities[token]].sum()
        assert float(above) < top_p + 1e-6


def test_nucleus_sampling_follows_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    draws = torch.linspace(0, 1, 10_001)[:-1]
    chosen = nucleus(logits.expand(10_000, 4), draws, 0.9)
    shares = torch.bincount(chosen, minlength=4) / 10_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=1e-3, rtol=0)


def test_a_saved_checkpoint_gives_the_same_vectors(embedder, tmp_path):
    with torch.no_grad():
        embedder.backbone.control_rows.add_(0.3)
    before = embedder.encode_query(TEXTS, thoughts=[["read bytes"]] * 5)
    embedder.save_pretrained(tmp_path)
    again = Embedder.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.encode_query(TEXTS, thoughts=[["read bytes"]] * 5), before, atol=1e-6)
    assert again.layout == embedder.layout
    assert again.digest == Embedder.from_pretrained(tmp_path).digest != ""


def test_the_fingerprint_changes_with_any_weight(llama, tmp_path):
    digests = []
    for number in range(2):
        llama.save_pretrained(tmp_path / str(number))
        digests.append(Embedder.from_pretrained(tmp_path / str(number)).fingerprint().digest)
        with torch.no_grad():
            next(llama.backbone.lm.parameters())[0, 0] += 1e-3
    assert digests[0] != digests[1]


def test_adding_control_tokens_changes_no_logit(plain_models):
    from o1_model.backbone import load_lm

    for folder in plain_models.values():
        plain, ours = load_lm(folder).eval(), Embedder.from_backbone(folder)
        ids = torch.arange(4, 20)[None]
        old = plain(input_ids=ids).logits
        new = ours.backbone.lm(input_ids=ids).logits[..., : old.shape[-1]]
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6)
        mask = torch.ones_like(ids)
        states = ours.backbone.hidden(ids, mask, torch.arange(16)[None])
        torch.testing.assert_close(
            ours.backbone.logits(states[0])[:, : old.shape[-1]], old[0], atol=1e-5, rtol=0
        )


def test_a_text_gives_a_vector_and_a_list_a_matrix_in_its_order(embedder):
    matrix = embedder.encode_document(TEXTS)
    assert matrix.shape == (5, 32)
    assert matrix.dtype == np.float32
    for text, vector in zip(TEXTS, matrix, strict=True):
        np.testing.assert_allclose(embedder.encode_document(text), vector, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1.0, atol=1e-6)


def test_a_title_is_part_of_a_document(llama):
    record = Document(doc_id="d", title="zip", text="file")
    np.testing.assert_array_equal(llama.encode_document([record])[0], llama.encode_document("zip file"))


def test_queries_without_thoughts_keep_v_q(embedder):
    v_q = embedder.encode_query(TEXTS)
    mixed = embedder.encode_query(TEXTS, thoughts=[["read"], [], ["", "list"], [], []])
    np.testing.assert_allclose(mixed[[1, 3, 4]], v_q[[1, 3, 4]], atol=1e-6)
    assert np.abs(mixed[[0, 2]] - v_q[[0, 2]]).max() > 1e-3


def test_the_aggregate_is_the_normalised_mean():
    v_q = np.array([[1, 0], [0, 1]], np.float32)
    v_t = [np.array([[0, 1], [0, 1]], np.float32), np.zeros((0, 2), np.float32)]
    np.testing.assert_allclose(aggregate(v_q, v_t), [[0, 1], [0, 1]], atol=1e-6)
    expected = np.array([1, 2]) / np.sqrt(5)
    np.testing.assert_allclose(aggregate(v_q, v_t, with_query=True), [expected, [0, 1]], atol=1e-6)


def test_thoughts_for_another_number_of_queries_are_refused(llama):
    with pytest.raises(InputError, match="5 queries but thoughts for 1"):
        llama.encode_query(TEXTS, thoughts=[["read"]])


def test_an_interrupted_stream_continues_and_encodes_nothing_twice(llama, tmp_path):
    documents = [Document(doc_id=f"d{n}", text=f"open {n}") for n in range(10)]
    encoded = []

    def encode(chunk, fail_at=None):
        if fail_at is not None and chunk[0].doc_id == fail_at:
            raise KeyboardInterrupt
        encoded.extend(d.doc_id for d in chunk)
        return llama.encode_document(chunk)

    writer = VectorWriter(tmp_path / "v")
    with pytest.raises(KeyboardInterrupt):
        embed_stream(writer, documents, lambda chunk: encode(chunk, fail_at="d4"), shard_rows=2)
    writer = VectorWriter(tmp_path / "v")
    embed_stream(writer, documents, encode, shard_rows=2)
    vectors = writer.close()
    assert encoded == vectors.ids() == [d.doc_id for d in documents]
    np.testing.assert_allclose(vectors.load(), llama.encode_document(documents), atol=1e-6)


def test_a_stream_cannot_continue_with_another_corpus(llama, tmp_path):
    first = [Document(doc_id="a", text="open")]
    embed_stream(VectorWriter(tmp_path / "v"), first, llama.encode_document)
    with pytest.raises(InputError, match=r"holds .*'a'.*the input now has .*'b'"):
        embed_stream(VectorWriter(tmp_path / "v"), [Document(doc_id="b", text="x")], llama.encode_document)


def test_a_string_is_not_a_list_of_thoughts(llama):
    with pytest.raises(InputError, match="a list of thoughts, not a string"):
        llama.encode_query(TEXTS[:1], thoughts=["read bytes"])
    with pytest.raises(InputError, match="a list of thoughts, not a string"):
        llama.encode_query(TEXTS[0], thoughts="read bytes")
    alone = llama.encode_query(TEXTS[0], thoughts=["read bytes"])
    np.testing.assert_allclose(alone, llama.encode_query(TEXTS[:1], thoughts=[["read bytes"]])[0], atol=1e-6)


def test_a_thought_never_outgrows_the_layout(llama):
    traces = llama.decode(QUERIES[:1], Thinking(samples=2, max_tokens=500, temperature=3.0))[1]
    assert max(len(trace.token_ids) for trace in traces[0]) <= llama.layout.thought_length


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"max_tokens": 0}, {"top_p": 0.0}, {"temperature": -1.0}])
def test_thinking_that_cannot_be_sampled_is_refused(wrong):
    with pytest.raises(InputError, match=f"cannot think with {next(iter(wrong))}"):
        Thinking(**wrong)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"readout": "men"}, "Invalid enum value 'men'"),
        ({"query_length": -5}, "`int` >= 1"),
        ({"document_length": 100_000}, "the model takes 2048"),
    ],
)
def test_an_impossible_layout_is_refused(plain_models, wrong, complaint):
    with pytest.raises(InputError, match=complaint):
        Embedder.from_backbone(plain_models["llama"], **wrong)


def test_rows_of_an_unfinished_run_beyond_the_new_input_are_refused(llama, tmp_path):
    documents = [Document(doc_id=f"d{n}", text="open") for n in range(4)]
    embed_stream(VectorWriter(tmp_path / "v"), documents, llama.encode_document, shard_rows=2)
    with pytest.raises(InputError, match="holds 4 rows, the input now has 2"):
        embed_stream(VectorWriter(tmp_path / "v"), documents[:2], llama.encode_document, shard_rows=2)


def test_under_prefix_attention_queries_are_read_both_ways_and_never_see_the_thought(plain_models):
    model = Embedder.from_backbone(plain_models["llama"], attention="prefix", thought_length=12)
    ids = text_ids(model.tokenizer, ["open a zip file", "read bytes"])
    batch = collate([query_row(model.layout, *ids), document_row(model.layout, ids[0])], 0)
    seen = prefix_mask(batch)[:, 0]
    first, last = int(batch.first[0]), int(batch.last[0])
    assert seen[0, : first + 1, : first + 1].all()
    assert not seen[0, : first + 1, first + 1 :].any()
    assert seen[0, last, : last + 1].all()
    assert not seen[0, first + 2, first + 3]
    assert seen[1, : batch.last[1] + 1, : batch.last[1] + 1].all()
