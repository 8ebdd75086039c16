"""float32 linear layers through oneDNN on CPUs with AVX-512.

PyTorch gives float32 matrix products to MKL, which uses AVX2 on processors that are not Intel's. oneDNN
looks at the instructions and not at the maker: on an EPYC of the Zen 5 generation 2.2 times the speed, and
the vectors of MiniLM differ by at most 3e-7.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def speed_up(model: nn.Module) -> bool:
    """Send the float32 linear layers of a model on a CPU through oneDNN, where that is the faster way.

    Says whether it did. The rule asks for instructions and takes no time, so that a machine always gets
    the same answer and finds the vectors that it has cached.
    """
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and _is_slow(layer.weight)]
    for layer in layers:
        layer.__class__ = _Linear
    return bool(layers)


class _Linear(nn.Linear):
    """What torch.compile emits for a frozen linear layer; unlike there, the weight stays as it is."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear has
        if torch.is_grad_enabled() or not (_is_slow(input) and _is_slow(self.weight)):
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


def _is_slow(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"
