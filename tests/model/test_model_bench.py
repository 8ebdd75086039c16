"""A checkpoint as o1-bench measures it in process: its vectors and thoughts, and what changes them."""

import json
from importlib.metadata import entry_points

import numpy as np
import pytest

from helpers.openai_server import openai_server
from o1_model import Embedder, Thinking
from o1_model.bench import open_model
from o1_records import Document, InputError, Query

DOCUMENTS = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(["open a zip file", "sort keys"])]
QUERIES = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(["how do i open zip", "sort", ""])]
THINK = ["--samples", "2", "--max-tokens", "5", "--temperature", "3", "--seed", "4"]


@pytest.fixture(scope="module")
def checkpoint(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(checkpoint):
    return Embedder.from_pretrained(checkpoint, device="cpu")


def opened(checkpoint, **options):
    """What o1-bench gets: through the entry point where the package is installed with it."""
    (point,) = entry_points(group="o1_bench.systems", name="o1-model") or [None]
    return (open_model if point is None else point.load())(str(checkpoint), **options)


def test_it_gives_the_vectors_and_thoughts_of_the_library(checkpoint, embedder):
    model = opened(checkpoint, think_options=THINK)
    thinking = Thinking(samples=2, max_tokens=5, temperature=3.0, seed=4)
    np.testing.assert_allclose(model.documents(DOCUMENTS), embedder.encode_document(DOCUMENTS), atol=1e-6)
    np.testing.assert_allclose(model.queries(QUERIES), embedder.encode_query(QUERIES), atol=1e-6)
    thoughts = model.think(QUERIES)
    assert [thought for own in thoughts for thought in own] == embedder.think(QUERIES, thinking)
    for mean in (False, True):
        np.testing.assert_allclose(
            model.queries(QUERIES, thoughts, with_query=mean),
            embedder.encode_query(QUERIES, think=thinking, with_query=mean),
            atol=1e-5,
        )
    vectors = model.queries(QUERIES)
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 32))


def test_a_thought_may_be_a_text_and_empty_and_a_query_may_have_none(checkpoint, embedder):
    model = opened(checkpoint)
    thoughts = [[""], ["read bytes", ""], []]
    found = model.queries(QUERIES, thoughts)
    np.testing.assert_allclose(found, embedder.encode_query(QUERIES, thoughts=thoughts), atol=1e-6)
    v_q = model.queries(QUERIES)
    np.testing.assert_allclose(found[2], v_q[2], atol=1e-6)
    assert np.abs(found[:2] - v_q[:2]).max(axis=1).min() > 1e-3, "an empty thought is not none"


def test_everything_that_changes_a_vector_or_a_thought_is_in_the_fingerprint(checkpoint):
    model = opened(checkpoint)
    assert (model.name, model.device) == ("tiny", "cpu")
    fingerprint = json.loads(json.dumps(model.fingerprint))
    assert fingerprint["thinking"]["samples"] == Thinking.samples
    for options in (
        {"think_options": ["--seed", "1"]},
        {"think_options": ["--dtype", "bfloat16"], "embed_options": ["--dtype", "bfloat16"]},
        {"embed_options": ["--with-query"]},
    ):
        assert opened(checkpoint, **options).fingerprint != fingerprint
    assert opened(checkpoint, embed_options=["--batch-tokens", "9"]).fingerprint == fingerprint


def test_with_query_among_the_options_is_for_queries_with_thoughts(checkpoint, embedder):
    model = opened(checkpoint, embed_options=["--with-query"])
    thoughts = [["zip"]] * 3
    np.testing.assert_allclose(
        model.queries(QUERIES, thoughts),
        embedder.encode_query(QUERIES, thoughts=thoughts, with_query=True),
        atol=1e-6,
    )
    np.testing.assert_allclose(model.queries(QUERIES), embedder.encode_query(QUERIES), atol=1e-6)


def test_other_models_are_none_of_ours(plain_models, tmp_path):
    assert opened(plain_models["llama"]) is None
    assert opened(tmp_path / "nothing") is None
    assert opened("someone/else") is None
    # whatever its options: they are some other model's
    assert opened(plain_models["llama"], think_options=["--mood", "good"]) is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"think_options": ["--out", "t.jsonl"]}, "o1-model think: without effect here, leave out: --out"),
        ({"think_options": ["--device", "cuda"]}, "without effect here, leave out: --device"),
        (
            {"embed_options": ["--think", "--shard-rows", "2"]},
            "embed: without effect here, leave out: --think, --shard-rows",
        ),
        ({"embed_options": ["--samples", "2"]}, "without effect here, leave out: --samples"),
        ({"think_options": ["--sample", "x"]}, "argument --samples: invalid int value: 'x'"),
        ({"think_options": ["--mood", "good"]}, "unrecognized arguments: --mood good"),
        ({"think_options": ["--samples", "0"]}, "samples must be at least 1, got 0"),
        ({"think_options": ["--dtype", "bfloat16"]}, "'bfloat16' for think, but 'float32' for embed"),
    ],
)
def test_wrong_options_and_those_without_effect_are_refused(checkpoint, options, complaint):
    with pytest.raises(InputError, match=complaint):
        opened(checkpoint, **options)


def test_any_embedder_with_a_thinker_is_measured_too(checkpoint, embedder):
    with openai_server(chat=lambda body: "read the bytes") as server:
        words = ["--thinker", f"{server.url}#big", "--style", "keywords", "--weight", "0.3"]
        model = opened(checkpoint, embed_options=words)
        own = model.think(QUERIES[:2])
        assert [[each.text for each in thoughts] for thoughts in own] == [["read the bytes"]] * 2
    v_q = embedder.encode_query(QUERIES[:2])
    np.testing.assert_allclose(model.queries(QUERIES[:2]), v_q, atol=1e-6)
    mixed = 0.7 * v_q + 0.3 * embedder.encode_document(["read the bytes"])
    expected = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    np.testing.assert_allclose(model.queries(QUERIES[:2], own), expected, atol=1e-6)
    assert json.loads(json.dumps(model.fingerprint))["engine"]["model"] == "big"
    with pytest.raises(InputError, match="with --thinker, give the options of thinking to embed"):
        opened(checkpoint, embed_options=words, think_options=["--samples", "2"])
    with pytest.raises(InputError, match="without effect here, leave out: --devices"):
        opened(checkpoint, embed_options=[*words, "--devices", "cpu"])
