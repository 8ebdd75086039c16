"""The Triton kernels, run on the CPU by Triton's interpreter, equal float64 in plain torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.extra
# what rounding to the dtype of `hidden` leaves of a gradient; vectors are float32 always
# (the interpreter cuts bfloat16 where a GPU rounds it)
ROUNDING = {"float32": 1e-6, "bfloat16": 2**-7, "float16": 2**-11}


@pytest.fixture(scope="module")
def results():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interpreted_kernels.py")],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("dtype", ROUNDING)
def test_kernels_equal_float64(results, dtype):
    own = [result for result in results if result["case"][0] == dtype]
    assert len(own) == 18
    for result in own:
        assert result["vectors"] <= 1e-6, result
        assert result["gradients"] <= ROUNDING[dtype], result


@pytest.mark.parametrize("name", ["_sum_spans", "_finish", "_unfinish", "_spread"])
def test_kernels_compile_for_a_gpu_that_is_not_here(name):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from o1_model.encoding import kernels

    constants = {"WEIGHTED": True, "UNIT": True, "TOKENS": kernels.TOKENS, "COLUMNS": kernels.COLUMNS}
    types = dict.fromkeys(("hidden", "grad_hidden"), "*bf16") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("offsets", "begin", "end"), "*i64")
    types |= dict.fromkeys(("stride", "dim", "width", "splits"), "i32")
    kernel = getattr(kernels, name)
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names}
    own = {argument: value for argument, value in constants.items() if argument in signature}
    compiled = triton.compile(ASTSource(kernel, signature, own), target=GPUTarget("cuda", 90, 32))
    assert "st.global" in compiled.asm["ptx"]
