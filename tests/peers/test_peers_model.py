"""Other people's clients against our server, and our vectors beside those of their own code."""

import json
import threading
import time

import numpy as np
import pytest
import uvicorn
from beir.retrieval.search.dense import DenseRetrievalExactSearch
from FlagEmbedding import FlagLLMModel
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from openai import UnprocessableEntityError
from sentence_transformers import SentenceTransformer, util

from helpers.tiny import byte_tokenizer, save_model
from o1_model import Embedder, Thinking
from o1_model.serving.server import application
from o1_model.serving.settings import Serving

pytestmark = pytest.mark.peers

TEXTS = ["how do i open a zip file", "sort a list of keys", "read the bytes of a text file"]
THINK = {"samples": 2, "max_tokens": 6, "temperature": 1.0}
ASK = {"extra_body": {"input_type": "query", "think": THINK}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    plain = save_model(folder / "plain", "llama")
    Embedder.from_backbone(plain, thought_length=12).save_pretrained(folder / "retriever")
    return Embedder.from_pretrained(folder / "retriever", device="cpu")


@pytest.fixture(scope="module")
def address(model):
    """A server that asks for a key."""
    app = application(model, Serving(api_keys=("secret",), names=("retriever",)))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(30)


def test_langchain_gets_the_vectors_of_the_library(model, address):
    how = {
        "base_url": address,
        "api_key": "secret",
        "model": "retriever",
        "check_embedding_ctx_length": False,
    }
    documents = OpenAIEmbeddings(**how)
    np.testing.assert_allclose(documents.embed_documents(TEXTS), model.encode_document(TEXTS), atol=1e-6)
    queries = OpenAIEmbeddings(**how, model_kwargs=ASK)
    expected = model.encode_query(TEXTS[0], think=Thinking(**THINK))
    np.testing.assert_allclose(queries.embed_query(TEXTS[0]), expected, atol=1e-5)
    shorter = OpenAIEmbeddings(**how, dimensions=8).embed_documents(TEXTS)
    np.testing.assert_allclose(shorter, model.encode_document(TEXTS, truncate_dim=8), atol=1e-6)


def test_langchains_token_ids_are_refused_with_the_remedy(address):
    client = OpenAIEmbeddings(base_url=address, api_key="secret", model="retriever").client
    with pytest.raises(UnprocessableEntityError, match="check_embedding_ctx_length=False"):
        client.create(input=[[9906, 1917]], model="retriever")  # as it sends "Hello world"


def test_llamaindex_gets_the_vectors_of_the_library(model, address):
    how = {"api_base": address, "api_key": "secret", "model_name": "retriever"}
    documents = OpenAIEmbedding(**how)
    found = documents.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(found, model.encode_document(TEXTS), atol=1e-6)
    queries = OpenAIEmbedding(**how, additional_kwargs=ASK)
    expected = model.encode_query(TEXTS[0], think=Thinking(**THINK))
    np.testing.assert_allclose(queries.get_query_embedding(TEXTS[0]), expected, atol=1e-5)


def test_sentence_transformers_gives_the_vectors_and_similarities_of_the_library(model, tmp_path):
    model.save_pretrained(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    queries, documents = theirs.encode_query(TEXTS), theirs.encode_document(TEXTS)
    np.testing.assert_allclose(model.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), documents, atol=1e-5)
    ours = model.similarity(queries, documents)
    np.testing.assert_allclose(ours, theirs.similarity(queries, documents), atol=1e-6)
    np.testing.assert_allclose(ours, util.cos_sim(queries, documents), atol=1e-6)
    pairwise = model.similarity_pairwise(queries, documents)
    np.testing.assert_allclose(pairwise, theirs.similarity_pairwise(queries, documents), atol=1e-6)


def test_a_model_of_flagembedding_is_read_as_flagembedding_reads_it(tmp_path):
    """ReasonEmbed's recipe: nothing is appended, and the last token is read."""
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "left"
    folder = save_model(tmp_path / "plain", "qwen2", tokenizer=tokenizer)
    instruction = "Given a question, retrieve passages that answer it"
    theirs = FlagLLMModel(
        str(folder),
        query_instruction_for_retrieval=instruction,
        query_instruction_format="Instruct: {}\nQuery: {}",
        use_fp16=False,
        devices="cpu",
    )
    ours = Embedder.from_pretrained(folder, layout="instruct", instruction=instruction, device="cpu")
    np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(ours.encode_document(TEXTS), theirs.encode_corpus(TEXTS), atol=1e-5)


def test_beir_searches_with_it(model):
    corpus = {str(n): {"title": "zip", "text": text} for n, text in enumerate(TEXTS)}
    queries = {f"q{n}": text for n, text in enumerate(TEXTS)}
    search = DenseRetrievalExactSearch(model, batch_size=2)
    found = search.search(corpus, queries, top_k=3, score_function="cos_sim")
    expected = model.encode_query(TEXTS) @ model.encode_document([f"zip {text}" for text in TEXTS]).T
    for row, query_id in zip(expected, queries, strict=True):
        scores = [found[query_id][str(n)] for n in range(3)]
        np.testing.assert_allclose(scores, row, atol=1e-5)
    assert json.dumps(found)
