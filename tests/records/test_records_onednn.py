"""The faster way for linear layers: instructions decide where it is taken, and it computes the same."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.extra

SEEN = """
import torch
from o1_records.kit.onednn import fast_linear, is_faster
layer, rows = torch.nn.Linear(8, 4), torch.ones(4, 8)
with torch.inference_mode(), torch.profiler.profile() as profile, fast_linear():
    layer(rows)
used = "mkldnn::_linear_pointwise" in {event.name for event in profile.events()}
print(torch.backends.cpu.get_cpu_capability(), is_faster(), used)
"""


@pytest.mark.parametrize("most", ["avx2", ""])
def test_the_instructions_decide_which_way_is_taken(most):
    """ATEN_CPU_CAPABILITY makes PyTorch see a lesser processor."""
    environment = {**os.environ, **({"ATEN_CPU_CAPABILITY": most} if most else {})}
    command = [sys.executable, "-c", SEEN]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    capability, faster, used = done.stdout.split()
    assert capability == "AVX2" or not most
    assert faster == used == str(capability == "AVX512")


def test_it_computes_the_same_where_it_is_taken():
    import torch

    from o1_records.kit.onednn import _OneDnn

    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(64, 32), torch.randn(7, 64)
    with torch.inference_mode():
        plain = layer(rows)
        with _OneDnn():  # also on a processor where MKL is the faster
            assert torch.allclose(layer(rows), plain, atol=1e-5)
