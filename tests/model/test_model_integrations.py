"""What the classes for LangChain and LlamaIndex do with a model; beside the real ones in tests/peers."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from o1_model import Embedder, Thinking, ThinkingRetriever
from o1_model.integrations.adapter import Adapter
from o1_model.retriever.thinkers import GivenThoughts
from o1_model.thinking.gate import Gate
from o1_records import InputError, MissingExtraError, Query, Source, Thought
from o1_records.mixture import Mixture

ASKED = [Query(query_id="q1", text="open a zip file")]
THOUGHTS = [Thought(query_id="q1", thought_id="q1#0", text="read bytes", source=Source(model="somebody"))]
THINK = Thinking(samples=2, max_tokens=4)


@pytest.fixture(scope="module")
def checkpoint(plain_models):
    return Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)


@pytest.fixture(scope="module")
def retriever(checkpoint):
    return ThinkingRetriever(checkpoint, GivenThoughts(THOUGHTS, queries=ASKED), mixture=Mixture(weight=0.5))


def test_a_retriever_thinks_about_queries_and_not_about_documents(retriever):
    adapter, text = Adapter(retriever), "open a zip file"
    np.testing.assert_array_equal(np.float32(adapter.query(text)), retriever.encode_query(text))
    assert np.abs(retriever.encode_query(text) - retriever.embedder.queries(ASKED)[0]).max() > 0.01
    plain = retriever.embedder.queries([Query(query_id="-", text="sort keys")])[0]
    np.testing.assert_array_equal(np.float32(adapter.query("sort keys")), plain)  # nobody thought about it
    documents = adapter.documents([text, "keys"])
    np.testing.assert_array_equal(np.float32(documents), retriever.encode_document([text, "keys"]))
    assert isinstance(documents[0][0], float) and adapter.documents([]) == []


def test_a_checkpoint_thinks_as_it_is_told_to(checkpoint):
    text = "sort the keys of a list"
    expected = checkpoint.encode_query(text, think=THINK, with_query=True, instruction="read")
    made = Adapter(checkpoint, think=THINK, with_query=True, instruction="read").query(text)
    np.testing.assert_allclose(made, expected, atol=1e-6)
    np.testing.assert_allclose(Adapter(checkpoint).query(text), checkpoint.encode_query(text), atol=1e-6)


def test_many_threads_get_what_one_gets(checkpoint):
    adapter = Adapter(checkpoint, think=THINK)
    texts = [f"open {word}" for word in ("a zip", "file", "list", "keys")] * 2
    alone = [adapter.query(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(adapter.query, texts)) == alone


def test_whatever_changes_a_vector_changes_the_digest(checkpoint, retriever):
    other = ThinkingRetriever(checkpoint, retriever.thinker, mixture=Mixture(weight=0.4))
    adapters = [
        Adapter(checkpoint),
        Adapter(checkpoint, think=THINK),
        Adapter(checkpoint, think=THINK, with_query=True),
        Adapter(checkpoint, instruction="read"),
        Adapter(retriever),
        Adapter(other),
    ]
    assert len({adapter.digest for adapter in adapters}) == len(adapters)
    assert Adapter(other).digest == adapters[-1].digest


def test_what_has_no_effect_or_cannot_work_is_refused(checkpoint, retriever, plain_models):
    with pytest.raises(InputError, match="think and with_query are for a checkpoint"):
        Adapter(retriever, think=THINK)
    with pytest.raises(InputError, match="with_query has no effect without think"):
        Adapter(checkpoint, with_query=True)
    with pytest.raises(InputError, match="a str is no model; give a ThinkingRetriever"):
        Adapter("org/model")
    silent = Embedder.from_backbone(plain_models["llama"], name="instruct")
    with pytest.raises(InputError, match="layout 'instruct' has no place for a thought"):
        Adapter(silent, think=THINK)
    nameless = ThinkingRetriever(checkpoint, GivenThoughts(THOUGHTS))
    with pytest.raises(InputError, match="found by query_id, and here queries are texts"):
        Adapter(nameless)
    gated = ThinkingRetriever(checkpoint)
    gated.gate = Gate(signal="margin", above=False, threshold=0.1)
    with pytest.raises(InputError, match="a gate that needs margins cannot serve"):
        Adapter(gated)


@pytest.mark.parametrize(
    ("extra", "module"), [("langchain", "langchain_core"), ("llamaindex", "llama_index")]
)
def test_without_the_framework_its_extra_is_named(extra, module, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"o1_model.integrations.{extra}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"o1-model\[{extra}\]"):
        importlib.import_module(f"o1_model.integrations.{extra}")
