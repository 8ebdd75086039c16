"""The same query is not thought about twice; nothing that changed is ever reused (F21)."""

import dataclasses

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from o1_model import Embedder, Thinking
from o1_model.thinking.engines import Written
from o1_model.thinking.records import ThoughtCache
from o1_records import InputError, Query

QUERIES = [
    Query(query_id=f"q{n}", text=text) for n, text in enumerate(["open a zip file", "sort", "", "list keys"])
]
THINKING = Thinking(samples=2, max_tokens=6, temperature=3.0, top_p=0.99)


@pytest.fixture
def checkpoint(llama, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def saved(checkpoint):
    return Embedder.from_pretrained(checkpoint)


def forwards(embedder):
    """A list that grows with every forward pass of the embedder's backbone."""
    calls, hidden = [], embedder.backbone.hidden

    def counted(*arguments):
        calls.append(len(arguments[0]))
        return hidden(*arguments)

    embedder.backbone.hidden = counted
    return calls


def test_the_same_query_is_thought_about_once(saved, checkpoint, tmp_path):
    saved.decoder.cache = ThoughtCache(tmp_path / "thoughts.sqlite")
    v_q, traces = saved.decode(QUERIES, THINKING)
    assert len(saved.decoder.cache) == 4
    saved.decoder.cache.close()

    other = Embedder.from_pretrained(checkpoint)
    other.decoder.cache = ThoughtCache(tmp_path / "thoughts.sqlite")
    calls = forwards(other)
    again_q, again = other.decode([*QUERIES[::-1], *QUERIES], THINKING)
    assert calls == []
    np.testing.assert_array_equal(again_q[4:], v_q)
    for row, cached in zip(traces, again[4:], strict=True):
        for trace, same in zip(row, cached, strict=True):
            assert trace.token_ids == same.token_ids and trace.finished == same.finished
            assert trace.log_likelihood == same.log_likelihood
            assert torch.equal(trace.vector, same.vector)


def test_fewer_samples_are_cut_from_what_is_known_and_more_are_thought(saved):
    saved.decoder.cache = ThoughtCache(":memory:")
    two = saved.decode(QUERIES, THINKING)[1]
    calls = forwards(saved)
    one = saved.decode(QUERIES, _with(samples=1))[1]
    assert calls == []
    assert [[t.token_ids for t in row] for row in one] == [[row[0].token_ids] for row in two]
    three = saved.decode(QUERIES, _with(samples=3))[1]
    assert calls
    assert [[t.token_ids for t in row[:2]] for row in three] == [[t.token_ids for t in row] for row in two]
    calls.clear()
    saved.decode(QUERIES, _with(samples=3))
    assert calls == []


def _with(**changed):
    return dataclasses.replace(THINKING, **changed)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"temperature": 2.9}, {"top_p": 0.98}, {"max_tokens": 5}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_sampling_never_reuses(saved, changed):
    saved.decoder.cache = ThoughtCache(":memory:")
    saved.decode(QUERIES, THINKING)
    saved.decode(QUERIES, _with(**changed))
    assert len(saved.decoder.cache) == 8


@pytest.mark.parametrize("changed", [{"text": "sort it"}, {"instruction": "how"}])
def test_another_query_never_reuses(saved, changed):
    saved.decoder.cache = ThoughtCache(":memory:")
    saved.decode([QUERIES[1]], THINKING)
    saved.decode([replace(QUERIES[1], **changed)], THINKING)
    assert len(saved.decoder.cache) == 2


def test_the_same_text_under_another_id_is_thought_about_once(saved):
    saved.decoder.cache = ThoughtCache(":memory:")
    first, other = QUERIES[1], replace(QUERIES[1], query_id="q9")
    thoughts = [[t.text for t in saved.think([query], THINKING)] for query in (first, other)]
    assert thoughts[0] == thoughts[1]
    assert len(saved.decoder.cache) == 1
    assert [t.query_id for t in saved.think([other], THINKING)] == ["q9"] * len(thoughts[1])
    # a gate sees the id of the one who asks
    opened = saved.encode_query([first, other], think=THINKING, gate=lambda s: s.query_id == "q9")
    np.testing.assert_allclose(opened[0], saved.encode_query(first), atol=1e-5)
    np.testing.assert_allclose(opened[1], saved.encode_query(first, think=THINKING), atol=1e-6)


def test_another_model_layout_dtype_or_engine_never_reuses(saved, checkpoint, tmp_path):
    cache = ThoughtCache(":memory:")
    with torch.no_grad():
        saved.backbone.control_rows[0, 0] += 1e-3
    saved.save_pretrained(tmp_path / "changed")
    longer = Embedder.from_pretrained(checkpoint, query_length=11)
    half = Embedder.from_pretrained(checkpoint, dtype=torch.bfloat16)
    engine = Embedder.from_pretrained(checkpoint)
    engine.decoder.engine = SaysNothingNew()
    models = [
        Embedder.from_pretrained(checkpoint),
        Embedder.from_pretrained(tmp_path / "changed"),
        longer,
        half,
        engine,
    ]
    for number, model in enumerate(models, start=1):
        model.decoder.cache = cache
        model.decode(QUERIES[:1], THINKING)
        assert len(cache) == number


class SaysNothingNew:
    name = "an engine"

    def write(self, prompts, thinking, *, eos, banned):
        return [[Written((4,), True)] * thinking.samples for _ in prompts]


def test_a_shut_gate_is_not_remembered_and_an_open_one_is_asked_again(saved):
    saved.decoder.cache = ThoughtCache(":memory:")
    saved.encode_query(QUERIES, think=THINKING, gate=lambda s: s.query_id == "q1")
    assert len(saved.decoder.cache) == 1
    everything = saved.encode_query(QUERIES, think=THINKING)
    some = saved.encode_query(QUERIES, think=THINKING, gate=lambda s: s.query_id == "q1")
    np.testing.assert_allclose(some[1], everything[1], atol=1e-6)
    np.testing.assert_allclose(some[[0, 2, 3]], saved.encode_query(QUERIES)[[0, 2, 3]], atol=1e-5)


def test_a_model_that_was_not_saved_has_no_name_to_file_under(llama):
    llama.decoder.cache = ThoughtCache(":memory:")
    with pytest.raises(InputError, match="save this model and load it first"):
        llama.decode(QUERIES, THINKING)


def test_a_damaged_cache_is_refused(saved, tmp_path):
    path = tmp_path / "thoughts.sqlite"
    saved.decoder.cache = ThoughtCache(path)
    saved.decode(QUERIES, THINKING)
    ids = saved.decode(QUERIES[:1], THINKING)[1][0][0].vector.numpy().tobytes()
    saved.decoder.cache.close()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(ids, ids[:-1] + bytes([ids[-1] ^ 1])))
    saved.decoder.cache = ThoughtCache(path)
    with pytest.raises(InputError, match="an entry is damaged; remove the file"):
        saved.decode(QUERIES, THINKING)
    path.write_bytes(b"this is no database, it is a text of some length" * 9)
    with pytest.raises(InputError, match="not a database"):
        ThoughtCache(path)
