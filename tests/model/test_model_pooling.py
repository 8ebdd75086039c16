"""Pooling of ragged batches equals a loop over rows, forward and backward, and padding never counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_model.encoding.pooling import (
    READ_OUTS,
    normalise,
    pool_last,
    pool_mean,
    pool_samples,
    pool_span,
    pool_token,
    pool_weighted,
)

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=6)


def _rows(lengths, dim=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(length, dim, generator=generator, dtype=torch.float64).to(dtype) for length in lengths
    ]


def _packed(rows):
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return torch.cat(rows), offsets


def _mean(row):
    return row.mean(dim=0) if len(row) else row.new_zeros(row.shape[1])


def _weighted(row):
    weights = torch.arange(1, len(row) + 1, dtype=row.dtype)
    return (row * weights[:, None]).sum(dim=0) / max(1, int(weights.sum()))


# each pooling, and what it makes of a single row
POOLS = {
    "mean": (pool_mean, _mean),
    "samples": (pool_samples, _mean),
    "weighted": (pool_weighted, _weighted),
    "last": (pool_last, lambda row: _mean(row[-1:])),
    "token": (
        lambda hidden, offsets, **how: pool_token(hidden, offsets, torch.full_like(offsets[1:], 2), **how),
        lambda row: _mean(row[2:3]),
    ),
    "span": (
        lambda hidden, offsets, **how: pool_span(
            hidden, offsets, torch.ones_like(offsets[1:]), torch.full_like(offsets[1:], 4), **how
        ),
        lambda row: _mean(row[1:4]),
    ),
}
every_pool = pytest.mark.parametrize("name", POOLS)


@every_pool
@given(lengths=LENGTHS, seed=st.integers(0, 99), dim=st.sampled_from([1, 3, 5, None]), unit=st.booleans())
@settings(max_examples=30)
def test_a_ragged_batch_gives_what_each_row_gives_alone(name, lengths, seed, dim, unit):
    pool, alone = POOLS[name]
    rows = _rows(lengths, seed=seed)
    expected = torch.stack([alone(row)[:dim] for row in rows])
    if unit:
        expected = torch.nn.functional.normalize(expected, dim=1)
    torch.testing.assert_close(pool(*_packed(rows), dim=dim, unit=unit), expected, atol=1e-12, rtol=1e-9)


@every_pool
@given(lengths=LENGTHS, order=st.randoms())
@settings(max_examples=15)
def test_the_order_of_rows_is_the_order_of_vectors(name, lengths, order):
    rows = _rows(lengths)
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    pool = POOLS[name][0]
    torch.testing.assert_close(pool(*_packed([rows[n] for n in shuffled])), pool(*_packed(rows))[shuffled])


@every_pool
@pytest.mark.parametrize("unit", [False, True])
def test_gradients_are_those_of_finite_differences(name, unit):
    hidden, offsets = _packed(_rows([3, 0, 5, 1]))
    pool = POOLS[name][0]
    assert torch.autograd.gradcheck(
        lambda x: pool(x, offsets, unit=unit, dim=4), hidden.requires_grad_(), atol=1e-8
    )


@every_pool
def test_rows_without_a_token_are_zero_and_take_no_gradient(name):
    hidden, offsets = _packed([torch.ones(0, 4), torch.zeros(5, 4), torch.ones(0, 4)])
    vectors = POOLS[name][0](hidden.requires_grad_(), offsets)
    vectors.sum().backward()
    assert vectors.shape == (3, 4)
    assert not vectors.any()
    assert hidden.grad is not None
    assert not hidden.grad.any()


@every_pool
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(name, dtype):
    # 4,096 tokens of 1 + 1/128: sums of bfloat16 would stop growing at 256
    hidden = torch.full((4096, 3), 1 + 1 / 128, dtype=dtype)
    vectors = POOLS[name][0](hidden, torch.tensor([0, 4096]), unit=False)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, torch.full((1, 3), 1 + 1 / 128))


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), extra=st.integers(0, 3), left=st.booleans()
)
@settings(max_examples=30)
def test_padding_side_and_width_change_nothing(lengths, extra, left):
    rows = _rows(lengths)
    width = max(lengths) + extra
    hidden = torch.full((len(rows), width, 5), 7.0, dtype=torch.float64)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        start = width - len(row) if left else 0
        hidden[number, start : start + len(row)] = row
        mask[number, start : start + len(row)] = 1
    last = torch.tensor(lengths) - 1
    packed = _packed(rows)
    torch.testing.assert_close(normalise(READ_OUTS["mean"](hidden, mask, last)), pool_mean(*packed))
    torch.testing.assert_close(normalise(READ_OUTS["token"](hidden, mask, last)), pool_last(*packed))


def test_a_span_beyond_its_row_is_cut_to_it():
    hidden, offsets = _packed(_rows([2, 3]))
    start, stop = torch.tensor([-5, 1]), torch.tensor([1, 99])
    expected = torch.stack([hidden[0], hidden[3:5].mean(dim=0)])
    torch.testing.assert_close(pool_span(hidden, offsets, start, stop, unit=False), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(bad):
    hidden, offsets = _packed([torch.ones(2, 3), torch.tensor([[1.0, bad, 1.0]])])
    vectors = pool_mean(hidden, offsets)
    assert vectors[0].isfinite().all()
    assert not vectors[1].isfinite().all()
