"""What applications call: others' names, records and mappings, what is cut, dtypes, streams, many callers."""

import asyncio
import itertools
import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.tiny import save_model
from o1_model import Embedder, Thinking
from o1_model.backbone import embedding_matrix
from o1_model.checkpoint.lora import Lora, add_lora, base_of
from o1_model.encoding.encode import BrokenVectorsError
from o1_model.serving.answers import AsyncEmbedder
from o1_model.serving.batcher import QueueFullError
from o1_model.thinking.records import ThoughtCache
from o1_model.training.saving import save_weights
from o1_records import Document, InputError, InputWarning, Query

TEXTS = ["open a zip file", "sort", "", "list keys"]
THINKING = Thinking(samples=2, max_tokens=6, temperature=3.0)


def same(first, second, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(first), np.asarray(second), atol=tolerance)


# --- sentence-transformers' names ---------------------------------------------------------------------


def test_encode_reads_queries_or_documents_by_the_name_of_their_prompt(llama):
    same(llama.encode(TEXTS), llama.encode_query(TEXTS))
    same(llama.encode(TEXTS, "query"), llama.encode_query(TEXTS))
    same(llama.encode(TEXTS, prompt_name="document"), llama.encode_document(TEXTS))
    same(llama.encode(TEXTS, prompt="how do i "), llama.encode_query(TEXTS, prompt="how do i "))
    assert llama.encode("sort").shape == (32,)
    with pytest.raises(InputError, match="unknown prompt_name 'passages'; there are 'query' and 'document'"):
        llama.encode(TEXTS, prompt_name="passages")


def test_without_a_prompt_name_nothing_stands_before_a_text(plain_models):
    model = Embedder.from_backbone(plain_models["llama"], name="instruct", instruction="sort the list")
    same(model.encode(TEXTS[:2]), model.encode_query(TEXTS[:2], prompt=""))
    assert not np.allclose(model.encode(TEXTS[:2]), model.encode_query(TEXTS[:2]), atol=1e-4)


def test_similarity_is_the_cosine_of_every_pair(llama):
    queries, documents = llama.encode_query(TEXTS), llama.encode_document(TEXTS[:3])
    found = llama.similarity(queries, 7 * documents)
    assert found.shape == (4, 3)
    same(found, queries @ documents.T)
    same(llama.similarity(queries[0], documents), queries[:1] @ documents.T)
    same(llama.similarity_pairwise(queries[:3], documents), (queries[:3] * documents).sum(axis=1))
    assert llama.get_embedding_dimension() == 32


def test_a_batch_size_bounds_every_pass_and_changes_nothing(llama):
    passes = []
    embeddings = llama.backbone.lm.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    texts = ["open a zip file", "sort the list", "read text", "keys", "how do i"]
    for encode in (llama.encode_query, llama.encode_document):
        whole = encode(texts)
        passes.clear()
        same(encode(texts, batch_size=2), whole)
        assert max(passes) == 2
    thinking = llama.encode_query(texts, think=THINKING)
    passes.clear()
    same(llama.encode_query(texts, think=THINKING, batch_size=1), thinking)
    assert max(passes) == THINKING.samples


def test_a_progress_bar_is_shown_where_it_is_asked_for(llama, capsys):
    llama.encode_document(TEXTS)
    assert capsys.readouterr().err == ""
    llama.encode_document(TEXTS, show_progress_bar=True)
    assert "4/4" in capsys.readouterr().err
    llama.encode_query(TEXTS, think=THINKING, show_progress_bar=True)
    assert "think: 100%" in capsys.readouterr().err


def test_vectors_may_be_tensors(llama):
    for encode in (llama.encode_query, llama.encode_document, llama.encode):
        found = encode(TEXTS, convert_to_tensor=True)
        assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
        same(found, encode(TEXTS))
    assert llama.encode_query("sort", convert_to_tensor=True).shape == (32,)


def test_options_that_ask_for_something_else_are_refused(llama):
    same(llama.encode(TEXTS, convert_to_numpy=True, normalize_embeddings=True), llama.encode(TEXTS))
    with pytest.raises(InputError, match="normalize_embeddings is always True here, got False"):
        llama.encode(TEXTS, normalize_embeddings=False)
    with pytest.raises(InputError, match="precision is always 'float32' here, got 'int8'"):
        llama.encode_queries(TEXTS, precision="int8")


# --- instructions, prompts, mappings ------------------------------------------------------------------


def test_an_instruction_of_the_call_is_for_queries_without_one_of_their_own(llama):
    own = Query(query_id="q", text="sort", instruction="read")
    same(
        llama.encode_query([own, "sort"], instruction="list"),
        llama.encode_query([own, Query(query_id="r", text="sort", instruction="list")]),
    )
    with pytest.raises(InputError, match="leave out its instruction"):
        llama.encode_query([own], prompt="how do i ")


def test_a_prompt_is_exactly_the_text_before(llama):
    (row,) = llama.document_rows(["zip file"], prompt="read the ")
    assert row.ids == llama.document_rows(["read the zip file"])[0].ids
    same(llama.encode_document(["zip"], prompt="read the "), llama.encode_document(["read the zip"]))
    same(llama.encode_query(["zip"], prompt="read the "), llama.encode_query(["read the zip"]))


def test_a_mapping_is_a_document_or_a_query(llama):
    documents = [{"_id": "1", "title": "zip", "text": "file", "metadata": {}}, {"text": "sort"}]
    same(llama.encode_document(documents), llama.encode_document(["zip file", "sort"]))
    same(llama.encode_document(documents[0]), llama.encode_document("zip file"))
    assert llama.encode_document(documents[0]).shape == (32,)
    same(llama.encode_document([{"text": "sort", "title": None}]), llama.encode_document(["sort"]))
    queries = [{"_id": 7, "text": "zip"}, {"text": "sort", "instruction": "list"}]
    same(
        llama.encode_query(queries),
        llama.encode_query(["zip", Query(query_id="q", text="sort", instruction="list")]),
    )
    assert {thought.query_id for thought in llama.think(queries[:1], THINKING)} == {"7"}
    with pytest.raises(InputError, match="document 1 has body; it needs text, and may have title"):
        llama.encode_document([{"text": "a"}, {"body": "b"}])
    with pytest.raises(InputError, match="query 0 has text, passage; it needs text, and may have instr"):
        llama.encode_query([{"text": "a", "passage": "b"}])


# --- what is cut --------------------------------------------------------------------------------------


def test_what_is_cut_is_counted_and_said_once(llama):
    long = "open a zip file read write list sort keys close the of in text bytes"
    with pytest.warns(InputWarning, match="1 of 2 texts have more than the 12 tokens .* query_length=24 "):
        llama.encode_query(["sort", long])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llama.encode_query([long])
    assert (llama.texts_read["query"], llama.texts_cut["query"]) == (3, 2)
    with pytest.warns(InputWarning, match="12 tokens that are read of a thought"):
        llama.encode_query(["sort"], thoughts=[[long]])
    with pytest.warns(InputWarning, match="192 tokens that are read of a document"):
        llama.encode_document([Document(doc_id="d", text=long * 20)])
    assert dict(llama.texts_cut) == {"query": 2, "thought": 1, "document": 1}


def test_a_long_instruction_leaves_two_queries_apart(plain_models):
    instruction = "how do i " * 30
    model = Embedder.from_backbone(plain_models["llama"], query_length=4, instruction=instruction)
    first, second = model.encode_query(["zip", "sort"])
    assert not np.allclose(first, second, atol=1e-4)
    bare = Embedder.from_backbone(plain_models["llama"], query_length=200)
    same(
        model.encode_query(["zip"]),
        bare.encode_query([Query(query_id="q", text="zip", instruction="how do i " * 30)]),
    )


def test_a_row_that_the_model_cannot_hold_is_refused_before_it_is_read(plain_models):
    model = Embedder.from_backbone(plain_models["llama"], query_length=12)
    for ask in (model.encode_query, model.think):
        with pytest.raises(InputError, match="but the model takes 2048; shorten the instruction"):
            ask([Query(query_id="q", text="sort", instruction="list " * 2100)])


# --- numbers that are none ----------------------------------------------------------------------------


@pytest.fixture
def damaged(llama):
    """An embedder with one weight that is no number, in the row of the word "zip"."""
    (ids,) = [row.ids for row in llama.document_rows(["zip"])]
    with torch.no_grad():
        embedding_matrix(llama.backbone.lm)[ids[2], 0] = torch.nan
    return llama


def test_vectors_that_are_no_numbers_are_never_given(damaged, tmp_path):
    queries = [Query(query_id="a", text="sort"), Query(query_id="b", text="open a zip")]
    attempts = {
        "encode_query": lambda: damaged.encode_query(queries),
        "think": lambda: damaged.think(queries, THINKING),
        "decode": lambda: damaged.decode(queries, THINKING),
        "samples": lambda: damaged.encode_query_samples(queries, thoughts=[["sort"], ["list"]]),
        "thoughts": lambda: damaged.encode_query(queries, thoughts=[["sort"], ["list"]]),
    }
    for name, attempt in attempts.items():
        with pytest.raises(BrokenVectorsError, match=r"the first of ids \['b'") as caught:
            attempt()
        assert "try bfloat16 or float32" in str(caught.value), name
    with pytest.raises(BrokenVectorsError, match=r"1 vectors are zero or not finite, .* ids \['d2'\]"):
        damaged.encode_document([Document(doc_id="d1", text="sort"), Document(doc_id="d2", text="zip")])
    same(damaged.encode_query("sort") ** 2 @ np.ones(32), 1.0)


# --- seeds --------------------------------------------------------------------------------------------


def test_thoughts_depend_on_the_text_and_the_seed_whoever_asks(llama):
    def thoughts(queries, place=0, seed=0):
        thinking = Thinking(samples=2, max_tokens=6, temperature=3.0, seed=seed)
        return [trace.token_ids for trace in llama.decode(queries, thinking)[1][place]]

    text = "open a zip file"
    expected = thoughts([text])
    assert thoughts([Query(query_id="q7", text=text)]) == expected
    assert thoughts([{"_id": "z", "text": text}]) == expected
    assert thoughts(["sort", text, Query(query_id="x", text="keys")], place=1) == expected
    assert thoughts([text], seed=1) != expected


# --- dtypes and devices -------------------------------------------------------------------------------


def test_auto_is_the_dtype_of_the_files_and_stays_when_saved(plain_models, tmp_path):
    half = save_model(tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    for made, expected in (
        (Embedder.from_backbone(half), torch.float32),
        (Embedder.from_backbone(half, dtype="auto"), torch.bfloat16),
        (Embedder.from_backbone(half, dtype="float16"), torch.float16),
    ):
        assert embedding_matrix(made.backbone.lm).dtype == made.backbone.control_rows.dtype == expected
    made = Embedder.from_backbone(half, dtype="auto", device="cpu")
    made.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_bytes())["dtype"] == "bfloat16"
    again = Embedder.from_pretrained(tmp_path / "saved", dtype="auto", device="cpu")
    assert again.fingerprint().dtype == "bfloat16"
    same(again.encode_document(TEXTS), made.encode_document(TEXTS), 1e-3)
    assert again.encode_document(TEXTS).dtype == np.float32
    with pytest.raises(InputError, match="unknown dtype 'int8'; give auto, float32, bfloat16 or float16"):
        Embedder.from_backbone(half, dtype="int8")


def test_an_adapter_is_merged_into_the_dtype_of_its_base(tmp_path):
    half = save_model(tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    model = Embedder.from_backbone(half, dtype="auto")
    add_lora(model.backbone, Lora(rank=2, alpha=4, dropout=0.0))
    save_weights(model, tmp_path / "adapter", base=base_of(half))
    merged = Embedder.from_pretrained(tmp_path / "adapter", dtype="auto", device="cpu")
    merged.save_pretrained(tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    again = Embedder.from_pretrained(tmp_path / "merged", device="cpu")
    same(again.encode_document(TEXTS), merged.encode_document(TEXTS), 0.05)


def test_attention_and_device_map_are_transformers_own(plain_models):
    eager = Embedder.from_backbone(plain_models["llama"], attn_implementation="eager", device_map="cpu")
    assert eager.backbone.config._attn_implementation == "eager"
    plain = Embedder.from_backbone(plain_models["llama"])
    same(eager.encode_document(TEXTS), plain.encode_document(TEXTS), 1e-5)
    same(eager.encode_query(TEXTS, think=THINKING), plain.encode_query(TEXTS, think=THINKING), 1e-5)


# --- streams ------------------------------------------------------------------------------------------


def test_the_pieces_of_a_stream_are_the_thoughts(embedder):
    for text in ("open a zip file", "sort"):
        pieces = list(embedder.stream(text, THINKING))
        whole = {n: "".join(piece for sample, piece in pieces if sample == n) for n in range(2)}
        assert {n: t.strip() for n, t in whole.items() if t.strip()} == {
            int(t.thought_id.rpartition("#")[2]): t.text for t in embedder.think(text, THINKING)
        }
        assert len(pieces) > 2


def test_a_stream_that_is_left_stops_the_model(llama):
    steps = []
    llama.backbone.lm.get_input_embeddings().register_forward_hook(lambda *_: steps.append(1))
    thinking = Thinking(samples=2, max_tokens=12, temperature=3.0)
    list(llama.stream("sort", thinking))
    whole = len(steps)
    steps.clear()
    stream = llama.stream("sort", thinking)
    next(stream)
    stream.close()
    assert len(steps) <= whole
    same(llama.encode_query("sort"), llama.encode_query(["sort"])[0])


def test_what_the_cache_knows_streams_without_the_model(llama, tmp_path):
    llama.save_pretrained(tmp_path / "saved")
    model = Embedder.from_pretrained(tmp_path / "saved", device="cpu")
    model.decoder.cache = ThoughtCache(":memory:")
    first = list(model.stream("sort the list", THINKING))
    steps = []
    model.backbone.lm.get_input_embeddings().register_forward_hook(lambda *_: steps.append(1))
    again = list(model.stream("sort the list", THINKING))
    assert steps == []
    joined = [
        [piece for sample, piece in sorted(pieces, key=lambda each: each[0])] for pieces in (first, again)
    ]
    assert "".join(joined[0]) == "".join(joined[1])
    model.encode_query("sort the list", think=THINKING)
    assert steps == []


# --- many callers -------------------------------------------------------------------------------------


def test_many_callers_share_batches_and_each_gets_its_own(llama):
    texts = ["open a zip", "sort the list", "read", "keys of the list", "how do i"]

    async def ask():
        async with AsyncEmbedder(llama) as model:
            calls = [model.encode_query([text], think=THINKING) for text in texts]
            calls += [model.encode_document(text) for text in texts]
            calls += [
                model.encode_query(text, instruction="list", thoughts=[["zip", "text"]]) for text in texts
            ]
            return await asyncio.gather(*calls)

    found = asyncio.run(ask())
    for text, own in zip(texts, found[:5], strict=True):
        same(own, llama.encode_query([text], think=THINKING), 1e-5)
    for text, own in zip(texts, found[5:10], strict=True):
        same(own, llama.encode_document(text), 1e-5)
    for text, own in zip(texts, found[10:], strict=True):
        same(own, llama.encode_query(text, instruction="list", thoughts=["zip", "text"]), 1e-5)


def test_an_async_stream_is_the_stream(llama):
    async def ask():
        async with AsyncEmbedder(llama) as model:
            pieces = [piece async for piece in model.stream("sort the list", THINKING)]
            # left early, the next caller does not wait
            async for _ in model.stream("open a zip", THINKING):
                break
            return pieces, await model.encode_document("zip")

    pieces, vector = asyncio.run(ask())
    assert pieces == list(llama.stream("sort the list", THINKING))
    same(vector, llama.encode_document("zip"), 1e-5)


def test_one_callers_broken_text_is_not_anothers(damaged):
    async def ask():
        async with AsyncEmbedder(damaged) as model:
            calls = [model.encode_document(text) for text in ("zip", "sort", "list")]
            return await asyncio.gather(*calls, return_exceptions=True)

    broken, *others = asyncio.run(ask())
    assert isinstance(broken, BrokenVectorsError)
    for text, vector in zip(("sort", "list"), others, strict=True):
        same(vector, damaged.encode_document(text), 1e-5)


def test_more_than_fits_is_refused_at_once(llama):
    async def ask():
        async with AsyncEmbedder(llama, max_waiting=3) as model:
            await model.encode_document(["sort"] * 4)

    with pytest.raises(QueueFullError, match="try again in"):
        asyncio.run(ask())


def test_nothing_asked_is_nothing_answered(llama):
    async def ask():
        async with AsyncEmbedder(llama) as model:
            return await model.encode_query([]), await model.encode_document([], truncate_dim=8)

    queries, documents = asyncio.run(ask())
    assert (queries.shape, documents.shape) == ((0, 32), (0, 8))
    assert llama.encode_query([]).shape == llama.encode_document([]).shape == (0, 32)


def test_kinds_do_not_mix_in_a_batch(llama):
    """Thinking and plain queries, documents and brought thoughts: in every order."""
    kinds = {
        "plain": lambda model: model.encode_query(["sort"]),
        "think": lambda model: model.encode_query(["sort"], think=THINKING),
        "both": lambda model: model.encode_query(["sort"], think=THINKING, with_query=True),
        "document": lambda model: model.encode_document(["sort"]),
    }
    expected = {name: np.asarray(kind(llama)) for name, kind in kinds.items()}

    async def ask(order):
        async with AsyncEmbedder(llama) as model:
            return await asyncio.gather(*(kinds[name](model) for name in order))

    for order in itertools.permutations(kinds, 3):
        for name, vectors in zip(order, asyncio.run(ask(order)), strict=True):
            same(vectors, expected[name], 1e-5)
