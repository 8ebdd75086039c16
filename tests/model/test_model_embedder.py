"""What an application calls: vectors of queries, thoughts and documents, in their order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from o1_model import Embedder, Thinking, aggregate
from o1_model.batch import collate, prefix_mask
from o1_model.encoding.shards import embed_stream
from o1_model.layout import document_row, query_row, text_ids
from o1_model.thinking.aggregate import by_likelihood, stacked
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


def test_thoughts_carry_their_own_query_and_say_who_wrote_them(llama):
    thoughts = llama.think(QUERIES, THINKING)
    assert {t.thought_id.rsplit("#", 1)[0] for t in thoughts} == {t.query_id for t in thoughts}
    assert all(t.source.temperature == 3.0 and t.source.completion_tokens > 0 for t in thoughts)


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

    with pytest.raises(KeyboardInterrupt), VectorWriter(tmp_path / "v") as writer:
        embed_stream(writer, documents, lambda chunk: encode(chunk, fail_at="d4"), shard_rows=2)
    with VectorWriter(tmp_path / "v") as writer:
        embed_stream(writer, documents, encode, shard_rows=2)
        vectors = writer.close()
    assert encoded == vectors.ids() == [d.doc_id for d in documents]
    np.testing.assert_allclose(vectors.load(), llama.encode_document(documents), atol=1e-6)


def test_a_stream_cannot_continue_with_another_corpus(llama, tmp_path):
    first = [Document(doc_id="a", text="open")]
    embed_stream(VectorWriter(tmp_path / "v"), first, llama.encode_document)
    with pytest.raises(InputError, match="holds 1 rows, with 'a' as row 0; the input now has 'b' there"):
        embed_stream(VectorWriter(tmp_path / "v"), [Document(doc_id="b", text="x")], llama.encode_document)


def test_a_string_is_not_a_list_of_thoughts(llama):
    with pytest.raises(InputError, match="a list of thoughts, not a string"):
        llama.encode_query(TEXTS[:1], thoughts=["read bytes"])
    with pytest.raises(InputError, match="one list of thoughts, not a string"):
        llama.encode_query(TEXTS[0], thoughts="read bytes")
    alone = llama.encode_query(TEXTS[0], thoughts=["read bytes"])
    np.testing.assert_allclose(alone, llama.encode_query(TEXTS[:1], thoughts=[["read bytes"]])[0], atol=1e-6)


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
    with pytest.raises(InputError, match=r"holds 4 rows, .* the input now ends after 2 rows"):
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


def test_thoughts_with_token_ids_give_the_vectors_of_the_live_cache(embedder):
    live = embedder.encode_query(QUERIES, think=THINKING)
    thoughts = embedder.think(QUERIES, THINKING)
    assert len(thoughts) == 15, "none was blank"
    np.testing.assert_allclose(embedder.encode_query(QUERIES, thoughts=thoughts), live, atol=1e-5)
    np.testing.assert_allclose(embedder.encode_query(QUERIES, thoughts=thoughts[::-1]), live, atol=1e-5)
    lists = [thoughts[n : n + 3] for n in range(0, 15, 3)]
    np.testing.assert_allclose(embedder.encode_query(QUERIES, thoughts=lists), live, atol=1e-5)


def test_token_ids_of_another_vocabulary_are_not_used(llama):
    thought = llama.think(QUERIES[:1], THINKING)[0]
    # ids that say something else than the text, as those of another tokenizer do
    ours = replace(thought, token_ids=tuple(text_ids(llama.tokenizer, ["sort sort"])[0]))
    theirs = replace(ours, source=replace(ours.source, tokenizer="another"))
    by_text = llama.encode_query(QUERIES[:1], thoughts=[[thought.text]])
    np.testing.assert_allclose(llama.encode_query(QUERIES[:1], thoughts=[theirs]), by_text, atol=1e-6)
    np.testing.assert_allclose(
        llama.encode_query(QUERIES[:1], thoughts=[ours]),
        llama.encode_query(QUERIES[:1], thoughts=[["sort sort"]]),
        atol=1e-6,
    )


def test_a_thought_cannot_join_another_query(llama):
    thoughts = llama.think(QUERIES[:2], THINKING)
    with pytest.raises(InputError, match="'q1#0' belongs to query 'q1', not to 'q0'"):
        llama.encode_query(QUERIES[:1], thoughts=thoughts)
    with pytest.raises(InputError, match="'q1#0' belongs to query 'q1', not to 'q0'"):
        llama.encode_query(QUERIES[:2], thoughts=[thoughts[3:], thoughts[:3]])


def test_strings_think_as_their_own_thoughts_say(llama):
    thoughts = llama.think(["sort", "open"], THINKING)
    assert len({t.query_id for t in thoughts}) == 2
    alone = llama.encode_query("sort", think=THINKING)
    both = llama.encode_query(["open", "sort"], think=THINKING)
    np.testing.assert_allclose(both[1], alone, atol=1e-6)
    np.testing.assert_allclose(llama.encode_query(["open", "sort"], thoughts=thoughts), both, atol=1e-6)


def test_every_sample_by_itself_for_the_maximum_over_samples(llama):
    v_q, traces = llama.decode(QUERIES, THINKING)
    vectors, owners = llama.encode_query_samples(QUERIES, think=THINKING)
    assert owners == [query.query_id for query in QUERIES for _ in range(3)]
    np.testing.assert_allclose(vectors, np.concatenate(stacked(traces)), atol=1e-6)
    vectors, owners = llama.encode_query_samples(TEXTS, thoughts=[["read"], [], ["a", "b"], [], []])
    assert owners == ["0", "1", "2", "2", "3", "4"]
    np.testing.assert_allclose(vectors[[1, 4, 5]], v_q[[1, 3, 4]], atol=1e-5)
    with_query, owners = llama.encode_query_samples(QUERIES[:2], think=THINKING, with_query=True)
    assert owners == ["q0"] * 4 + ["q1"] * 4
    np.testing.assert_allclose(with_query[[3, 7]], v_q[:2], atol=1e-5)


def test_likely_thoughts_can_count_more(llama):
    traces = llama.decode(QUERIES, THINKING)[1]
    weights = [by_likelihood(row) for row in traces]
    for row, own in zip(traces, weights, strict=True):
        lengths = [len(t.token_ids) + t.finished for t in row]
        np.testing.assert_allclose(
            own, np.exp([t.log_likelihood / n for t, n in zip(row, lengths, strict=True)])
        )
    sums = [np.array(w) @ stack for w, stack in zip(weights, stacked(traces), strict=True)]
    expected = np.stack([total / np.linalg.norm(total) for total in sums])
    found = llama.encode_query(QUERIES, think=THINKING, weigh=by_likelihood)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InputError, match="these thoughts have no likelihood"):
        llama.encode_query(TEXTS[:1], thoughts=[["read"]], weigh=by_likelihood)


@given(st.integers(0, 2**31), st.booleans(), st.floats(0.1, 100))
def test_weights_are_relative_and_even_ones_are_none(seed, with_query, scale):
    random = np.random.default_rng(seed)
    v_q, v_t = (random.normal(size=shape).astype(np.float32) for shape in ((2, 5), (2, 3, 5)))
    weights = random.uniform(0.1, 1, size=(2, 3))
    plain, weighted = (
        aggregate(v_q, list(v_t), with_query=with_query, weights=each)
        for each in ([[scale] * 3] * 2, weights.tolist())
    )
    np.testing.assert_allclose(plain, aggregate(v_q, list(v_t), with_query=with_query), atol=1e-5)
    again = aggregate(v_q, list(v_t), with_query=with_query, weights=(scale * weights).tolist())
    np.testing.assert_allclose(again, weighted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(weighted, axis=1), 1, atol=1e-5)


def test_truncated_vectors_have_unit_length_again(llama):
    for whole, part in (
        (llama.encode_document(TEXTS), llama.encode_document(TEXTS, truncate_dim=5)),
        (llama.encode_query(TEXTS), llama.encode_query(TEXTS, truncate_dim=5)),
        (llama.encode_query(TEXTS[0]), llama.encode_query(TEXTS[0], truncate_dim=5)),
    ):
        expected = whole[..., :5] / np.linalg.norm(whole[..., :5], axis=-1, keepdims=True)
        np.testing.assert_allclose(part, expected, atol=1e-6)
    with pytest.raises(InputError, match="truncate_dim must be between 1 and 32, got 33"):
        llama.encode_query(TEXTS, truncate_dim=33)


def test_beir_and_flagembedding_find_their_names(llama):
    corpus = [{"_id": "d", "title": "zip", "text": "file"}, {"text": "sort"}]
    documents = llama.encode_document(["zip file", "sort"])
    np.testing.assert_allclose(llama.encode_corpus(corpus, batch_size=8), documents, atol=1e-6)
    np.testing.assert_allclose(llama.encode_corpus(["zip file", "sort"]), documents, atol=1e-6)
    np.testing.assert_allclose(llama.encode_corpus("sort"), documents[1], atol=1e-6)
    tensor = llama.encode_queries(TEXTS, batch_size=8, show_progress_bar=False, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), llama.encode_query(TEXTS), atol=1e-6)
    thinking = llama.encode_queries(TEXTS, think=THINKING)
    np.testing.assert_allclose(thinking, llama.encode_query(TEXTS, think=THINKING), atol=1e-6)


def test_beirs_lists_of_texts_and_titles_are_documents_too(llama):
    corpus = {"title": ["zip", ""], "text": ["file", "sort"]}
    documents = llama.encode_document(["zip file", "sort"])
    np.testing.assert_allclose(llama.encode_corpus(corpus), documents, atol=1e-6)
    with pytest.raises(InputError, match="a single document is not a corpus"):
        llama.encode_corpus({"title": "zip", "text": "file"})
    with pytest.raises(InputError, match="document 0 has title; it needs text, and may have title"):
        llama.encode_corpus([{"title": "zip"}])


def test_a_single_text_or_record_is_one_and_never_its_letters(llama):
    query, document = QUERIES[0], Document(doc_id="d", text="file", title="zip")
    np.testing.assert_allclose(llama.encode_query(query), llama.encode_query(query.text), atol=1e-6)
    np.testing.assert_allclose(llama.encode_document(document), llama.encode_document("zip file"), atol=1e-6)
    thoughts = llama.think(query.text, THINKING)
    assert thoughts == llama.think([query.text], THINKING)
    assert llama.think(query, THINKING) == llama.think([query], THINKING)
    np.testing.assert_allclose(
        llama.encode_query(query.text, thoughts=thoughts),
        llama.encode_query([query.text], thoughts=thoughts)[0],
        atol=1e-6,
    )
    assert [signal.query_id for signal in llama.signals(query.text)] == [thoughts[0].query_id]
    assert llama.encode_query_samples(query.text, think=THINKING)[1] == ["0"] * 3
    assert llama.encode_query_samples(query, think=THINKING)[1] == ["q0"] * 3


def test_queries_that_can_be_read_only_once_are_read_once(llama):
    expected = llama.encode_query(TEXTS)
    np.testing.assert_allclose(llama.encode_query(text for text in TEXTS), expected, atol=1e-6)
    vectors, owners = llama.encode_query_samples(text for text in TEXTS)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert owners == ["0", "1", "2", "3", "4"]
    assert llama.think((text for text in TEXTS), THINKING) == llama.think(TEXTS, THINKING)


def test_what_is_no_text_is_refused_with_its_place(llama):
    with pytest.raises(InputError, match="query 1 is a NoneType; give strings or Query records"):
        llama.encode_query(["sort", None])
    with pytest.raises(InputError, match="document 1 is a NoneType; give strings, Document records or mapp"):
        llama.encode_document(["sort", None])
    with pytest.raises(InputError, match="query 0: text is a list, not a text"):
        llama.encode_query([{"text": ["sort"]}])
    with pytest.raises(InputError, match="an empty list if it has none"):
        llama.encode_query(["sort"], thoughts=[None])
    with pytest.raises(InputError, match="not valid Unicode: a lone surrogate"):
        llama.encode_document(["sort", "\ud83d sort"])


def test_no_query_gives_no_vector(llama):
    for vectors in (
        llama.encode_query([]),
        llama.encode_query([], think=THINKING),
        llama.encode_query([], thoughts=[]),
        llama.encode_query_samples([], think=THINKING)[0],
        llama.encode_document([]),
        llama.encode_query([], truncate_dim=32),
    ):
        assert vectors.shape == (0, 32)
