"""LangChain and LlamaIndex with our classes in their places: the vectors and hits of the library."""

import asyncio

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from helpers.tiny import byte_tokenizer, save_model, save_sentence_model
from o1_model import Embedder, Thinking, ThinkingRetriever
from o1_model.integrations.langchain import ThinkingEmbeddings
from o1_model.integrations.llamaindex import ThinkingEmbedding
from o1_model.retriever.instruct import Instruct
from o1_records import InputError
from o1_records.mixture import Mixture
from o1_records.styles import Style

pytestmark = pytest.mark.peers

TEXTS = ["open a zip file", "sort the keys of a list", "read bytes in a text", "close the file"]
QUERY = "how do i open a zip file"
THINK = Thinking(samples=2, max_tokens=6)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    Embedder.from_backbone(save_model(folder / "plain"), thought_length=12).save_pretrained(folder / "own")
    return Embedder.from_pretrained(folder / "own", device="cpu")


@pytest.fixture(scope="module")
def retriever(tmp_path_factory):
    """A sentence-transformers model, and an instruct model that thinks for it."""
    folder = tmp_path_factory.mktemp("others")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    thinker = Instruct(
        save_model(folder / "chat", "qwen2", tokenizer=tokenizer),
        Style(instruction="Say more about {text}", max_tokens=12),
        device="cpu",
    )
    words = sorted({word for text in TEXTS for word in text.split()})
    mixture = Mixture(weight=0.4, reading="query")
    return ThinkingRetriever(save_sentence_model(folder, words), thinker, mixture=mixture, device="cpu")


@pytest.fixture(scope="module", params=["retriever", "checkpoint"])
def ours(request, retriever, checkpoint):
    """What a framework's class is given, and the vectors of the library."""
    if request.param == "retriever":
        assert retriever.think(QUERY)[0] and retriever.thinks
        return retriever, {}, retriever.encode_query(QUERY), retriever.encode_document(TEXTS)
    query = checkpoint.encode_query(QUERY, think=THINK)
    return checkpoint, {"think": THINK}, query, checkpoint.encode_document(TEXTS)


def test_langchain_gets_the_vectors_of_the_library(ours):
    model, how, query, documents = ours
    embeddings = ThinkingEmbeddings(model, **how)
    assert isinstance(embeddings, Embeddings)
    np.testing.assert_allclose(embeddings.embed_query(QUERY), query, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), documents, atol=1e-6)
    assert embeddings.embed_documents([]) == []

    async def together():
        asked = [embeddings.aembed_query(QUERY) for _ in range(3)]
        return await asyncio.gather(embeddings.aembed_documents(TEXTS), *asked)

    found, *asked = asyncio.run(together())
    np.testing.assert_allclose(found, documents, atol=1e-6)
    np.testing.assert_allclose(asked, [query] * 3, atol=1e-6)


def test_langchains_store_finds_what_the_library_finds(ours):
    model, how, query, documents = ours
    store = InMemoryVectorStore(ThinkingEmbeddings(model, **how))
    store.add_texts(TEXTS)
    found = store.similarity_search_with_score(QUERY, k=len(TEXTS))
    best = np.argsort(-(documents @ query))
    assert [document.page_content for document, _ in found] == [TEXTS[place] for place in best]
    np.testing.assert_allclose([score for _, score in found], (documents @ query)[best], atol=1e-5)


def test_llamaindex_gets_the_vectors_of_the_library(ours):
    model, how, query, documents = ours
    embedding = ThinkingEmbedding(model, embed_batch_size=3, **how)  # fewer than there are texts
    assert isinstance(embedding, BaseEmbedding) and embedding.embed_batch_size == 3
    np.testing.assert_allclose(embedding.get_query_embedding(QUERY), query, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), documents[0], atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), documents, atol=1e-6)

    async def together():
        asked = [embedding.aget_query_embedding(QUERY) for _ in range(3)]
        one = embedding.aget_text_embedding(TEXTS[0])
        return await asyncio.gather(embedding.aget_text_embedding_batch(TEXTS), one, *asked)

    found, one, *asked = asyncio.run(together())
    np.testing.assert_allclose(found, documents, atol=1e-6)
    np.testing.assert_allclose(one, documents[0], atol=1e-6)
    np.testing.assert_allclose(asked, [query] * 3, atol=1e-6)


def test_llamaindex_index_finds_what_the_library_finds(ours):
    model, how, query, documents = ours
    nodes = [TextNode(id_=str(n), text=text) for n, text in enumerate(TEXTS)]
    index = VectorStoreIndex(nodes, embed_model=ThinkingEmbedding(model, **how))
    found = index.as_retriever(similarity_top_k=len(TEXTS)).retrieve(QUERY)
    best = np.argsort(-(documents @ query))
    assert [hit.node.node_id for hit in found] == [str(place) for place in best]
    np.testing.assert_allclose([hit.score for hit in found], (documents @ query)[best], atol=1e-5)


def test_a_pipelines_cache_gives_no_vectors_of_another_model(retriever, checkpoint):
    def run(model, **pipeline):
        nodes = [TextNode(id_="0", text=TEXTS[0])]
        made = IngestionPipeline(transformations=[ThinkingEmbedding(model)], **pipeline)
        return made.run(nodes=nodes)[0].embedding, made.cache

    first, cache = run(retriever)
    again, _ = run(retriever, cache=cache)
    other, _ = run(checkpoint, cache=cache)
    assert again == first and len(other) == checkpoint.dim != len(first)
    nodes = [TextNode(id_="0", text=TEXTS[0])]
    hashes = {
        get_transformation_hash(nodes, embedding)
        for embedding in (
            ThinkingEmbedding(checkpoint),
            ThinkingEmbedding(checkpoint, think=THINK),
            ThinkingEmbedding(checkpoint, instruction="read"),
            MockEmbedding(embed_dim=8),
        )
    }
    assert len(hashes) == 4
    assert get_transformation_hash(nodes, ThinkingEmbedding(checkpoint)) in hashes


def test_a_cache_that_mixes_queries_and_documents_up_is_refused(checkpoint):
    with pytest.raises(InputError, match="embeddings_cache files a vector under its text alone"):
        ThinkingEmbedding(checkpoint, embeddings_cache=SimpleKVStore())
    with pytest.raises(InputError, match="with_query has no effect without think"):
        ThinkingEmbedding(checkpoint, with_query=True)
    with pytest.raises(InputError, match="with_query has no effect without think"):
        ThinkingEmbeddings(checkpoint, with_query=True)
