"""Thinking: on the live cache, in any batch, with any memory, and by other engines."""

import http.server
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM

from o1_model import Embedder, Thinking
from o1_model.backbone import Backbone
from o1_model.encoding.encode import within_memory
from o1_model.layout import prompt_row, query_row, text_ids
from o1_model.thinking.decode import TRIES, blocks, filled, nucleus
from o1_model.thinking.engines import VLLM, CompletionServer, Written, refuse_not_causal
from o1_model.thinking.settings import HOTTEST
from o1_records import InputError, MissingExtraError, Query

TEXTS = [
    "how do i open a zip file",
    "sort",
    "",
    "read the keys of a list in bytes < emb >",
    "close file " * 9,
]
QUERIES = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(TEXTS)]
THINKING = Thinking(samples=3, max_tokens=10, temperature=3.0, top_p=0.99)


@pytest.fixture
def reference(plain_models):
    return Embedder.from_backbone(plain_models["llama"], name="reference", query_length=12, thought_length=12)


@pytest.fixture
def sliding(llama):
    """A Mistral that sees the last 8 tokens only: its cache drops what is older."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(llama.tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=64, sliding_window=8, initializer_range=0.2,
    )  # fmt: skip
    lm = MistralForCausalLM(config)
    return Embedder(Backbone(lm, llama.layout.control_ids), llama.layout, llama.tokenizer)


def check_against_full_encoding(embedder):
    v_q, traces = embedder.decode(QUERIES, THINKING)
    np.testing.assert_allclose(v_q, embedder.encode_query(TEXTS), atol=1e-5)
    ids = text_ids(embedder.tokenizer, TEXTS)
    ends = set()
    for text, row in zip(ids, traces, strict=True):
        for trace in row:
            whole = embedder.read([query_row(embedder.layout, text, list(trace.token_ids))])[0]
            assert float(whole @ trace.vector.numpy()) >= 1 - 1e-5
            assert len(trace.token_ids) == THINKING.max_tokens or trace.finished
            ends.add(trace.finished)
    # both ways to end were seen, so both were compared
    assert ends == {True, False}


def test_vectors_read_from_the_live_cache_equal_a_full_encoding(embedder):
    check_against_full_encoding(embedder)


def test_so_they_do_where_v_q_has_a_row_of_its_own(reference):
    check_against_full_encoding(reference)


def test_so_they_do_where_the_cache_forgets(sliding):
    check_against_full_encoding(sliding)


def test_embedding_after_thinking_costs_two_token_forwards_a_thought(embedder):
    prompts, tokens, chosen = [], [], []
    encode, hidden, logits = embedder.backbone.encode, embedder.backbone.hidden, embedder.backbone.logits

    def counted_encode(batch, *rest):
        prompts.append(len(batch.mask))
        return encode(batch, *rest)

    def counted_hidden(input_ids, *rest):
        tokens.append(input_ids.shape)
        return hidden(input_ids, *rest)

    def counted_logits(states):
        chosen.append(len(states))
        return logits(states)

    embedder.backbone.encode, embedder.backbone.hidden = counted_encode, counted_hidden
    embedder.backbone.logits = counted_logits
    traces = [trace for row in embedder.decode(QUERIES, THINKING)[1] for trace in row]
    assert prompts == [len(QUERIES)], "one prefill a prompt, for all its samples"
    assert all(columns == 1 for _, columns in tokens[1:])
    assert sum(rows for rows, _ in tokens[1:]) == sum(len(trace.token_ids) + 2 for trace in traces)
    # the first token of all samples comes from one row of logits, and what is certain costs none
    assert sum(chosen) == len(QUERIES) + sum(len(t.token_ids) + t.finished - 1 for t in traces)
    assert len({len(trace.token_ids) for trace in traces}) > 1, "rows left the batch at different times"


def test_a_querys_thoughts_do_not_depend_on_its_batch(embedder):
    together = embedder.decode(QUERIES, THINKING)[1]
    for query, row in zip(QUERIES, together, strict=True):
        alone = embedder.decode([query], THINKING)[1][0]
        assert [t.token_ids for t in alone] == [t.token_ids for t in row]
        first = embedder.decode([query], replace(THINKING, samples=1))[1][0]
        assert first[0].token_ids == row[0].token_ids


def test_equal_queries_are_thought_about_once(llama):
    encode, rows = llama.backbone.encode, []

    def counted(batch, *rest):
        rows.append(len(batch.mask))
        return encode(batch, *rest)

    llama.backbone.encode = counted
    vectors = llama.encode_query(["sort", "open", "sort", "sort"], think=THINKING)
    assert rows == [2]
    np.testing.assert_array_equal(vectors[[0, 0]], vectors[[2, 3]])


def test_samples_differ_and_seeds_repeat(llama):
    first, again = (llama.decode(QUERIES, THINKING)[1] for _ in range(2))
    ids = [[t.token_ids for t in row] for row in first]
    assert ids == [[t.token_ids for t in row] for row in again]
    assert any(len(set(row)) > 1 for row in ids)
    other = llama.decode(QUERIES, replace(THINKING, seed=1))[1]
    assert ids != [[t.token_ids for t in row] for row in other]


def test_control_and_special_tokens_are_never_chosen(llama):
    # hot enough that every id would come up
    traces = llama.decode(QUERIES, Thinking(samples=20, max_tokens=12, temperature=50.0, top_p=1.0))[1]
    chosen = {token for row in traces for trace in row for token in trace.token_ids}
    banned = {*llama.layout.control_ids, *llama.tokenizer.all_special_ids}
    assert chosen.isdisjoint(banned)
    assert len(chosen) > 15


@torch.no_grad()
def test_the_likelihood_is_the_models_own_of_the_whole_thought(llama):
    ids = text_ids(llama.tokenizer, TEXTS)
    banned = sorted({*llama.decoder.suppress, *llama.layout.control_ids})
    for text, row in zip(ids, llama.decode(QUERIES, THINKING)[1], strict=True):
        for trace in row:
            whole = query_row(llama.layout, text, list(trace.token_ids))
            count = len(trace.token_ids) + trace.finished
            start = len(whole.ids) - len(trace.token_ids) - 3
            logits = llama.backbone.lm(input_ids=torch.tensor([whole.ids])).logits[0]
            logits[:, banned] = -torch.inf
            logits[start, llama.layout.eos] = -torch.inf
            chances = logits.log_softmax(dim=-1)
            own = sum(float(chances[start + n, whole.ids[start + n + 1]]) for n in range(count))
            assert trace.log_likelihood == pytest.approx(own, abs=1e-3)


def test_a_thought_never_outgrows_the_layout(llama):
    traces = llama.decode(QUERIES[:1], Thinking(samples=2, max_tokens=500, temperature=3.0))[1]
    assert max(len(trace.token_ids) for trace in traces[0]) <= llama.layout.thought_length


def test_a_shut_gate_leaves_v_q_and_an_open_one_changes_nothing(embedder):
    everything = embedder.encode_query(QUERIES, think=THINKING)
    v_q = embedder.encode_query(QUERIES)
    mixed = embedder.encode_query(QUERIES, think=THINKING, gate=lambda s: s.query_id in ("q1", "q3"))
    np.testing.assert_allclose(mixed[[1, 3]], everything[[1, 3]], atol=1e-5)
    np.testing.assert_allclose(mixed[[0, 2, 4]], v_q[[0, 2, 4]], atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0},
        {"max_tokens": 0},
        {"top_p": 0.0},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"temperature": 1e308},
        {"temperature": float("nan")},
    ],
)
def test_thinking_that_cannot_be_sampled_is_refused(wrong):
    with pytest.raises(InputError, match=f"cannot think: {next(iter(wrong))} must be .*, got "):
        Thinking(**wrong)


@pytest.mark.parametrize("temperature", [0.0, 1e-9, 1e-6, HOTTEST])
def test_from_the_coldest_to_the_hottest_a_thought_comes_out(llama, temperature):
    thinking = Thinking(samples=1, max_tokens=4, temperature=temperature)
    ((trace,),) = llama.decode(["open a zip file"], thinking)[1]
    assert trace.token_ids or trace.finished


def allocate_more_than_there_is():
    torch.empty(2**60, dtype=torch.uint8)


def test_where_memory_runs_out_the_budget_is_halved_and_nothing_changes(llama):
    expected = [[t.token_ids for t in row] for row in llama.decode(QUERIES, THINKING)[1]]
    encode, sizes = llama.backbone.encode, []

    def with_little_memory(batch, *rest):
        sizes.append(len(batch.mask))
        if len(batch.mask) > 2:
            allocate_more_than_there_is()
        return encode(batch, *rest)

    llama.backbone.encode = with_little_memory
    found = [[t.token_ids for t in row] for row in llama.decode(QUERIES, THINKING)[1]]
    assert found == expected
    assert sizes[0] == 5
    assert sum(size for size in sizes if size <= 2) == 5, "what fitted is not run again"
    sizes.clear()
    llama.decode(QUERIES, THINKING)
    assert max(sizes) <= 2, "the next call starts with the budget that fitted"


def test_a_query_that_does_not_fit_alone_and_other_errors_are_raised(llama):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(*_):
        raise RuntimeError("shapes do not match")

    llama.backbone.encode = out_of_memory
    with pytest.raises(torch.OutOfMemoryError):
        llama.decode(QUERIES, THINKING)
    llama.backbone.encode = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        llama.decode(QUERIES, THINKING)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200), st.integers(50, 400))
def test_every_index_is_run_once_whatever_fits(lengths, tokens, room):
    done = []

    def run(group):
        if len(group) > 1 and max(lengths[index] for index in group) * len(group) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(group)

    within_memory(lengths, tokens, run)
    assert sorted(done) == list(range(len(lengths)))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_kept_rows_stay_where_they_are_and_the_last_fill_the_gaps(kept):
    rows = torch.tensor(kept).nonzero()[:, 0]
    order = filled(rows)
    assert sorted(order.tolist()) == rows.tolist()
    stays = [row for row in rows.tolist() if row < len(rows)]
    assert all(order[row] == row for row in stays)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.05, 1.0))
def test_nucleus_sampling_stays_inside_the_smallest_likely_set(seed, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(16, 40, generator=generator) * 3
    logits[:, 7] = -torch.inf
    chosen = nucleus(logits, torch.rand(16, TRIES, generator=generator), top_p)
    for row, token in enumerate(chosen.tolist()):
        probabilities = logits[row].softmax(0)
        above = probabilities[probabilities > probabilities[token]].sum()
        assert float(above) < top_p + 1e-6
        assert token != 7


@pytest.mark.parametrize("top_p", [0.9, 0.4, 1.0])
def test_nucleus_sampling_follows_the_distribution(top_p):
    shares = torch.tensor([0.05, 0.5, 0.15, 0.3])
    kept = {0.9: [0, 1, 1, 1], 0.4: [0, 1, 0, 0], 1.0: [1, 1, 1, 1]}[top_p]
    draws = torch.rand(100_000, TRIES, generator=torch.Generator().manual_seed(0))
    chosen = nucleus(shares.log().expand(100_000, 4), draws, top_p)
    expected = shares * torch.tensor(kept)
    found = torch.bincount(chosen, minlength=4) / 100_000
    torch.testing.assert_close(found, expected / expected.sum(), atol=6e-3, rtol=0)


def test_the_last_draw_is_inside_the_nucleus():
    # every draw but the last falls on the unlikely token
    draws = torch.full((1, TRIES), 0.99)
    logits = torch.log(torch.tensor([[0.5, 0.4, 0.1]]))
    assert nucleus(logits, draws, 0.6).tolist() == [1]


def test_the_rows_of_a_large_vocabulary_are_drawn_a_few_at_a_time():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 2**17, generator=generator) * 3
    draws = torch.rand(9, TRIES, generator=generator)
    parts = [nucleus(*part, 0.9) for part in blocks(logits, draws)]
    assert [len(part) for part in parts] == [4, 4, 1]
    assert torch.equal(torch.cat(parts), nucleus(logits, draws, 0.9))


class SameAgain:
    """An engine that says what it is told to."""

    name = "again"

    def __init__(self, prompts, traces):
        self.said = {row.ids: own for row, own in zip(prompts, traces, strict=True)}

    def write(self, prompts, thinking, *, eos, banned):
        self.banned = banned
        return [[Written(trace.token_ids, trace.finished) for trace in self.said[ids]] for ids in prompts]


def test_thoughts_of_another_engine_are_read_out_here(embedder):
    v_q, traces = embedder.decode(QUERIES, THINKING)
    prompts = [prompt_row(embedder.layout, ids) for ids in text_ids(embedder.tokenizer, TEXTS)]
    embedder.decoder.engine = engine = SameAgain(prompts, traces)
    again_q, again = embedder.decode(QUERIES, THINKING)
    np.testing.assert_allclose(again_q, v_q, atol=1e-5)
    for row, others in zip(traces, again, strict=True):
        for own, other in zip(row, others, strict=True):
            assert (own.token_ids, own.finished) == (other.token_ids, other.finished)
            torch.testing.assert_close(own.vector, other.vector, atol=1e-5, rtol=0)
    assert set(embedder.layout.control_ids) <= set(engine.banned)
    assert embedder.think(QUERIES, THINKING)[0].source.model.endswith(" in again")


class Completions(http.server.BaseHTTPRequestHandler):
    """Answers with the prompt's length, the seed and EOS as token ids; another model is unknown."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(asked)
        known = asked["model"] != "another"
        token_ids = [len(asked["prompt"]), asked["seed"], *asked["stop_token_ids"]]
        choice = {"text": "?"} if asked["model"] == "no ids" else {"text": "?", "token_ids": token_ids}
        body = json.dumps({"choices": [choice]} if known else {"error": "no such model"}).encode()
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    running.asked = []
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_server_gets_token_ids_and_every_sample_its_own_seed(server):
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    engine = CompletionServer(url, "mine")
    written = engine.write([[5, 6], [7]], Thinking(samples=2), eos=3, banned=[90])
    assert [[each.token_ids[0] for each in row] for row in written] == [[2, 2], [1, 1]]
    assert all(each.finished and 3 not in each.token_ids for row in written for each in row)
    assert len({each.token_ids[1] for row in written for each in row}) == 4
    assert all(asked["logit_bias"] == {"90": -100.0} for asked in server.asked)
    alone = engine.write([[7]], Thinking(samples=2), eos=3, banned=[90])
    assert alone == written[1:], "a query's seeds do not depend on the others"


def test_a_server_that_cannot_do_it_is_named(server):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    ask = {"thinking": Thinking(samples=1), "eos": 3, "banned": []}
    with pytest.raises(InputError, match=r"404 .*no such model"):
        CompletionServer(url, "another").write([[5]], **ask)
    with pytest.raises(InputError, match="no token_ids; let `o1-synth think`"):
        CompletionServer(url, "no ids").write([[5]], **ask)
    with pytest.raises(InputError, match="is this the address of an OpenAI-compatible server"):
        CompletionServer("http://127.0.0.1:9/v1", "mine").write([[5]], **ask)


def test_vllm_is_refused_what_it_would_run_differently(plain_models, tmp_path):
    Embedder.from_backbone(plain_models["bert"]).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="runs 'bert' as an encoder"):
        VLLM(tmp_path / "bert")
    Embedder.from_backbone(plain_models["llama"], attention="prefix").save_pretrained(tmp_path / "prefix")
    with pytest.raises(InputError, match="reads prompts causally"):
        VLLM(tmp_path / "prefix")
    Embedder.from_backbone(plain_models["llama"]).save_pretrained(tmp_path / "llama")
    refuse_not_causal(tmp_path / "llama")


def test_without_vllm_the_extra_is_named(plain_models, tmp_path):
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError:
        Embedder.from_backbone(plain_models["llama"]).save_pretrained(tmp_path / "llama")
        with pytest.raises(MissingExtraError, match=r"o1-model\[vllm\]"):
            VLLM(tmp_path / "llama")
    else:
        pytest.skip("vLLM is installed")


def test_in_bfloat16_the_live_cache_is_within_rounding_of_a_full_encoding(embedder, tmp_path):
    embedder.save_pretrained(tmp_path)
    half = Embedder.from_pretrained(tmp_path, dtype=torch.bfloat16, device="cpu")
    ids = text_ids(half.tokenizer, TEXTS)
    for text, row in zip(ids, half.decode(QUERIES, THINKING)[1], strict=True):
        for trace in row:
            whole = half.read([query_row(half.layout, text, list(trace.token_ids))])[0]
            assert float(whole @ trace.vector.numpy()) >= 0.9995


@pytest.mark.gpu
def test_on_a_gpu_the_live_cache_equals_a_full_encoding(embedder, tmp_path):
    embedder.save_pretrained(tmp_path)
    check_against_full_encoding(Embedder.from_pretrained(tmp_path, device="cuda"))


@pytest.mark.gpu
def test_on_a_gpu_memory_that_runs_out_halves_the_budget(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    model = Embedder.from_pretrained(tmp_path, device="cuda")
    encode = model.backbone.encode

    def with_little_memory(batch, *rest):
        if len(batch.mask) > 2:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return encode(batch, *rest)

    expected = model.decode(QUERIES, THINKING)[0]
    model.backbone.encode = with_little_memory
    np.testing.assert_allclose(model.decode(QUERIES, THINKING)[0], expected, atol=1e-5)
