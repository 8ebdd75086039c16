"""What runs on a GPU equals what runs on the CPU. These fail, not skip, without a GPU (nox -s gpu)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from o1_model import Embedder

pytestmark = pytest.mark.gpu
TEXTS = ["how do i open a zip file", "sort", "", "close file " * 30]


@pytest.fixture(scope="module")
def comparison():
    place = Path(__file__).with_name("interpreted_kernels.py")
    spec = importlib.util.spec_from_file_location("interpreted_kernels", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-6), ("bfloat16", 2**-8), ("float16", 2**-11)])
@pytest.mark.parametrize("lengths", [[0, 1, 70, 3, 0, 200], [9000], [3] * 700])
def test_kernels_equal_float64_on_a_gpu(comparison, dtype, rounding, lengths):
    for what in ("mean", "weighted", "span"):
        for unit in (True, False):
            for dim in (5, 130, 1000):
                found = comparison.errors(dtype, what, unit, dim, "cuda", lengths, width=1000)
                assert found["vectors"] <= 1e-5, (what, unit, dim, found)
                assert found["gradients"] <= rounding, (what, unit, dim, found)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1 - 1e-5), (torch.bfloat16, 0.9995)])
@pytest.mark.parametrize("attention", ["causal", "prefix"])
@pytest.mark.parametrize("readout", ["token", "mean"])
def test_vectors_on_a_gpu_are_those_of_the_cpu(plain_models, tmp_path, dtype, least, attention, readout):
    Embedder.from_backbone(
        plain_models["llama"], attention=attention, readout=readout, query_length=12, thought_length=12
    ).save_pretrained(tmp_path)
    here = Embedder.from_pretrained(tmp_path, device="cpu")
    there = Embedder.from_pretrained(tmp_path, device="cuda", dtype=dtype)
    for ours, theirs in (
        (here.encode_document(TEXTS), there.encode_document(TEXTS)),
        (here.encode_query(TEXTS), there.encode_query(TEXTS)),
        (
            here.encode_query(TEXTS, thoughts=[["read bytes"]] * 4),
            there.encode_query(TEXTS, thoughts=[["read bytes"]] * 4),
        ),
    ):
        assert np.min(np.sum(ours * theirs, axis=1)) >= least
