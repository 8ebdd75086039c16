"""The server of a retriever that mixes thoughts in, over real connections."""

import asyncio

import numpy as np
import pytest

from helpers.openai_server import openai_server
from helpers.served import post, running, vectors
from o1_model import Embedder, ThinkingRetriever
from o1_model.__main__ import main
from o1_model.embedder import as_queries
from o1_model.retriever.thinkers import open_thinker
from o1_model.serving.answers import Work
from o1_model.serving.mixed import AsyncRetriever
from o1_records import InputError
from o1_records.mixture import Mixture
from o1_records.styles import Style

httpx2 = pytest.importorskip("httpx2")
pytestmark = pytest.mark.extra
TEXTS = ["how do i open a zip file", "sort a list of keys"]


@pytest.fixture(scope="module")
def served(plain_models, tmp_path_factory):
    """A server, the retriever behind it, and the chat server that thinks."""
    folder = tmp_path_factory.mktemp("mixed") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    with openai_server(chat=lambda body: "read the bytes" if "zip" in str(body) else "keys") as chat:
        thinker = open_thinker(f"{chat.url}#big", Style(instruction="About {text}", max_tokens=8))
        retriever = ThinkingRetriever(folder, thinker, mixture=Mixture(weight=0.4), device="cpu")
        url, stop = running(retriever)
        yield url, retriever, chat
        stop()


def test_queries_think_unless_the_client_says_otherwise(served):
    url, retriever, _ = served
    thoughts = [["read the bytes"], ["keys"]]
    mixed = retriever.encode_query(TEXTS, thoughts=thoughts)
    got = post(url, input=TEXTS, input_type="query", think={"return_thoughts": True})
    np.testing.assert_allclose(vectors(got), mixed, atol=1e-6)
    assert [entry["thoughts"] for entry in got.json()["data"]] == thoughts
    np.testing.assert_allclose(vectors(post(url, input=TEXTS, input_type="query")), mixed, atol=1e-6)
    plain = vectors(post(url, input=TEXTS, input_type="query", think=False))
    np.testing.assert_allclose(plain, retriever.embedder.queries(as_queries(TEXTS)), atol=1e-6)


def test_documents_and_thoughts_of_the_client(served):
    url, retriever, chat = served
    before = len(chat.asked)
    documents = vectors(post(url, input=TEXTS, input_type="document"))
    np.testing.assert_allclose(documents, retriever.encode_document(TEXTS), atol=1e-6)
    own = [["sort"], ["open", "close"]]
    given = vectors(post(url, input=TEXTS, thoughts=own))
    np.testing.assert_allclose(given, retriever.encode_query(TEXTS, thoughts=own), atol=1e-6)
    assert len(chat.asked) == before  # nobody was asked to think


def test_what_others_models_cannot_do_is_refused(served):
    url, _, _ = served
    assert "mixed in by a weight" in post(url, input="a", think={"with_query": True}).text
    ids = post(url, input=[[1, 2]], input_type="query")
    assert ids.status_code == 422
    assert post(url, input="a", think={"samples": 2, "max_tokens": 3}).status_code == 200


def test_what_one_client_is_refused_for_does_not_reach_the_others(served):
    _, retriever, _ = served

    class Strict:
        def __getattr__(self, name):
            return getattr(retriever.thinker, name)

        def think(self, queries, thinking):
            if any("bad" in query.text for query in queries):
                raise InputError("a text that cannot be thought about")
            return retriever.thinker.think(queries, thinking)

    picky = ThinkingRetriever(retriever.embedder, Strict(), mixture=retriever.mixture)
    model = AsyncRetriever(picky, batch_tokens=4096, max_waiting=64)

    async def ask():
        work = Work("query", picky.thinking)
        texts = [["open"], ["bad"], ["sort"]]
        try:
            return await asyncio.gather(*(model.answers(work, own) for own in texts), return_exceptions=True)
        finally:
            await model.close()

    first, refused, last = asyncio.run(ask())
    assert "cannot be thought about" in str(refused)
    assert (first[0].thoughts, last[0].thoughts) == (["keys"], ["keys"])


def test_info_says_what_is_served(served):
    url, retriever, _ = served
    info = httpx2.get(f"{url}/info", timeout=60).json()
    assert info["model_id"] == "tiny + big"
    assert info["mixture"] == {"weight": 0.4, "reading": "document"}
    assert info["dimensions"] == retriever.dim
    assert info["think"]["max_tokens"] == 8


def test_options_of_a_checkpoint_are_refused_for_others(served, capsys, plain_models, tmp_path):
    from o1_model.serving.server import Serving, application
    from o1_model.thinking.gate import Gate

    _, retriever, _ = served
    with pytest.raises(InputError, match="a gate that needs margins cannot serve"):
        application(retriever, Serving(gate=Gate(signal="margin", above=True, threshold=0.1)))
    folder = tmp_path / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    command = ["serve", "--model", str(folder), "--think", "--weight", "0.3", "--token-ids"]
    assert main(command) != 0
    assert "--token-ids: only for a checkpoint" in capsys.readouterr().err
