"""One door to reading: a budget binds every pass and every token is counted, in every layout and mode."""

import numpy as np
import pytest

from o1_model import Embedder, Thinking
from o1_model.thinking.engines import Written
from o1_records import Query

QUERIES = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(["open a zip", "sort", "the list"])]
DOCUMENTS = ["read the text", "write", "close the zip file", "list of bytes"]
THINKING = Thinking(samples=2, max_tokens=5, temperature=3.0)


class SaysTheSame:
    """An engine that writes two tokens."""

    name = "the same"

    def write(self, prompts, thinking, *, eos, banned):
        return [[Written((5, 6), True)] * thinking.samples for _ in prompts]


MODES = {
    "documents": lambda embedder: embedder.encode_document(DOCUMENTS),
    "queries": lambda embedder: embedder.encode_query(QUERIES),
    "thoughts": lambda embedder: embedder.encode_query(QUERIES, thoughts=[["zip", "text"]] * 3),
    "thoughts and v_q": lambda embedder: embedder.encode_query(
        QUERIES, thoughts=[["zip", "text"]] * 3, with_query=True
    ),
    "signals": lambda embedder: embedder.signals(QUERIES),
    "thinking": lambda embedder: embedder.encode_query(QUERIES, think=THINKING),
    "an engine": lambda embedder: embedder.encode_query(QUERIES, think=THINKING),
}
CASES = [
    (name, mode)
    for name in ("o1", "reference", "instruct")
    for mode in MODES
    if name != "instruct" or mode in ("documents", "queries")
]


@pytest.fixture(scope="module")
def embedders(plain_models):
    """An embedder of each layout."""
    lengths = {"o1": {"thought_length": 8}, "reference": {"thought_length": 8}, "instruct": {}}
    return {
        name: Embedder.from_backbone(plain_models["llama"], name=name, query_length=12, **more)
        for name, more in lengths.items()
    }


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def reading(request, embedders, monkeypatch):
    """An embedder of a layout, what it is to do, and the token ids [rows, columns] of every pass."""
    name, mode = request.param
    embedder = embedders[name]
    passes = []
    embeddings = embedder.backbone.lm.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, args, output: passes.append(args[0]))
    monkeypatch.setattr(embedder.decoder, "engine", SaysTheSame() if mode == "an engine" else None)
    monkeypatch.setattr(embedder.reader, "tokens_read", 0)
    monkeypatch.setattr(embedder.reader, "batch_tokens", None)
    yield embedder, MODES[mode], passes
    hook.remove()


def real(passes, pad_id=0):
    """Tokens that are not padding."""
    return sum(int((ids != pad_id).sum()) for ids in passes)


def test_every_token_is_counted(reading):
    embedder, do, passes = reading
    do(embedder)
    assert embedder.tokens_read == real(passes) > 0


@pytest.mark.parametrize("tokens", [1, 15])
def test_a_budget_binds_every_pass(reading, tokens):
    embedder, do, passes = reading
    embedder.batch_tokens = tokens
    do(embedder)
    # a single row may be longer, and the samples of one prompt stay together
    large = [ids.shape for ids in passes if ids.numel() > tokens]
    assert all(rows == 1 or (rows <= THINKING.samples and columns == 1) for rows, columns in large)
    assert embedder.tokens_read == real(passes)


def test_a_budget_changes_no_vector(reading):
    embedder, do, _ = reading
    vectors = []
    for tokens in (None, 15):
        embedder.batch_tokens = tokens
        vectors.append(do(embedder))
    if isinstance(vectors[0], np.ndarray):
        np.testing.assert_allclose(*vectors, atol=1e-6)
