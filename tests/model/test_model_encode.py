"""A row's vector depends on nothing but the row (F17): not on its batch nor on the padding."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from o1_model import Embedder
from o1_model.backbone import Backbone
from o1_model.batch import collate
from o1_model.encoding.encode import Reader
from o1_model.encoding.pooling import READ_OUTS, normalise
from o1_model.layout import Layout, document_row, query_row
from o1_records.kit.onednn import fast_linear

# lengths 0, 1, most and more than most
LENGTHS = [0, 1, 2, 7, 12, 40, 192, 300]


def _rows(layout):
    texts = [[4 + n % 20 for n in range(length)] for length in LENGTHS]
    thoughts = [None, [], [5], [6] * 12, [7] * 30]
    queries = [query_row(layout, text, thought) for text in texts[:5] for thought in thoughts]
    return [*queries, *(document_row(layout, text) for text in texts)]


@torch.inference_mode()
def _plainly(embedder, row, left):
    """One row, padded by 3, with a mask, from the backbone's own pass."""
    longer = document_row(embedder.layout, [4] * len(row.ids))
    batch = collate([row, longer], 0, left=left)
    states = embedder.backbone.encode(batch, embedder.layout)
    return normalise(READ_OUTS[embedder.layout.readout](states, batch.mask, batch.last))[0].numpy()


def test_every_row_has_the_vector_it_has_alone_whatever_its_batch(embedder):
    rows = _rows(embedder.layout)
    for left in (False, True):
        alone = np.stack([_plainly(embedder, row, left) for row in rows])
        for batch_tokens in (1, 100, 10_000):
            vectors = Reader(embedder.backbone, embedder.layout, 0, batch_tokens).read(rows)
            assert np.min(np.sum(vectors * alone, axis=1)) >= 1 - 1e-6


def test_bfloat16_stays_close_whatever_the_batch(plain_models, tmp_path):
    Embedder.from_backbone(plain_models["llama"], query_length=12).save_pretrained(tmp_path)
    model = Embedder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    rows = _rows(model.layout)
    together, alone = (Reader(model.backbone, model.layout, 0, tokens).read(rows) for tokens in (10_000, 1))
    assert together.dtype == np.float32
    assert np.min(np.sum(together * alone, axis=1)) >= 0.9995


@given(order=st.permutations(range(11)))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_rows_is_the_order_of_vectors(llama, order):
    rows = _rows(llama.layout)[::3][:11]
    vectors = Reader(llama.backbone, llama.layout, 0).read(rows)
    shuffled = Reader(llama.backbone, llama.layout, 0).read([rows[n] for n in order])
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-6)


def test_short_rows_are_not_padded_to_a_long_one(llama):
    rows = [document_row(llama.layout, [4] * length) for length in [3, 4, 5, 6] * 4 + [150]]
    rows = [document_row(llama.layout, [4 + n, *row.ids]) for n, row in enumerate(rows)]  # all different
    shapes = []
    hook = llama.backbone.lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    Reader(llama.backbone, llama.layout, 0).read(rows)
    hook.remove()
    assert sum(shapes) <= 1.25 * sum(len(row.ids) for row in rows)
    assert len(shapes) <= 4


def test_equal_rows_are_read_once(llama):
    widths = []
    llama.backbone.lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    vectors = llama.encode_document(["open a zip file", "sort", "open a zip file"])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert widths == [(2, 7)]


def test_an_empty_text_has_a_vector_of_its_own(embedder):
    empty, blank, word = embedder.encode_document(["", "  ", "zip"])
    np.testing.assert_array_equal(empty, blank)
    assert abs(np.linalg.norm(empty) - 1) < 1e-6
    assert float(empty @ word) < 1 - 1e-4


def test_no_rows_give_no_vectors(llama):
    assert llama.encode_document([]).shape == (0, 32)


def test_the_batch_is_halved_where_memory_runs_out(llama):
    """Real memory would have to be exhausted for this; a forward that refuses large batches stands for it."""
    rows, sizes = _rows(llama.layout), []

    def refuse(module, args, kwargs):
        size = kwargs["input_ids"].shape[0]
        if size > 2:
            raise torch.OutOfMemoryError
        sizes.append(size)

    expected = Reader(llama.backbone, llama.layout, 0).read(rows)
    llama.backbone.lm.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    vectors = Reader(llama.backbone, llama.layout, 0).read(rows)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert max(sizes) == 2


@pytest.mark.parametrize("shape", [(3, 5, 16), (1, 16), (0, 16), (2, 0, 16)])
def test_fast_linear_layers_compute_the_same(shape):
    layer, bare = torch.nn.Linear(16, 8), torch.nn.Linear(16, 8, bias=False)
    x = torch.randn(shape)
    with torch.inference_mode(), fast_linear():
        fast = layer(x), bare(x)
    torch.testing.assert_close(fast, (layer(x), bare(x)), atol=1e-6, rtol=1e-6)


def test_fast_linear_layers_are_used_exactly_where_there_is_avx512(llama):
    with torch.profiler.profile() as profile:
        llama.encode_document(["open a zip file"])
    used = {event.name for event in profile.events()}
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert ("mkldnn::_linear_pointwise" in used) == fast
    assert ("aten::linear" in used) != fast


@pytest.mark.parametrize("frozen", [True, False])
def test_fast_linear_layers_have_the_same_gradients(frozen):
    gradients = []
    for context in (nullcontext, fast_linear):
        torch.manual_seed(0)
        layer = torch.nn.Linear(16, 8).requires_grad_(not frozen)
        x = torch.randn(3, 5, 16, requires_grad=True)
        with context():
            layer(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_fast_linear_layers_leave_other_dtypes_and_autocast_alone():
    layer, x = torch.nn.Linear(16, 8), torch.randn(5, 16)
    with fast_linear(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with fast_linear():
        assert layer.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
def test_windows_and_eager_attention_see_what_they_see_alone(kind):
    """Attention that looks back 8 tokens, in rows of up to 30; Gemma 2 computes it without SDPA."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=50,
        **sizes,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=8,
        initializer_range=0.2,
    )
    backbone = Backbone(AutoModelForCausalLM.from_config(config), ()).eval()
    layout = Layout(name="instruct", eos=1, emb=1)
    rows = [document_row(layout, [4 + (n * 7) % 40 for n in range(length)]) for length in (0, 3, 12, 29)]
    vectors = Reader(backbone, layout, 0).read(rows)
    with torch.inference_mode():
        for row, vector in zip(rows, vectors, strict=True):
            states = backbone.lm.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state
            assert float(normalise(states[:, -1])[0] @ torch.from_numpy(vector)) >= 1 - 1e-6
