"""Compares the Triton kernels with float64 in plain torch; prints one JSON line a case.

Run by test_model_kernels.py in a process with TRITON_INTERPRET=1, which Triton reads when it is imported,
and by test_model_gpu.py on a GPU.
"""

import itertools
import json
import sys

import torch

from o1_model.encoding import kernels, pooling

# empty, one token, shorter than a tile, across tiles, long enough for several splits of a row
LENGTHS = [0, 1, 70, 3, 0, 200]
CASES = list(
    itertools.product(
        ["float32", "bfloat16", "float16"], ["mean", "weighted", "span"], [True, False], [5, 130, 200]
    )
)


def errors(dtype, what, unit, dim, device="cpu", lengths=LENGTHS, width=200):
    """Largest differences of vectors and of gradients from the float64 reference."""
    generator = torch.Generator().manual_seed(len(what) + dim)
    size = torch.tensor(lengths)
    offsets = torch.cat([size.new_zeros(1), size.cumsum(0)])
    hidden = torch.randn(int(size.sum()), width, generator=generator).to(getattr(torch, dtype))
    gradient = torch.randn(len(lengths), dim, generator=generator)
    begin, end = offsets[:-1], offsets[1:]
    if what == "span":
        begin, end = begin + size // 3, end - size // 4
    how = {"weighted": what == "weighted", "unit": unit, "dim": dim}
    ours = hidden.to(device, copy=True).requires_grad_()
    spans = [tensor.to(device) for tensor in (offsets, begin, end)]
    vectors = kernels.pool_spans(ours, *spans, **how)
    vectors.backward(gradient.to(device))
    exact = hidden.double().requires_grad_()
    expected = pooling.pool_spans(exact, offsets, begin, end, **how)
    expected.backward(gradient.double())
    apart = (ours.grad.cpu().double() - exact.grad).abs()
    # as a share of the gradient's own size: half precision rounds it when it is stored
    return {
        "vectors": float((vectors.detach().cpu() - expected).abs().max()),
        "gradients": float(apart.max() / exact.grad.abs().max()),
    }


if __name__ == "__main__":
    for case in CASES:
        sys.stdout.write(json.dumps({"case": case, **errors(*case)}) + "\n")
